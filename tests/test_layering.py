"""Imports point down only, heavy packages stay in few modules, modules and functions are short."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "frepo_scale"

# Members of one row must not import each other.
LAYERS = [
    {"core"},
    {"parallel"},
    {"ops"},
    {"data", "models", "regression"},
    {"distill"},
    {"evaluate", "export", "plan"},
    {"train"},
    {"jobs"},
    {"gin_files"},
    {"config", "arguments"},
    {"main", "api"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

ALLOWED = {
    "gin": {"gin_files", "config"},
    "tensorflow": {"ops.tensorboard", "data.sources.tfrecord_files"},
    "torch": {"export.loaded", "export.any_set_files"},
    "pyarrow": {"data.sources.parquet_files"},
}


def imports(tree):
    """Every imported module with its line, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node.module, node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def violations(name, source):
    """What is wrong with the imports of module `name` (dotted, below frepo_scale)."""
    layer = name.split(".")[0]
    found = []
    for module, line in imports(ast.parse(source)):
        top, *rest = module.split(".")
        if top in ALLOWED and name not in ALLOWED[top]:
            found.append(f"{name}:{line} imports {top}")
        if top != "frepo_scale" or not rest or rest[0] == layer:
            continue
        if rest[0] not in RANK:
            continue  # a name of the package itself
        if RANK[rest[0]] >= RANK[layer]:
            found.append(f"{name}:{line} imports {module}, which is not below it")
    return found


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name != "__init__":
            yield name.removesuffix(".__init__"), path.read_text()


def test_every_package_has_a_layer():
    unknown = {name.split(".")[0] for name, _ in modules()} - RANK.keys()
    assert not unknown


def test_imports_point_down():
    found = [line for name, source in modules() for line in violations(name, source)]
    assert not found, "\n".join(found)


def test_the_check_itself():
    assert violations("core.types", "import frepo_scale.ops.metrics")
    assert violations("evaluate.fit", "def f():\n    from frepo_scale.train import loop")
    assert violations("data.x", "from frepo_scale import models")
    assert violations("jobs.run", "import gin")
    assert violations("export.x", "from torch import nn")
    assert not violations("config", "import gin\nfrom frepo_scale.jobs.settings import RunConfig")


def node(name):
    """A sub-package such as data.sources counts as one module."""
    parts = name.split(".")
    return (
        ".".join(parts[:2]) if (PACKAGE / parts[0] / parts[-1]).is_dir() or len(parts) > 2 else name
    )


def at_run_time(source):
    """The syntax tree without what only type checkers import."""
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return tree


def cycle(sources):
    """Modules that import each other in a circle; empty if there are none.

    Args:
      sources: module name (dotted, below frepo_scale) to its text.
    """
    known = {name: node(name) for name in sources}
    graph = {found: set() for found in known.values()}
    for name, source in sources.items():
        for module, _ in imports(at_run_time(source)):
            target = known.get(module.removeprefix("frepo_scale."))
            if target is not None and target != known[name]:
                graph[known[name]].add(target)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_modules_and_sub_packages_do_not_import_each_other_in_a_circle():
    assert cycle(dict(modules())) == []


def test_the_check_of_circles():
    first = {"data.a": "import frepo_scale.data.sources.b", "data.sources.b": ""}
    assert cycle(first) == []
    assert cycle(first | {"data.sources.c": "from frepo_scale.data import a"})
    assert cycle(
        {"core.a": "from frepo_scale.core.b import x", "core.b": "import frepo_scale.core.a"}
    )


def test_gin_folder_is_not_a_package():
    assert not (PACKAGE.parent / "gin" / "__init__.py").exists()


def too_long(name, source):
    """Modules of more than 350 lines and functions of more than 60."""
    found = [name] if source.count("\n") > 350 else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > 60:
                found.append(f"{name}.{node.name}: {lines} lines")
    return found


def test_modules_and_functions_are_short():
    assert not [line for name, source in modules() for line in too_long(name, source)]
    assert too_long("m", "x = 1\n" * 351) == ["m"]
    assert too_long("m", "def f():\n" + "    x = 1\n" * 60) == ["m.f: 61 lines"]
