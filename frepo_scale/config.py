"""Recipes: finding, checking and reading gin files. With `main` the only module that knows gin.

gin itself accepts typos in unused macros, wrong types and repeated bindings. The checks here refuse
each of them with one line that says how to correct it.
"""

import ast
import contextlib
import importlib.util  # noqa: F401  gin 0.5 uses importlib.util without importing it
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

import gin

from frepo_scale.core.errors import InputError, nearest
from frepo_scale.core.settings import Declared, by_macro, class_name, declared_settings
from frepo_scale.core.text import read_text
from frepo_scale.core.versions import made_by_newer, version
from frepo_scale.data.sources import spec_for
from frepo_scale.distill.registry import ALGORITHMS
from frepo_scale.gin_files import Scan, error_lines
from frepo_scale.jobs.foreign import check_no_code
from frepo_scale.jobs.settings import Recipe, RunConfig
from frepo_scale.jobs.workdirs import MAKER_LINE, NAME_LINE, is_own, recipe_text

RECIPES = Path(__file__).resolve().parent / "recipes"  # a link to gin/, a copy once installed

# The names that recipes bind. The classes know nothing of gin.
_PARTS: dict[str, type] = {part.name: cast(type, part.type) for part in fields(RunConfig)}
_BOUND = {class_name(cls): cls for cls in (*_PARTS.values(), RunConfig)}
for _name, _cls in _BOUND.items():
    gin.external_configurable(_cls, name=_name, module="frepo_scale")

# Names of earlier versions. Recipes with them are refused; in a `config.gin` that a run has
# written they are read as the new ones.
RENAMED = {"POOL": "POOL_SIZE", "FLIP": "REGRESSION_FLIP", "DATA": "DATA_SOURCE"}
_RENAMED_VALUES = {("DATA", "synthetic"): "noise"}


def settings() -> dict[str, Declared]:
    """Every public setting by its macro."""
    return by_macro(_BOUND)


def settings_table() -> str:
    """Every public setting with its default and its meaning, by part."""
    lines = []
    for part, cls in _PARTS.items():
        found = [one for one in declared_settings(cls) if one.setting.macro]
        if found:
            lines += ["", f"{part}:"]
        for one in found:
            default = "must be set" if one.default is MISSING else repr(one.default)
            name = one.setting.macro + ("*" if one.operational else "")
            lines.append(f"  {name:23} {default:12} {one.setting.help}")
    note = (
        "Settings marked with * change the result of a run by rounding at most; they may differ"
        " when it resumes.\nThose of `pretrain` are used by `frepo-scale pretrain` only."
    )
    return "\n".join([*lines, "", note]).lstrip()


def _base() -> str:
    """The gin text that gives every setting its default and binds it to its field."""
    lines = []
    for cls in _PARTS.values():
        for declared in declared_settings(cls):
            if not declared.setting.macro:
                continue
            if declared.default is not MISSING:
                lines.append(f"{declared.setting.macro} = {declared.default!r}")
            lines.append(f"{declared.binding} = %{declared.setting.macro}")
    lines += [f"Run.{part} = @{class_name(cls)}()" for part, cls in _PARTS.items()]
    return "\n".join(lines) + "\n"


def check_binding(key: str, where: str = "") -> None:
    """Raises InputError unless `key` is `Class.field` of something recipes can bind."""
    known = [f"{name}.{f.name}" for name, cls in _BOUND.items() for f in fields(cls)]
    if key.removeprefix("frepo_scale.") not in known:
        raise InputError(
            f"{where}{key}: unknown binding", "a binding the program has", nearest(key, known)
        )


def find_recipe(name: str) -> Path:
    """A recipe as given, else under gin/; with or without `.gin`.

    Raises:
      InputError: there is no such recipe; names the nearest ones.
    """
    for candidate in (Path(name), RECIPES / name, Path(f"{name}.gin"), RECIPES / f"{name}.gin"):
        if os.path.isfile(candidate):  # unlike Path.is_file() it raises no error for any text
            return candidate
    expected = f"a gin file, or the name of one under {RECIPES}"
    if os.path.isdir(name):
        fix = f"to resume a run, give its recipe again, with --workdir {name}"
        raise InputError(f"recipe {name!r} is a folder", expected, fix)
    known = [p.name for p in RECIPES.glob("*.gin")]
    raise InputError(f"recipe {name!r} does not exist", expected, nearest(name, known))


def parse_value(text: str) -> Any:
    """The value of `--gin.NAME=text`: a Python literal where it is one, else the text itself."""
    simple = bool | int | float | str | list | tuple | dict | None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd text such as 1if, which then is text
            value = ast.literal_eval(text)
            ast.literal_eval(repr(value))  # not so 1e999, which gin could not read back: text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, simple) else text


def load_recipe(path: Path, overrides: Mapping[str, str]) -> Recipe:
    """Reads a recipe file with `--gin.` overrides applied.

    Raises:
      InputError: anything in it is wrong, naming file, line and name.
    """
    text = ""
    with contextlib.suppress(InputError):  # which the scan raises again, for its included files too
        text = read_text(path)
    if text.startswith(NAME_LINE):  # a config.gin that a run has written
        return load_text(path.stem, text, overrides)
    scan = Scan(check_binding, RECIPES)
    text = scan.file(path, [path.parent, RECIPES])
    known = settings()
    for macro, where in scan.macros.items():
        if macro not in known and macro not in scan.used:
            if macro in RENAMED:
                raise _renamed(f"{where}: ", macro)
            raise InputError(
                f"{where}: {macro} is set but nothing uses it",
                "a known name",
                nearest(macro, known),
            )
    return _build(path.stem, overrides, scan, text)


