"""Nets whose final evaluation is done, kept so that a restart does not train them again."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.paths import read_bytes
from frepo_scale.core.types import DistilledSet
from frepo_scale.parallel.runtime import agree, is_first


class FinishedNets:
    """Accuracies by (set, net) of one final evaluation, in a file that process 0 keeps.

    What the file holds of another evaluation (other images, labels or settings) is not used.
    """

    def __init__(self, path: Path | None, sets: dict[str, DistilledSet], settings: str) -> None:
        """Reads what is there; a file that is not whole counts for nothing.

        Args:
          path: the file; None keeps nothing.
          sets: what is evaluated, by name.
          settings: a fingerprint of everything else the accuracies depend on.
        """
        self._path = path if is_first() else None
        digest = hashlib.sha256(settings.encode())
        for name, labelled in sorted(sets.items()):
            digest.update(name.encode())
            for part in labelled:
                digest.update(np.ascontiguousarray(part).data)
        self._identity = digest.hexdigest()
        self._nets: dict[str, list[float]] = {}
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            there = json.loads(read_bytes(self._path))
            if there["evaluation"] == self._identity:
                self._nets = {
                    str(key): [float(top1), float(top5)]
                    for key, (top1, top5) in there["nets"].items()
                }

    def get(self, name: str, net: int) -> tuple[float, float] | None:
        """Top-1 and top-5 accuracy of net number `net` on set `name`, if it is done; collective."""
        found = self._nets.get(f"{name}/{net}", [-1.0, -1.0])
        top1, top5 = (agree(value) for value in found)
        return None if top1 < 0 else (top1, top5)

    def put(self, name: str, net: int, accuracies: tuple[float, float]) -> None:
        """Keeps the accuracies of one more net."""
        if self._path is None:
            return
        self._nets[f"{name}/{net}"] = list(accuracies)
        with whole_file(self._path) as file:
            content = {"evaluation": self._identity, "nets": self._nets}
            file.write((json.dumps(content, indent=1) + "\n").encode())
