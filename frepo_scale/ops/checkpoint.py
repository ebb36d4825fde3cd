"""Checkpoints of the whole state through Orbax, verified when they are restored.

The items of one step: `state` (every array of the state), `digests` (two uint32 words for each
array) and `meta` (JSON: the caller's facts, and path, dtype and shape of each array).
"""

import errno
import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from frepo_scale.core.errors import RunError
from frepo_scale.core.paths import is_local
from frepo_scale.ops.digest import array_labels, digest_words, digests, labelled
from frepo_scale.parallel.runtime import all_true

KEPT = 2
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # at the end of TensorStore's messages


@dataclass(frozen=True)
class Restored:
    """A restored checkpoint.

    Attributes:
      step: its step.
      state: the state, with the requested structure, dtypes and shardings.
      meta: the caller's facts.
      damaged: one line for each newer checkpoint that could not be used.
    """

    step: int
    state: Any
    meta: dict[str, Any]
    damaged: tuple[str, ...]


class _Manager(ocp.CheckpointManager):
    """A CheckpointManager that does not poll JAX's preemption sync point.

    Orbax polls it with the step at every save, and again from a thread when the save is committed.
    JAX stores only the number of the last poll and stops all processes at the next number. Our
    numbers count polls (`preemption`), so after a signal between a poll of Orbax and one of ours
    the agreed number could be long past or far in the future. Orbax uses the answer for statistics
    only.
    """

    def reached_preemption(self, step: int) -> bool:
        """Never."""
        return False


