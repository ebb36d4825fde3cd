"""TensorBoard through clu: scalars, galleries, progress reports and a profile of a few steps.

clu writes event files with TensorFlow, whose import takes every start of a run seconds and half a
gigabyte. On a disk the one clu module that needs it is therefore replaced by a writer on
TensorBoard's own event files; training and resuming never depend on TensorFlow. Those files are
appended to, which an object store cannot: there it is TensorFlow that writes them.
"""

import contextlib
import importlib.util
import logging
import os
import socket
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.paths import is_local

PROFILED_STEPS = 5


class _EventFileSummaries:
    """Stands in for `clu.metric_writers.tf.summary_writer.SummaryWriter`; same methods.

    TensorBoard's own `EventFileWriter` is not used: a thread of its own writes, and prints pages
    where that fails; and it opens the file anew for each write, which a disk may refuse by then.
    """

    def __init__(self, logdir: str) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = Path(logdir)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard goes by the beginning of the name, and reads in the order of names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("xb"))
        self._add(file_version="brain.Event:2")

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        self._records.write(event_pb2.Event(wall_time=time.time(), **event).SerializeToString())
        self.flush()  # whoever watches sees it

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto import summary_pb2

        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=float(value))
            for name, value in scalars.items()
        ]
        self._add(step=step, summary=summary_pb2.Summary(value=values))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        import io

        from PIL import Image
        from tensorboard.compat.proto import summary_pb2

        for name, image in images.items():
            buffer = io.BytesIO()
            Image.fromarray(image[0] if image.ndim == 4 else image).save(buffer, "PNG")
            picture = summary_pb2.Summary.Image(
                height=image.shape[-3],
                width=image.shape[-2],
                colorspace=3,
                encoded_image_string=buffer.getvalue(),
            )
            value = summary_pb2.Summary.Value(tag=name, image=picture)
            self._add(step=step, summary=summary_pb2.Summary(value=[value]))

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed; imports nothing."""
    return importlib.util.find_spec("tensorflow") is not None


def _stand_in_for_tensorflow() -> None:
    """Makes `clu.metric_writers` importable without TensorFlow."""
    package = types.ModuleType("clu.metric_writers.tf")
    package.__path__ = []
    module = types.ModuleType("clu.metric_writers.tf.summary_writer")
    module.SummaryWriter = _EventFileSummaries  # type: ignore[attr-defined]
    # TensorBoard, too, imports TensorFlow where it is installed, unless there is this module.
    for new in (package, module, types.ModuleType("tensorboard.compat.notf")):
        sys.modules.setdefault(new.__name__, new)


class TensorBoardWriter:
    """A `MetricWriter` on clu's summary writer; on a store on its asynchronous one.

    On a disk a row is written in microseconds, and an error is raised where it happens.
    """

    def __init__(self, logdir: Path) -> None:
        """Opens a new event file in `logdir`; without TensorFlow none on an object store."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with_tensorflow = not is_local(logdir) and has_tensorflow()
        if not with_tensorflow:
            _stand_in_for_tensorflow()
        from clu import metric_writers

        if not is_local(logdir) and not with_tensorflow:
            print(
                f"frepo-scale: no event files in {logdir}: they need TensorFlow there; the"
                " numbers are in metrics.jsonl",
                file=sys.stderr,
            )
            self.clu_writer = metric_writers.MultiWriter([])
            return
        self.clu_writer = metric_writers.SummaryWriter(str(logdir))
        if with_tensorflow:
            self.clu_writer = metric_writers.AsyncWriter(self.clu_writer)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records scalars of a step."""
        self.clu_writer.write_scalars(step, scalars)

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Records a (H, W, 3) uint8 image of a step."""
        self.clu_writer.write_images(step, {name: image[None]})

    def flush(self) -> None:
        """Waits until the event file has everything."""
        self.clu_writer.flush()

    def close(self) -> None:
        """Flushes and closes the event file."""
        self.clu_writer.close()


class StepActions:
    """clu's periodic actions of a training loop; call `after_step` after every step."""

    def __init__(
        self, writer: TensorBoardWriter, logdir: Path, start: int, steps: int, profile_at: int
    ) -> None:
        """Progress every minute and, if asked for, one profile of a few steps.

        Args:
          writer: where progress goes.
          logdir: where the profile goes.
          start: the step the loop starts at: profiles are relative to it, or a resumed run would
            never take one.
          steps: the step the loop ends at.
          profile_at: how many steps after `start` the profile begins; 0: there is none.
        """
        from clu import periodic_actions  # importable since the writer is there

        # clu reports every profile and progress note on absl's log, where nobody reads it here.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._progress = periodic_actions.ReportProgress(
            num_train_steps=steps, writer=writer.clu_writer
        )
        self._logdir = str(logdir)
        self._profile: Any = None
        if profile_at:
            self._profile = periodic_actions.Profile(
                logdir=self._logdir,
                num_profile_steps=PROFILED_STEPS,
                profile_duration_ms=None,
                first_profile=start + profile_at,
                every_secs=None,
            )

    def after_step(self, step: int) -> None:
        """Tells every action that `step` steps are done."""
        self._progress(step)
        if self._profile is None:
            return
        try:
            self._profile(step)
        except RuntimeError as error:
            # XLA writes it by itself, and reaches stores in its own way. No run fails for that.
            self._profile = None
            reason = " ".join(str(error).split())[:300]
            print(f"frepo-scale: no profile in {self._logdir} ({reason})", file=sys.stderr)

    def close(self) -> None:
        """Ends a profile the loop ended in the middle of."""
        if self._profile is not None:
            import jax

            with contextlib.suppress(RuntimeError):  # no profile was running
                jax.profiler.stop_trace()
