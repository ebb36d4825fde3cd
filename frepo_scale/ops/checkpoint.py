"""Checkpoints of the whole state through Orbax, verified when they are read back.

Format of one step: item `state` (every array of the state) and item `meta` (JSON: the caller's
facts and a digest per array).
"""

import errno
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from frepo_scale.core.errors import RunError
from frepo_scale.ops.digest import digests

KEPT = 2


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


class Checkpointer:
    """Saves asynchronously, keeps the newest two, restores the newest intact one.

    Orbax refuses arrays without elements: a state must not hold any.
    """

    def __init__(self, directory: Path) -> None:
        """Opens (and makes) `directory`.

        Raises:
          RunError: it cannot be made or read.
        """
        self._directory = directory
        try:
            # Handlers are named so that the items of a step can be read before any was saved.
            self._manager = ocp.CheckpointManager(
                directory.absolute(),
                item_names=("state", "meta"),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "meta": ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=KEPT, cleanup_tmp_directories=True, enable_async_checkpointing=True
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
                    meta=ocp.args.JsonSave({"facts": facts, "digests": digests(state)}),
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
        damaged: list[str] = []
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                items = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
                    ),
                )
                state, meta = items["state"], items["meta"]
                expected = meta["digests"]
                found = digests(state)
                wrong = [name for name in found if found[name] != expected.get(name)]
                facts = dict(meta["facts"])
            # Orbax reports damage as exceptions of many types; each means the same to us here.
            except Exception as error:
                # The reads beside the failed one would report it again later, in pages.
                logging.getLogger("asyncio").setLevel(logging.CRITICAL)
                damaged.append(
                    f"checkpoint {self._directory / str(step)} is damaged: {_brief(error)}"
                )
                continue
            if wrong:
                damaged.append(
                    f"checkpoint {self._directory / str(step)} is damaged: {wrong[0]}"
                    f" differs from its digest ({len(wrong)} of {len(found)} arrays)"
                )
                continue
            return Restored(step, state, facts, tuple(damaged))
        if steps:
            raise RunError(
                f"no intact checkpoint in {self._directory}; nothing was deleted: "
                + "; ".join(damaged)
            )
        return None

    def close(self) -> None:
        """Waits for what was started and releases the manager's threads."""
        self.wait()
        self._manager.close()


def _save_error(step: int | None, directory: Path, error: Exception) -> RunError:
    what = "a checkpoint" if step is None else f"checkpoint {step}"
    full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
    hint = "free some space and start again" if full else "mend it and start again"
    return RunError(
        f"could not save {what} in {directory}: {_brief(error)}; {hint}, the run resumes"
    )


def _brief(error: Exception) -> str:
    """One line of bounded length: Orbax quotes whole storage specifications."""
    return " ".join(str(error).split())[:300] or type(error).__name__