class Checkpointer:
    """Saves asynchronously, keeps the newest two and milestones, restores the newest intact one.

    Orbax does not accept arrays without elements; a state must not contain any.

    Attributes:
      failed: whether a save failed. The failure is raised once only, by the call that finds it.
    """

    def __init__(self, directory: Path, keep_every: int = 0) -> None:
        """Opens `directory` and creates it if necessary.

        Args:
          directory: the folder of the checkpoints, local or on an object store.
          keep_every: checkpoints of steps that are multiples of it are never removed; 0: none.

        Raises:
          RunError: the folder cannot be created or read.
        """
        self._directory, self.failed = directory, False
        _quieten_failures()
        try:
            # Handlers are given here so that items can be read before anything was saved.
            self._manager = _Manager(
                directory.absolute() if is_local(directory) else directory,
                item_names=("state", "digests", "meta"),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "digests": ocp.StandardCheckpointHandler(),
                    "meta": ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=KEPT,
                    keep_period=keep_every or None,
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=True,
                ),
            )
        except OSError as error:
            raise RunError(
                f"cannot open the checkpoints in {directory}: {_brief(error)}"
            ) from error

    def latest(self) -> int | None:
        """The newest committed step, intact or not."""
        # Orbax's own list has a step from the begin of its save on, even if the save fails.
        return max(self._manager.all_steps(read=True), default=None)

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts a save and returns once the arrays are copied, so that they may be donated.

        Args:
          step: the step of the state.
          state: a pytree of arrays, of any sharding.
          facts: what to store with it; JSON.

        Raises:
          RunError: this or an earlier save failed; the message names the reason.
        """
        try:
            for newer in self._manager.all_steps():
                # These can only be damaged ones that `restore` skipped. If they stayed, they would
                # count among those kept, and an intact one would be removed instead.
                if newer >= step:
                    self._manager.delete(newer)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    # As arrays too, so that the loop does not wait until they are computed.
                    digests=ocp.args.StandardSave({"words": digest_words(state)}),
                    meta=ocp.args.JsonSave({"facts": facts, "arrays": array_labels(state)}),
                ),
                force=True,
            )
        except Exception as error:
            raise self._save_error(step, error) from error

    def compile(self, state: Any) -> None:
        """Compiles what a save needs: after a signal to stop there may be seconds for it.

        Args:
          state: a state of the shapes and shardings that will be saved.
        """
        jax.block_until_ready(digest_words(state))

    def is_saving(self) -> bool:
        """Whether a save is under way; raises RunError if the last one failed."""
        if self._manager.is_saving_in_progress():
            return True
        self.wait()
        return False

    def wait(self) -> None:
        """Waits until all saves are committed; raises RunError if one failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._save_error(None, error) from error

    def restore(self, like: Any) -> Restored | None:
        """Restores the newest intact checkpoint; None if none was ever committed.

        Args:
          like: a state with the structure to restore: arrays or shape structs with shardings.

        Raises:
          RunError: there are checkpoints but none is intact. Nothing is deleted.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        words = np.zeros((len(jax.tree.leaves(like)), 2), np.uint32)  # only its shape is used
        damaged: list[str] = []
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            # All processes use the same checkpoint or none does. They agree before the next
            # collective: if one process failed alone, the others would wait in it forever.
            items, reason = self._read(step, abstract, words)
            if all_true(items is not None) and items is not None:
                state, facts, expected = items
                found = digests(state)
                wrong = [name for name in found if found[name] != expected.get(name)]
                if all_true(not wrong):
                    return Restored(step, state, facts, tuple(damaged))
                name = wrong[0] if wrong else "an array"
                reason = f"{name} differs from its digest ({len(wrong)} of {len(found)} arrays)"
            reason = reason or "another process cannot read it"
            damaged.append(f"checkpoint {self._directory / str(step)} is damaged: {reason}")
        if steps:
            raise RunError(
                f"no intact checkpoint in {self._directory}; nothing was deleted: "
                + "; ".join(damaged)
            )
        return None

    def _read(
        self, step: int, abstract: Any, words: np.ndarray
    ) -> tuple[tuple[Any, dict[str, Any], dict[str, str]] | None, str]:
        """State, facts and digests of a step, or None and the reason.

        Uses the items' handlers directly: the manager's `restore` contains a barrier.
        """
        root = self._directory.absolute() if is_local(self._directory) else self._directory
        path = root / str(step)
        arrays = ocp.StandardCheckpointHandler()
        try:
            state = arrays.restore(path / "state", args=ocp.args.StandardRestore(abstract))
            saved = arrays.restore(
                path / "digests", args=ocp.args.StandardRestore({"words": words})
            )
            meta = ocp.JsonCheckpointHandler().restore(path / "meta", args=ocp.args.JsonRestore())
            expected = labelled(meta["arrays"], np.asarray(saved["words"]))
            return (state, dict(meta["facts"]), expected), ""
        # Orbax reports damage as exceptions of many types; all are handled alike.
        except Exception as error:
            return None, _brief(error)

    def close(self) -> None:
        """Waits for all saves and releases the manager's threads; raises RunError if one failed."""
        try:
            self._manager.close()
        # A save has several parts in the background: one may have failed before, another only now.
        except Exception as error:
            raise self._save_error(None, error) from error

    def _save_error(self, step: int | None, error: Exception) -> RunError:
        self.failed = True
        what = "a checkpoint" if step is None else f"checkpoint {step}"
        full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
        hint = "free some disk space" if full else "remove the cause"
        return RunError(
            f"could not save {what} in {self._directory}: {_brief(error)}; {hint} and give the same"
            " command again: the run resumes from its last checkpoint"
        )


def _not_an_orbax_traceback(record: logging.LogRecord) -> bool:
    """Orbax logs a failure with its traceback in every thread it passes, and raises it too."""
    return not (record.exc_info and "orbax" in record.pathname)


def _not_an_unretrieved_exception(record: logging.LogRecord) -> bool:
    """asyncio logs the failures that follow the first one, which is raised."""
    return "exception was never retrieved" not in record.getMessage()


def _quieten_failures() -> None:
    """Reduces the log of a failed save to the one line of our error.

    Besides what is logged, TensorStore's threads print an exception that cannot be caught for each
    answer that arrives after a read or write was abandoned.
    """
    if _not_an_orbax_traceback in logging.getLogger("absl").filters:
        return
    logging.getLogger("absl").addFilter(_not_an_orbax_traceback)
    logging.getLogger("asyncio").addFilter(_not_an_unretrieved_exception)
    default = sys.unraisablehook

    def show(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            default(unraisable)

    sys.unraisablehook = show


def _brief(error: Exception) -> str:
    """One line of at most 300 characters: Orbax quotes whole storage specifications.

    The system's reason comes first; TensorStore gives it last, after paths of any length.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    code = _OS_ERROR.search(text)
    reason = os.strerror(int(code[1])) if code else ""
    return f"{reason}: {text[:250]}" if reason and reason not in text[:250] else text[:300]