def load_text(name: str, text: str, overrides: Mapping[str, str]) -> Recipe:
    """Like `load_recipe` from the text of a `config.gin` that a run or an export holds.

    Names of earlier versions in it are read as the new ones.

    Raises:
      InputError: anything in it is wrong, or it names a class to import that `overrides` do not.
    """
    recipe = _recipe_of(name, text, overrides)
    check_no_code(name, recipe.config, overrides)
    return recipe


def _recipe_of(name: str, text: str, overrides: Mapping[str, str]) -> Recipe:
    for old, new in RENAMED.items():
        if re.search(rf"^{new} *=", text, re.M):  # of this version: an old name is the user's own
            continue
        for (macro, before), after in _RENAMED_VALUES.items():
            if macro == old:
                text = re.sub(rf"^{old} *= *'{before}'", f"{new} = '{after}'", text, flags=re.M)
        text = re.sub(rf"^{old}( *=)", rf"{new}\1", text, flags=re.M)
        text = re.sub(rf"%{old}\b", f"%{new}", text)
    _check_maker(name, text)
    scan = Scan(check_binding, RECIPES)
    scan.text(text, name)
    return _build(name, overrides, scan, text)


def recipe_of_set(target: Path, dataset: str | None, overrides: Mapping[str, str]) -> Recipe:
    """The recipe by which a distilled set is evaluated.

    Args:
      target: a workdir, an export or a set of another program.
      dataset: the data set that it was made from; None: the recipe in `target` names it.
      overrides: settings by name.

    Raises:
      InputError: there is no recipe, or anything in it is wrong.
    """
    if dataset is None or is_own(target):
        name, text = recipe_text(target)
        named = {} if dataset is None else {"DATASET": dataset}
        if (given := overrides.get("DATASET", dataset)) is not None:
            line = f"DATASET = {parse_value(given)!r}"
            if line not in text.splitlines():  # then DATA_DIR is the path of another data set
                named["DATA_DIR"] = "None"
        return load_text(name, text, named | {**overrides})
    spec_for(dataset)
    found = list(RECIPES.glob(f"{dataset}_ipc*.gin"))
    if found:  # that with the fewest images per class
        return load_recipe(min(found, key=lambda path: (len(path.stem), path.stem)), overrides)
    return load_text(dataset, f"DATASET = {dataset!r}\nIPC = 1\n", overrides)


def changed(recipe: Recipe, overrides: Mapping[str, str]) -> Recipe:
    """The recipe with some settings changed; values as after `--gin.NAME=`."""
    return _recipe_of(recipe.name, recipe.text, overrides)  # its classes were allowed before


def _check_maker(name: str, text: str) -> None:
    """Raises InputError for a text of a newer version that this one cannot read."""
    found = re.search(rf"^{MAKER_LINE}(\S+)$", text, re.M)
    if found is None or not made_by_newer(found[1]):
        return
    try:
        scan = Scan(check_binding, RECIPES)
        scan.text(text, name)
        _build(name, {}, scan, text)
    except InputError as error:
        raise InputError(
            f"{name} was made by frepo-scale {found[1]}, and this is {version()}: {error.what}",
            error.expected,
            f"install frepo-scale {found[1]} or a later version",
        ) from error


def _renamed(where: str, macro: str) -> InputError:
    return InputError(f"{where}{macro} is now {RENAMED[macro]}", f"the name {RENAMED[macro]}")


def _advice(line: str) -> str:
    """What to write instead of a reference that gin does not know."""
    unknown = re.search(r"No configurable matching reference '@(\w+)", line)
    if unknown is None:
        return ""
    if (algorithm := unknown[1].lower()) in ALGORITHMS:
        return f"write ALGORITHM = {algorithm!r} instead of the line with this reference"
    return nearest(unknown[1], _BOUND)


def _build(name: str, overrides: Mapping[str, str], scan: Scan, text: str) -> Recipe:
    known, bindings = settings(), []
    for key, given in overrides.items():
        if "." in key:
            check_binding(key, "--gin.")
        elif key not in known and key not in scan.macros:
            if key in RENAMED:
                raise _renamed("--gin.", key)
            raise InputError(
                f"--gin.{key}: no recipe knows {key}", "a known name", nearest(key, known)
            )
        bindings.append(f"{key} = {parse_value(given)!r}")
    required = {macro: name for macro, one in known.items() if one.default is MISSING}
    have_default = known.keys() - required.keys()
    unset = (required | scan.used).keys() - scan.macros.keys() - overrides.keys() - have_default
    for macro in sorted(unset):
        raise InputError(
            f"{scan.used.get(macro, name)}: {macro} is used but not set",
            f"a line {macro} = ... in the recipe",
            nearest(macro, scan.macros) if scan.macros else "",
        )
    gin.clear_config()
    try:
        gin.parse_config([_base(), text, *bindings])
        config = gin.get_configurable("Run")()
    except InputError as error:
        # gin appends its chain of calls to the message; the user needs only the first line.
        raise InputError(f"{name}: {error.what}", error.expected, error.fix) from None
    except RecursionError as error:
        raise InputError(f"{name}: a name that refers to itself", "a value for each") from error
    except (SyntaxError, ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        line = error_lines(error)[0]
        raise InputError(f"{name}: {line}", "a recipe gin can read", _advice(line)) from error
    operative = gin.operative_config_str()
    for key in overrides:
        if "." not in key and not re.search(rf"^{key} =", operative, re.MULTILINE):
            raise InputError(
                f"--gin.{key} changes nothing: {name} binds the field of {key} to another value",
                "a name the recipe uses",
            )
    return Recipe(name, config, gin.config_str(), operative)
