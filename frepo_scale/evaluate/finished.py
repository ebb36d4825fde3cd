"""Accuracies of nets that are finished, stored so that a restart does not train them again."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.paths import read_bytes
from frepo_scale.core.types import DistilledSet
from frepo_scale.parallel.runtime import agree, is_first


class FinishedNets:
    """Measurements by (name, net) in a file that process 0 reads and writes.

    Measurements of other images, labels or settings in the file are not used.
    """

    def __init__(self, path: Path | None, sets: dict[str, DistilledSet], settings: str) -> None:
        """Reads the file if there is one; a damaged file counts as empty.

        Args:
          path: the file; None keeps them in memory only.
          sets: what is evaluated, by name.
          settings: a fingerprint of everything else the measurements depend on.
        """
        self._first = is_first()
        self._path = path if self._first else None
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
            stored = json.loads(read_bytes(self._path))
            if stored["evaluation"] == self._identity:
                self._nets = {
                    str(key): [float(value) for value in values]
                    for key, values in stored["nets"].items()
                }

    def get(self, name: str, net: int) -> tuple[float, ...] | None:
        """The measurements of net number `net` under `name`; None if it is not finished.

        Collective: every process calls it and gets process 0's answer.
        """
        values = self._nets.get(f"{name}/{net}", [])
        count = agree(len(values))  # the others have none
        return tuple(agree(value) for value in values or [0.0] * count) or None

    def once(
        self, name: str, net: int, compute: Callable[[], Sequence[float]]
    ) -> tuple[float, ...]:
        """The stored measurements, or those of `compute`, which are stored. Collective."""
        values = self.get(name, net)
        if values is None:
            values = tuple(compute())
            self.put(name, net, values)
        return values

    def put(self, name: str, net: int, values: Sequence[float]) -> None:
        """Stores the measurements of one more net."""
        if not self._first:
            return
        self._nets[f"{name}/{net}"] = [float(value) for value in values]
        if self._path is None:
            return
        # `frepo-scale status` counts the nets in the file, and so sees that a run makes progress.
        with whole_file(self._path) as file:
            content = {"evaluation": self._identity, "nets": self._nets}
            file.write((json.dumps(content, indent=1) + "\n").encode())
