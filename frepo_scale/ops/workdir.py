"""The folder of one run: what lies where, whose it is, and whether it can be written."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import differences


class Workdir:
    """Paths inside a run's folder."""

    def __init__(self, root: str | Path) -> None:
        """Names the folder; makes nothing."""
        self.root = Path(root)
        self.config = self.root / "config.gin"
        self.operative_config = self.root / "operative_config.gin"
        self.identity = self.root / "identity.json"
        self.checkpoints = self.root / "checkpoints"
        self.metrics = self.root / "metrics.jsonl"
        self.tensorboard = self.root / "tensorboard"
        self.gallery = self.root / "gallery"
        self.preprocessing = self.root / "preprocessing.npz"
        self.distilled = self.root / "distilled.npz"
        self.result = self.root / "result.json"
        self.evaluation = self.root / "evaluation.json"
        self.report = self.root / "report.html"

    def open(self, settings: dict[str, Any], needed_bytes: int) -> None:
        """Makes the folder, or checks that the one there is of the same run.

        Args:
          settings: the run's scientific settings.
          needed_bytes: what the run will write at least.

        Raises:
          InputError: it cannot be written, the disk is too small, it holds something else or the
            run of other settings.
        """
        self.check_identity(settings)
        try:
            # Asked before anything is made: a full disk is left as it is.
            existing = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
            free = shutil.disk_usage(existing).free
            if free < needed_bytes:
                raise InputError(
                    f"workdir {self.root} has {free / 2**20:.0f} MiB free",
                    f"at least {needed_bytes / 2**20:.0f} MiB for checkpoints and the export",
                    "free some space or choose another with --workdir",
                )
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-test-{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"workdir {self.root} cannot be written ({error.strerror})",
                "a folder you may write to",
                "choose another with --workdir",
            ) from error

    def check_identity(self, settings: dict[str, Any]) -> None:
        """Raises InputError if the folder there is not of a run with these settings."""
        fix = "choose another with --workdir"
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(self.root)):
            # As a path it would be a folder named like the scheme, here and not there.
            raise InputError(
                f"workdir {self.root} is a URL", "a local folder", "copy it afterwards"
            )
        try:
            if self.root.exists() and not self.root.is_dir():
                raise InputError(f"workdir {self.root} is a file", "a folder", fix)
            names = os.listdir(self.root) if self.root.exists() else []
        except OSError as error:
            raise InputError(
                f"workdir {self.root} cannot be read ({error.strerror})", "a run's folder", fix
            ) from error
        # A kill before the run's first file leaves only a write test behind.
        if all(name.startswith((".write-test-", ".partial-")) for name in names):
            return
        if self.identity.name not in names:
            raise InputError(
                f"workdir {self.root} holds something that is not a run", "a run's folder", fix
            )
        try:
            there = json.loads(self.identity.read_text())
            if not isinstance(there, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError) as error:
            raise InputError(f"{self.identity} cannot be read ({error})", "JSON", fix) from error
        changed = differences(there, settings)
        if changed:
            raise InputError(
                f"workdir {self.root} belongs to another run: " + "; ".join(changed),
                "the same scientific settings",
                fix,
            )

    def claim(self, settings: dict[str, Any]) -> None:
        """Records whose folder this is."""
        temporary = self.root / ".partial-identity"
        temporary.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
        os.replace(temporary, self.identity)
