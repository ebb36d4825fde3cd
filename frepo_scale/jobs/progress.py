"""Has a run advanced? What a later attempt need not do again, read from the files of a workdir."""

import json
from dataclasses import dataclass
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, is_file, is_folder, is_local, read_bytes
from frepo_scale.data.description import FILE, UNFINISHED
from frepo_scale.ops.workdir import PART, Workdir

_COMMITTED = "commit_success.txt"  # Orbax writes it last, on a store


@dataclass(frozen=True)
class Progress:
    """What a later attempt need not do again.

    Attributes:
      saved: the last saved step, of a series the sum over its runs; -1: none.
      nets: networks of the final evaluation that are finished.
      parts: parts of a prepared set that are finished; 0 for a run.
    """

    saved: int = -1
    nets: int = 0
    parts: int = 0

    @classmethod
    def from_token(cls, token: str) -> "Progress":
        """The inverse of `token`; "-" is the start of everything.

        Raises:
          InputError: it is no token.
        """
        try:
            return cls(*map(int, token.split("/"))) if token != "-" else cls()
        except (ValueError, TypeError) as error:
            raise InputError(
                f"--since {token}", "- or a token that this command printed before"
            ) from error

    @property
    def token(self) -> str:
        """One word for the launchers to keep."""
        return f"{self.saved}/{self.nets}/{self.parts}"

    @property
    def words(self) -> str:
        """For people."""
        if self.parts:
            return f"{self.parts} parts finished"
        return "nothing saved" if self.saved < 0 else f"saved step {self.saved}"

    def after(self, before: "Progress") -> tuple["Progress", bool]:
        """The furthest state so far, and whether this one is further than `before`.

        A step that was reached twice counts once. Another number of networks counts: a smaller one
        is of another evaluation, started since. None may mean unknown.
        """
        furthest = Progress(
            max(self.saved, before.saved), self.nets or before.nets, self.parts or before.parts
        )
        return furthest, furthest != before


def read_progress(root: Path) -> Progress:
    """The progress of a run, or of `prepare`; of a path that does not exist: nothing.

    Raises:
      InputError: it cannot be read now.
    """
    try:
        parts = _finished_parts(root)
        if parts:
            return Progress(parts=parts)
        runs = [Workdir(path) for path in (root, *series_parts(root))]
        saved = [step for run in runs if (step := _saved_step(run.checkpoints)) >= 0]
        nets = sum(_finished_nets(run.finished_nets) for run in runs)
        return Progress(sum(saved) if saved else -1, nets)
    except OSError as error:
        raise InputError(
            f"{root} cannot be read ({error.strerror or error})",
            "the workdir of a run that this machine and account may read",
        ) from error


def series_parts(root: Path) -> list[Path]:
    """The workdirs of the runs of a series, in order; empty for a single run."""
    if not is_folder(root):
        return []
    return sorted(path for path in children(root) if path.name.startswith(PART))


def _saved_step(folder: Path) -> int:
    """The newest complete checkpoint; -1: none."""
    if not is_folder(folder):
        return -1
    # Digits only: this excludes a checkpoint that is being written in a local folder. On a store it
    # has its final name from the start.
    found = [path for path in children(folder) if path.name.isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name), reverse=True):
        if is_folder(path) if is_local(path) else is_file(path / _COMMITTED):
            return int(path.name)
    return -1


def _finished_nets(file: Path) -> int:
    if not is_file(file):
        return 0
    try:
        nets = json.loads(read_bytes(file))["nets"]
        return len(nets) if isinstance(nets, dict) else 0
    except (ValueError, KeyError, TypeError):  # damaged: the program begins it again
        return 0


def _finished_parts(root: Path) -> int:
    """Shards, then moments, that `prepare` has finished in this folder."""
    if not is_local(root) or not is_folder(root):
        return 0
    if is_file(root / FILE):
        return sum(path.name.endswith(".array_record") for path in children(root))
    if not is_folder(root / UNFINISHED):
        return 0
    names = [path.name for path in children(root / UNFINISHED) if not path.name.startswith(".")]
    moments = sum(name.startswith("moments-") and name.endswith(".npz") for name in names)
    return moments + sum(name.endswith(".array_record.json") for name in names)
