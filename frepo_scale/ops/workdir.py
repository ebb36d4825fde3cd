"""The workdir of one run: the paths in it, which run it belongs to, whether it is writable."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import remove_leftovers, whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import differences
from frepo_scale.core.paths import (
    check_checkpoints,
    children,
    is_file,
    is_local,
    read_bytes,
    remove,
    store_errors,
    to_path,
)
from frepo_scale.core.versions import PACKAGE, made_by_newer, version
from frepo_scale.ops.goodput import read_ledger

# Folders and files that may exist before the run's first own file:
KERNELS = "kernels"  # folder of `parallel.determinism`
LOGS = "logs"  # folder of the launch scripts
COMPILED = "compiled"  # folder of compiled programs; `plan --compile` writes there before a run
PART = "part_"  # prefix of the workdirs of the runs of a series
STUCK = "stuck-"  # prefix of the files with the stacks of a process that hung


class Workdir:
    """The paths of a run's files."""

    def __init__(self, root: str | Path) -> None:
        """Builds the paths; creates nothing.

        Args:
          root: the workdir, a local folder or a URL.

        Raises:
          InputError: the URL is not one that a run can use.
        """
        self.root = to_path(root)
        self.config = self.root / "config.gin"
        self.operative_config = self.root / "operative_config.gin"
        self.identity = self.root / "identity.json"
        self.checkpoints = self.root / "checkpoints"
        self.metrics = self.root / "metrics.jsonl"
        self.tensorboard = self.root / "tensorboard"
        self.profile_request = self.root / "profile_now"
        self.gallery = self.root / "gallery"
        self.preprocessing = self.root / "preprocessing.npz"
        self.distilled = self.root / "distilled.npz"
        self.result = self.root / "result.json"
        self.evaluation = self.root / "evaluation.json"
        self.evaluated_nets = self.root / "evaluate_progress.json"
        self.report = self.root / "report.html"
        self.done = self.root / "DONE"
        self.finished_nets = self.root / "evaluation_progress.json"
        self.lock = self.root / "lock.json"
        self.ledger = self.root / "attempts"
        self.compiled = self.root / COMPILED

    @property
    def finished(self) -> bool:
        """Whether the run is complete and its result files exist."""
        return all(is_file(path) for path in (self.done, self.result, self.distilled))

    def open(
        self,
        settings: dict[str, Any],
        needed_bytes: int,
        defaults: dict[str, Any] | None = None,
    ) -> None:
        """Creates the folder, or checks that an existing one belongs to the same run.

        Args:
          settings: the run's scientific settings.
          needed_bytes: how much the run will write at least.
          defaults: see `check_identity`.

        Raises:
          InputError: the folder cannot be written, the disk is too small, or the folder contains
            something else or a run with other settings.
        """
        self.check_identity(settings, defaults)
        try:
            if is_local(self.root):
                # Before anything is written, so that a full disk stays unchanged.
                self._check_room(needed_bytes)
                self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-test-{os.getpid()}"
            with store_errors(probe):
                probe.write_bytes(b"x")
            remove(probe)
        except OSError as error:
            raise InputError(
                f"workdir {self.root} cannot be written ({error.strerror or error})",
                "a folder with write permission",
                "choose another folder with --workdir",
            ) from error

    def _check_room(self, needed_bytes: int) -> None:
        existing = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        # The run's own checkpoints do not count against it when it resumes.
        files = (path for path in self.checkpoints.rglob("*") if path.is_file())
        needed_bytes -= sum(path.stat().st_size for path in files)
        if free < needed_bytes:
            raise InputError(
                f"workdir {self.root} has {free // 2**20} MiB free",
                f"at least {_mib(needed_bytes)} MiB for checkpoints and the export",
                f"free {_mib(needed_bytes - free)} MiB more, or choose another folder with"
                " --workdir",
            )

    def check_identity(
        self, settings: dict[str, Any], defaults: dict[str, Any] | None = None
    ) -> None:
        """Checks that the folder can become, or is, that of a run with these settings.

        Args:
          settings: the run's scientific settings.
          defaults: a setting that the run in it does not have counts as its default.

        Raises:
          InputError: it belongs to another run or is no workdir, or cannot hold checkpoints.
        """
        fix = "choose another folder with --workdir"
        check_checkpoints(self.checkpoints)
        try:
            with store_errors(self.root):
                exists = self.root.exists()
                if exists and not self.root.is_dir():
                    raise InputError(
                        f"workdir {self.root} is a file", "a folder or a new path", fix
                    )
            names = [path.name for path in children(self.root)] if exists else []
        except OSError as error:
            raise InputError(
                f"workdir {self.root} cannot be read ({error.strerror or error})",
                "a folder with read permission",
                fix,
            ) from error
        # A run that ended before its first own file leaves only these.
        if all(
            name.startswith((".write-test-", ".partial-", STUCK))
            or name in (self.lock.name, KERNELS, LOGS, COMPILED)
            for name in names
        ):
            return
        if self.identity.name not in names:
            raise InputError(
                f"workdir {self.root} contains files that are not of a run",
                "a run's workdir, an empty folder or a new path",
                fix,
            )
        try:
            recorded = json.loads(read_bytes(self.identity))
            if not isinstance(recorded, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.identity} cannot be read ({error})", "a JSON object", fix
            ) from error
        changed = differences(recorded, settings, defaults)
        if changed:
            maker = self.maker() if recorded.keys() - settings.keys() else ""
            if made_by_newer(maker):
                fix = f"install frepo-scale {maker}, which made it; this is {version()}"
            raise InputError(
                f"workdir {self.root} belongs to another run: " + "; ".join(changed),
                "the same scientific settings",
                fix,
            )

    def maker(self) -> str:
        """The version of frepo-scale that made the last attempt; "" if it is not recorded."""
        attempts = read_ledger(self.ledger).attempts
        return attempts[-1].environment.get(PACKAGE, "") if attempts else ""

    def remove_leftovers(self) -> None:
        """Removes the partial files of killed attempts; the caller must hold the lock.

        The partial files of the lock and of the report stay: another process may be writing them.
        """
        if is_local(self.root):
            for folder in (self.root, self.ledger, self.gallery):
                remove_leftovers(folder, but_of=(self.lock.name, self.report.name))

    def claim(self, settings: dict[str, Any]) -> None:
        """Records the scientific settings of the run that the workdir belongs to."""
        with whole_file(self.identity) as file:
            file.write((json.dumps(settings, indent=1, sort_keys=True) + "\n").encode())


def _mib(size: int) -> int:
    """A number of bytes in MiB, rounded up."""
    return -(-size // 2**20)
