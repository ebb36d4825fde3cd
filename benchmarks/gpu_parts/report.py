"""The options of the check, and the JSON file with the results of a part.

The file is written whole after every result, so that the results so far remain when a part crashes,
hangs or is killed.
"""

import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """What the whole check was asked for.

    Attributes:
      out: folder of the results.
      scratch: folder for everything else: workdirs, profiles, logs.
      smoke: tiny sizes, to test the check itself on any machine.
      recipe: the recipe of the part "useful"; None: the part's own.
      data_dir: DATA_DIR of that recipe; None: the program's default.
    """

    out: Path
    scratch: Path
    smoke: bool
    recipe: str | None = None
    data_dir: str | None = None


@dataclass
class Report:
    """The results of one part, and the time it has left.

    Attributes:
      path: its JSON file.
      limit: seconds the part may take, from the construction of this object.
      options: of the whole check.
      found: the results so far.
    """

    path: Path
    limit: float
    options: Options
    found: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def put(self, **values: Any) -> None:
        """Adds results and writes the file."""
        self.found |= values
        write_json(self.path, self.found)

    def left(self) -> float:
        """Seconds until the limit; negative after it."""
        return self._started + self.limit - time.monotonic()

    def has(self, seconds: float, what: str) -> bool:
        """Whether `seconds` are left for `what`; otherwise records that it was left out."""
        if self.left() >= seconds:
            return True
        self.put(left_out=[*self.found.get("left_out", []), what])
        return False


def write_json(path: Path, values: Any) -> None:
    """Writes strict JSON atomically; numbers that are not finite become null."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(_strict(values), indent=1, allow_nan=False) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """The results in a file; empty if there is none."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # NumPy and JAX scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
