"""The names that gin files set and use, found without binding anything."""

import importlib.util  # noqa: F401  gin 0.5 uses importlib.util without importing it
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import read_text


class _Notes(config_parser.ParserDelegate):
    """Records which macros a file refers to; values are replaced by markers that are not used."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> Any:
        return f"@{scoped_name}"

    def macro(self, scoped_name: str) -> Any:
        self.used.add(scoped_name)
        return f"%{scoped_name}"


class Scan:
    """The names that a recipe and its included files set and use, with file and line of each."""

    def __init__(self, check_binding: Callable[[str, str], None], recipes: Path) -> None:
        """Starts empty.

        Args:
          check_binding: raises InputError unless its first argument can be bound; the second one
            is where it stands.
          recipes: the folder of the recipes of this package.
        """
        self._check_binding, self._recipes = check_binding, recipes
        self.macros: dict[str, str] = {}
        self.used: dict[str, str] = {}
        self._open: list[Path] = []  # the file being read and those that include it

    def file(self, path: Path, searched: Sequence[Path]) -> str:
        """Records a file; returns its text with every include replaced by what it includes."""
        if path in self._open:
            raise InputError(f"recipe {path} includes itself", "includes without a cycle")
        text = read_text(path)
        self._open.append(path)
        expanded = self.text(text, str(path), searched)
        self._open.pop()
        return expanded

    def text(self, text: str, name: str, searched: Sequence[Path] = ()) -> str:
        """Records a text; returns it with its includes expanded."""
        notes = _Notes()
        lines = text.split("\n")  # the lines gin counts; splitlines() knows others too
        seen: dict[str, int] = {}
        try:
            for statement in config_parser.ConfigParser(text, notes):
                if isinstance(statement, config_parser.IncludeStatement):
                    if seen:
                        raise InputError(
                            f"{name}, line {statement.location.line_num}: include after a setting",
                            "includes first: what they set would replace what is above them",
                            "move it to the top",
                        )
                    # Expanded here: gin looks for includes in the current folder first and logs
                    # an error for every folder it does not find them in.
                    included = self.file(self._included(statement, name, searched), searched)
                    lines[statement.location.line_num - 1] = included
                elif isinstance(statement, config_parser.ImportStatement):
                    raise InputError(
                        f"{name}, line {statement.location.line_num}: an import",
                        "bindings and includes only",
                        "a net of your own is named by its dotted path in NET",
                    )
                elif isinstance(statement, config_parser.BindingStatement):
                    self._binding(statement, name, seen)
        except (SyntaxError, tokenize.TokenError) as error:
            # The last line is gin's and names the location; the lines above it are Python's.
            reason = error_lines(error)[-1].strip()
            raise InputError(f"{name}: {reason}", "NAME = value, strings in quotes") from error
        for macro in notes.used:
            self.used.setdefault(macro, name)
        return "\n".join(lines)

    def _binding(
        self, statement: config_parser.BindingStatement, name: str, seen: dict[str, int]
    ) -> None:
        line = statement.location.line_num
        key = statement.selector + (f".{statement.arg_name}" if statement.arg_name else "")
        if statement.scope:
            raise InputError(
                f"{name}, line {line}: {statement.scope}/{key} has a scope",
                "a plain name: scopes are not used here",
                f"write {key}",
            )
        if key in seen:
            raise InputError(
                f"{name}, line {line}: {key} is set again (first in line {seen[key]})",
                "each name once in a file",
                "remove one of the two",
            )
        seen[key] = line
        if statement.arg_name:
            self._check_binding(key, f"{name}, line {line}: ")
        else:
            self.macros.setdefault(key, f"{name}, line {line}")

    def _included(
        self, statement: config_parser.IncludeStatement, name: str, searched: Sequence[Path]
    ) -> Path:
        for folder in searched:
            if (folder / statement.filename).is_file():
                return folder / statement.filename
        raise InputError(
            f"{name}, line {statement.location.line_num}: included file {statement.filename!r}"
            " does not exist",
            "a file beside the recipe or under " + str(self._recipes),
        )


def error_lines(error: Exception) -> list[str]:
    """The lines of an error message; after the first one gin describes its chain of calls."""
    if isinstance(error, tokenize.TokenError):
        what, (line, _) = error.args
        return [f"{what} (line {line})"]
    return str(error).strip().splitlines() or [type(error).__name__]
