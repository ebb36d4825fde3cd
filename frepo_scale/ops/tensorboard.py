"""TensorBoard through clu: scalars, progress reports and a profile of a few steps.

clu writes event files with TensorFlow, whose import costs every start of a run seconds and half a
gigabyte. On a disk the only clu module that needs TensorFlow is therefore replaced by a writer of
TensorBoard's own event files, and training does not depend on TensorFlow. Those files are appended
to, which object stores cannot do; on them TensorFlow writes the events.
"""

import contextlib
import importlib.util
import io
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

from frepo_scale.core.paths import is_file, is_local, remove

PROFILED_STEPS = 5
_POLL, _POLL_STORE = 1.0, 60.0  # seconds between two polls for the request of a profile


class _EventFileSummaries:
    """Replaces `clu.metric_writers.tf.summary_writer.SummaryWriter`, with the methods used here.

    TensorBoard's `EventFileWriter` is not used: it writes from a thread that prints a traceback
    when a write fails, and it reopens the file for each write, which may fail by then.
    """

    def __init__(self, logdir: str) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = Path(logdir)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard finds event files by this prefix and reads them in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("xb"))
        self._add(file_version="brain.Event:2")

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        self._records.write(event_pb2.Event(wall_time=time.time(), **event).SerializeToString())
        self.flush()  # visible to TensorBoard at once

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto import summary_pb2

        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=float(value))
            for name, value in scalars.items()
        ]
        self._add(step=step, summary=summary_pb2.Summary(value=values))

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto import summary_pb2

        values = []
        for name, (image,) in images.items():
            height, width, channels = image.shape
            png = summary_pb2.Summary.Image(
                height=height, width=width, colorspace=channels, encoded_image_string=_png(image)
            )
            values.append(summary_pb2.Summary.Value(tag=name, image=png))
        self._add(step=step, summary=summary_pb2.Summary(value=values))

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed; imports nothing."""
    return importlib.util.find_spec("tensorflow") is not None


def _stand_in_for_tensorflow() -> None:
    """Makes `clu.metric_writers` importable without importing TensorFlow."""
    package = types.ModuleType("clu.metric_writers.tf")
    package.__path__ = []
    module = types.ModuleType("clu.metric_writers.tf.summary_writer")
    module.SummaryWriter = _EventFileSummaries  # type: ignore[attr-defined]
    # TensorBoard, too, imports TensorFlow if it is installed, unless this module exists.
    for new in (package, module, types.ModuleType("tensorboard.compat.notf")):
        sys.modules.setdefault(new.__name__, new)


class TensorBoardWriter:
    """A `MetricWriter` on clu's summary writer; on an object store, its asynchronous one.

    On a disk a write takes microseconds and raises its own errors.
    """

    def __init__(self, logdir: Path) -> None:
        """Opens a new event file in `logdir`; on an object store only with TensorFlow."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with_tensorflow = not is_local(logdir) and has_tensorflow()
        if not with_tensorflow:
            _stand_in_for_tensorflow()
        from clu import metric_writers

        if not is_local(logdir) and not with_tensorflow:
            print(
                f"frepo-scale: no TensorBoard event files in {logdir}: on an object store they need"
                " TensorFlow. Install tensorflow-cpu, or read the scalars in metrics.jsonl",
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
        """Records an image (H, W, 3 or 4) uint8 of a step."""
        self.clu_writer.write_images(step, {name: image[None]})

    def flush(self) -> None:
        """Waits until everything is in the event file."""
        self.clu_writer.flush()

    def close(self) -> None:
        """Flushes and closes the event file."""
        self.clu_writer.close()


class StepActions:
    """clu's periodic actions of a training loop; call `after_step` after every step."""

    def __init__(
        self,
        writer: TensorBoardWriter,
        logdir: Path,
        request: Path,
        start: int,
        steps: int,
        profile_at: int,
    ) -> None:
        """Reports progress every minute and takes profiles of a few steps.

        Args:
          writer: the writer for progress reports.
          logdir: the folder for the profiles.
          request: the file by which a person asks for a profile of a run under way.
          start: the step at which the loop starts. The profile is relative to it, so that resumed
            runs take one too.
          steps: the step at which the loop ends.
          profile_at: how many steps after `start` the profile begins; 0: no profile.
        """
        from clu import periodic_actions  # importable after the writer's constructor

        # clu also logs every profile and progress report, which would only clutter standard error.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._progress = periodic_actions.ReportProgress(
            num_train_steps=steps, writer=writer.clu_writer
        )
        self._logdir, self._request = str(logdir), request
        self._polled, self._every = time.monotonic(), _POLL if is_local(request) else _POLL_STORE
        self._profile = self._profile_from(start + profile_at) if profile_at else None

    def _profile_from(self, step: int) -> Any:
        from clu import periodic_actions

        return periodic_actions.Profile(
            logdir=self._logdir,
            num_profile_steps=PROFILED_STEPS,
            profile_duration_ms=None,
            first_profile=step,
            every_secs=None,
        )

    def _requested(self) -> bool:
        """Whether a person has asked for a profile; the request is removed."""
        now = time.monotonic()
        if now - self._polled < self._every:
            return False
        self._polled = now
        if not is_file(self._request):
            return False
        remove(self._request)
        return True

    def after_step(self, step: int) -> None:
        """Tells every action that `step` steps are complete."""
        self._progress(step)
        if self._requested():
            self.close()
            self._profile = self._profile_from(step)
        if self._profile is None:
            return
        try:
            self._profile(step)
        except RuntimeError as error:
            # XLA writes the profile, and to object stores in its own way. Its failure ends no run.
            self._profile = None
            reason = " ".join(str(error).split())[:300]
            print(f"frepo-scale: no profile in {self._logdir} ({reason})", file=sys.stderr)

    def close(self) -> None:
        """Ends a profile that is still being taken."""
        if self._profile is not None:
            import jax

            with contextlib.suppress(RuntimeError):  # no profile was running
                jax.profiler.stop_trace()
