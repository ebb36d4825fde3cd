"""Checkpoints of the whole state through Orbax, verified when they are read back.

Format of one step: item `state` (every array of the state), item `digests` (two words for each of
them) and item `meta` (JSON: the caller's facts, and path and kind of each array).
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
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # how TensorStore ends


@dataclass(frozen=True)
class Restored:
    """What came back from a checkpoint.

    Attributes:
      step: its step.
      state: the state, with the structure, dtypes and shardings asked for.
      meta: the caller's facts.
      damaged: one line for each newer checkpoint that could not be used.
    """

    step: int
    state: Any
    meta: dict[str, Any]
    damaged: tuple[str, ...]


class _Manager(ocp.CheckpointManager):
    """One that does not ask JAX whether a stop was asked for.

    Orbax asks at every save, and again from a thread when it is committed, with the step. JAX keeps
    the number of the last question only and stops all at the next one: after a signal between such
    a question and our next, which counts looks (`preemption`), that would be a look long past, or
    one of the next days. Orbax makes statistics of the answer.
    """

    def reached_preemption(self, step: int) -> bool:
        """Never."""
        return False


class Checkpointer:
    """Saves asynchronously, keeps the newest two and milestones, restores the newest intact one.

    Orbax refuses arrays without elements: a state must not hold any.
    """

    def __init__(self, directory: Path, keep_every: int = 0) -> None:
        """Opens (and makes) `directory`.

        Args:
          directory: where checkpoints lie.
          keep_every: those of steps that it divides are never removed; 0: none are kept.

        Raises:
          RunError: it cannot be made or read.
        """
        self._directory = directory
        _quieten_failures()
        try:
            # Handlers are named so that the items of a step can be read before any was saved.
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
        return self._manager.latest_step()

    def meta(self, step: int) -> dict[str, Any]:
        """The caller's facts of a step, without reading its arrays."""
        return dict(
            self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
                "meta"
            ]["facts"]
        )

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts saving; returns once the arrays are copied, so that they may be donated.

        Raises:
          RunError: this or an earlier save failed, naming the reason.
        """
        try:
            for newer in self._manager.all_steps():
                # Only damaged ones we stepped back from can be there. Left in place they would
                # count among those kept, at the cost of an intact one.
                if newer >= step:
                    self._manager.delete(newer)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    # Arrays as well: the loop need not wait until they are computed.
                    digests=ocp.args.StandardSave({"words": digest_words(state)}),
                    meta=ocp.args.JsonSave({"facts": facts, "arrays": array_labels(state)}),
                ),
                force=True,
            )
        except Exception as error:
            raise _save_error(step, self._directory, error) from error

    def wait(self) -> None:
        """Returns when everything started is committed; raises RunError if that failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise _save_error(None, self._directory, error) from error

    def restore(self, like: Any) -> Restored | None:
        """The newest intact checkpoint, or None where none was ever committed.

        Args:
          like: a state (arrays or shape structs, with shardings) of the structure to restore.

        Raises:
          RunError: there are checkpoints and none is intact. Nothing is deleted.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        words = np.zeros((len(jax.tree.leaves(like)), 2), np.uint32)  # its shape is what counts
        damaged: list[str] = []
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            # All processes use the same checkpoint, or none of them does. They vote before the
            # next thing they do together: one that fails alone would leave the others in it.
            items, trouble = self._read(step, abstract, words)
            if all_true(items is not None) and items is not None:
                state, facts, expected = items
                found = digests(state)
                wrong = [name for name in found if found[name] != expected.get(name)]
                if all_true(not wrong):
                    return Restored(step, state, facts, tuple(damaged))
                name = wrong[0] if wrong else "an array"
                trouble = f"{name} differs from its digest ({len(wrong)} of {len(found)} arrays)"
            trouble = trouble or "another process cannot read it"
            damaged.append(f"checkpoint {self._directory / str(step)} is damaged: {trouble}")
        if steps:
            raise RunError(
                f"no intact checkpoint in {self._directory}; nothing was deleted: "
                + "; ".join(damaged)
            )
        return None

    def _read(
        self, step: int, abstract: Any, words: np.ndarray
    ) -> tuple[tuple[Any, dict[str, Any], dict[str, str]] | None, str]:
        """State, facts and digests of a step; or nothing, and what is wrong.

        By the items' own handlers: the manager lets all processes wait for each other.
        """
        place = self._directory.absolute() if is_local(self._directory) else self._directory
        place = place / str(step)
        arrays = ocp.StandardCheckpointHandler()
        try:
            state = arrays.restore(place / "state", args=ocp.args.StandardRestore(abstract))
            saved = arrays.restore(
                place / "digests", args=ocp.args.StandardRestore({"words": words})
            )
            meta = ocp.JsonCheckpointHandler().restore(place / "meta", args=ocp.args.JsonRestore())
            expected = labelled(meta["arrays"], np.asarray(saved["words"]))
            return (state, dict(meta["facts"]), expected), ""
        # Orbax reports damage as exceptions of many types; each means the same to us here.
        except Exception as error:
            return None, _brief(error)

    def close(self) -> None:
        """Waits for what was started and releases the manager's threads."""
        self.wait()
        self._manager.close()


def _without_stacks(record: logging.LogRecord) -> bool:
    """Orbax logs a failure with pages of stacks in each thread it passes, and raises it too."""
    return not (record.exc_info and "orbax" in record.pathname)


def _without_unasked(record: logging.LogRecord) -> bool:
    """What fails beside the first failure, which is raised, is reported when it is given up."""
    return "exception was never retrieved" not in record.getMessage()


def _quieten_failures() -> None:
    """What fails in a checkpoint is one line, ours, and not somewhere in hundreds of others.

    Beside what is logged, TensorStore prints each late answer to reads or writes given up, as an
    exception that nobody can catch, from threads of its own.
    """
    if _without_stacks in logging.getLogger("absl").filters:
        return
    logging.getLogger("absl").addFilter(_without_stacks)
    logging.getLogger("asyncio").addFilter(_without_unasked)
    shown = sys.unraisablehook

    def show(uncatchable: "sys.UnraisableHookArgs") -> None:
        if str(uncatchable.exc_value) != "Event loop is closed":
            shown(uncatchable)

    sys.unraisablehook = show


def _save_error(step: int | None, directory: Path, error: Exception) -> RunError:
    what = "a checkpoint" if step is None else f"checkpoint {step}"
    full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
    hint = "free some space and start again" if full else "mend it and start again"
    return RunError(
        f"could not save {what} in {directory}: {_brief(error)}; {hint}, the run resumes"
    )


def _brief(error: Exception) -> str:
    """One line of bounded length: Orbax quotes whole storage specifications.

    TensorStore gives the system's reason last, behind paths of any length.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    code = _OS_ERROR.search(text)
    reason = os.strerror(int(code[1])) if code else ""
    return f"{reason}: {text[:250]}" if reason and reason not in text[:250] else text[:300]
