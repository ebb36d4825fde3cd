"""Programs compiled ahead of time, in a folder of a workdir: data with a description beside each.

A program is code. It is read only from files that nobody else could have written, and only if its
sha256 is that of its description. The description is JSON; nothing here is a pickle.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.paths import children, is_folder, is_local, read_bytes
from frepo_scale.core.versions import version

_DESCRIPTION, _PROGRAM = ".json", ".bin"
_MODE = 0o644  # others may read


class NotUsableError(Exception):
    """A stored program is not used; the text says why."""


class Stored(NamedTuple):
    """A program on disk, as its description says.

    Attributes:
      path: of its data.
      hardware: for which it was compiled, as `plan --on` names it.
      target: what it depends on besides its text, see `parallel.target`.
      text_sha256: of the lowered text that it was compiled from.
      sha256: of its data.
    """

    path: Path
    hardware: str
    target: Mapping[str, str]
    text_sha256: str
    sha256: str

    def check_target(self, target: Mapping[str, str]) -> None:
        """Raises NotUsableError if a program for this target must not run on another."""
        names = [*self.target, *(name for name in target if name not in self.target)]
        for name in names:
            own, here = self.target.get(name, ""), target.get(name, "")
            if own != here:
                raise NotUsableError(
                    f"it is for {name} {own or '(none)'}, and here is {here or '(none)'}"
                )

    def check_text(self, text_sha256: str) -> None:
        """Raises NotUsableError if it was compiled from another text."""
        if self.text_sha256 != text_sha256:
            raise NotUsableError("it is of other settings, other data or another frepo-scale")

    def data(self) -> bytes:
        """The program.

        Raises:
          NotUsableError: it cannot be read, is damaged, or others can write it.
        """
        data = _read_own(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise NotUsableError(
                f"{self.path} is damaged: its sha256 is not that of its description"
            )
        return data


def store_program(
    folder: Path, name: str, hardware: str, target: Mapping[str, str], text_sha256: str, data: bytes
) -> Path:
    """Writes a program and its description; replaces one for the same hardware.

    Args:
      folder: made if it does not exist.
      name: what the program does, such as "outer_step".
      hardware, target, text_sha256: as in `Stored`.
      data: the program.

    Returns:
      The path of its data.

    Raises:
      InputError: the folder cannot be written.
    """
    stem = f"{name}.{hardware.replace(':', '_')}"
    path, description = folder / f"{stem}{_PROGRAM}", folder / f"{stem}{_DESCRIPTION}"
    content = {
        "hardware": hardware,
        "target": dict(target),
        "text_sha256": text_sha256,
        "sha256": hashlib.sha256(data).hexdigest(),
        "made_by": version(),
    }
    # Data first: with an older description they are refused, and compiled again.
    for file_path, part in ((path, data), (description, json.dumps(content, indent=1).encode())):
        with whole_file(file_path) as file:
            if is_local(file_path):
                os.fchmod(file.fileno(), _MODE)  # whatever the umask: `_read_own` checks it
            file.write(part)
    return path


def stored_programs(folder: Path, name: str) -> tuple[list[Stored], list[str]]:
    """The programs of a name in a folder, and why others are refused; both empty without a folder.

    Args:
      folder: the folder, local or in a store.
      name: what the program does.
    """
    if not is_folder(folder):
        return [], []
    found, refused = [], []
    try:
        paths = sorted(children(folder))
    except OSError as error:
        return [], [f"{folder} cannot be read ({error.strerror or error})"]
    for path in paths:
        if path.name.startswith(f"{name}.") and path.name.endswith(_DESCRIPTION):
            try:
                found.append(_described(path))
            except NotUsableError as error:
                refused.append(str(error))
    return found, refused


def _described(path: Path) -> Stored:
    try:
        content: Any = json.loads(_read_own(path))
        target = {str(name): str(text) for name, text in content["target"].items()}
        return Stored(
            path.with_name(path.name.removesuffix(_DESCRIPTION) + _PROGRAM),
            str(content["hardware"]),
            target,
            str(content["text_sha256"]),
            str(content["sha256"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotUsableError(f"{path} is damaged") from error


def _read_own(path: Path) -> bytes:
    """The content of a file that only its owner can write, this user or root.

    Who may write to a bucket is a matter of its permissions; it is not checked here.
    """
    try:
        if not is_local(path):
            return read_bytes(path)
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in (os.geteuid(), 0):
                raise NotUsableError(f"{path} belongs to another user")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise NotUsableError(f"others can write {path}; chmod go-w, if it is yours")
            return file.read()
    except OSError as error:
        raise NotUsableError(f"{path} cannot be read ({error.strerror or error})") from error
