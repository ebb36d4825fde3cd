"""The documentation: links resolve, files, settings and commands it names exist, lengths hold."""

import ast
import re
from pathlib import Path

import pytest

from frepo_scale import config
from frepo_scale.main import parser

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "tests/golden/README.md"],
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# Files that a run writes or a user brings.
NOT_OURS = {"config.gin", "operative_config.gin"}
FOLDERS = ["", "frepo_scale", "launch", "gin", "docs"]  # where a file named in the text may be

LINK = re.compile(r"\]\(([^()\s]+)\)")
FILE = re.compile(r"(?<![\w./~*<>=-])([\w./-]+\.(?:py|sh|gin|md|sbatch|yaml|toml|svg))(?![\w*])")
EXAMPLE = re.compile(r"Save it as\s`(\w+\.py)`")  # a file of the user, whose text follows
IN_FOLDER = re.compile(r"`([\w./-]+)/`")
CITATION = re.compile(r"\b(DESIGN|ALGORITHM|STACK)\.md")
SECTIONS = re.compile(r"docs/algorithm\.md,? sections? (\d+)(?:(?: to | and |, )(\d+))?")
CITING = {".py", ".sh", ".md", ".gin", ".yaml", ".toml", ".sbatch"}
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
ENVIRONMENT = ("FREPO_", "GLIBC_", "JAX_", "OPENBLAS_")  # begin variables of the environment
SETTING = re.compile(r"--gin\.([A-Z][A-Z_]+)|`([A-Z][A-Z_]*[A-Z])=")
COMMAND = re.compile(r"frepo-scale ([a-z]+)")


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(text):
    """The anchors GitHub gives to the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(page, text):
    """Links of a page, with its text, whose file or heading does not exist."""
    broken = []
    for link in LINK.findall(text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        known = target.exists()
        if known and anchor:
            known = anchor in anchors(text if not path else target.read_text(encoding="utf-8"))
        if not known:
            broken.append(link)
    return broken


def missing_files(page, text):
    """Files named in the text of a page that do not exist.

    A name may also be that of an example on the page, or of a file in a folder that its paragraph
    names: "one line in `registry.py`" after "the module into `frepo_scale/models/`".
    """
    examples = set(EXAMPLE.findall(text))
    without_links = LINK.sub("]", re.sub(r"https?://\S+", "", text))
    missing = set()
    for paragraph in re.split(r"\n\s*\n", without_links):
        folders = [ROOT / name for name in [*FOLDERS, *IN_FOLDER.findall(paragraph)]]
        named = set(FILE.findall(paragraph)) - NOT_OURS - examples
        missing |= {
            name
            for name in named
            if not name.startswith(("/", "runs/"))
            and not any((folder / name).exists() for folder in [(ROOT / page).parent, *folders])
        }
    return sorted(missing)


def unknown_settings(text):
    """Settings named in a text that do not exist."""
    known = config.settings().keys() | {"NAME"}  # a placeholder, as in --gin.NAME=VALUE
    named = {a or b for a, b in SETTING.findall(text)}
    return sorted(name for name in named - known if not name.startswith(ENVIRONMENT))


def sources():
    """Every text file of the repository, by its path from the root."""
    folders = (".ci", "benchmarks", "docs", "examples", "frepo_scale", "gin", "launch", "tests")
    inside = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    for path in (*ROOT.glob("*"), *ROOT.glob(".*.yaml"), *inside):
        if path.suffix in CITING or path == ROOT / ".ci/run":
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", NAMES)
def test_links_resolve(page):
    assert broken_links(page, text_of(page)) == []


@pytest.mark.parametrize("page", NAMES)
def test_files_exist(page):
    assert missing_files(page, text_of(page)) == []


@pytest.mark.parametrize("page", NAMES)
def test_tests_exist(page):
    for path, name in TEST.findall(text_of(page)):
        assert re.search(rf"^def {name}", text_of(path), re.MULTILINE), f"{path}::{name}"


@pytest.mark.parametrize("page", [name for name in NAMES if name != "CHANGELOG.md"])
def test_settings_exist(page):
    assert unknown_settings(text_of(page)) == []


@pytest.mark.parametrize("page", [name for name in NAMES if name != "CHANGELOG.md"])
def test_commands_exist(page):
    known = set(re.findall(r"^    ([a-z]+) ", parser().format_help(), re.MULTILINE))
    assert set(COMMAND.findall(text_of(page))) <= known


def test_what_is_not_in_the_repository_is_not_cited():
    assert [name for name, text in sources() if CITATION.search(text)] == []


def test_cited_sections_of_the_algorithm_exist():
    known = set(re.findall(r"^## (\d+)\. ", text_of("docs/algorithm.md"), re.MULTILINE))
    cited = [(name, found) for name, text in sources() for found in SECTIONS.findall(text)]
    assert len(cited) > 10
    assert [(name, found) for name, found in cited if not set(found) - {""} <= known] == []


@pytest.mark.parametrize("page", NAMES)
def test_python_blocks_are_python(page):
    for block in re.findall(r"^```python\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize(("page", "most"), [("README.md", 150), ("BUILD_NOTES.md", 120)])
def test_entry_pages_are_short(page, most):
    assert text_of(page).count("\n") <= most


def test_every_dependency_has_its_reason():
    project = text_of("pyproject.toml")
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)[1]
    names = set(re.findall(r'^  "([\w-]+)', listed, re.MULTILINE)) - {"tensorflow"}
    assert len(names) > 10
    table = text_of("BUILD_NOTES.md")
    assert [name for name in names if not re.search(rf"^\| {name} .*\| \w", table, re.M)] == []


def test_every_benchmark_is_in_the_build_notes():
    names = {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")}
    assert len(names) > 10
    assert names <= set(FILE.findall(text_of("BUILD_NOTES.md")))


def test_every_decision_is_in_the_index():
    folder = ROOT / "docs/decisions"
    records = {path.name for path in folder.glob("[0-9]*.md")}
    assert len(records) > 10
    assert (
        set(LINK.findall(text_of("docs/decisions/README.md"))) - {"../measurements.md"} == records
    )


def test_the_checks_themselves():
    assert broken_links("README.md", "[a](docs/none.md)") == ["docs/none.md"]
    assert broken_links("README.md", "[a](LICENSE#x) [b](docs/glossary.md#none)") != []
    assert broken_links("README.md", "[a](docs/glossary.md#glossary) [b](LICENSE)") == []
    assert missing_files("README.md", "`launch/none.sh`, `ops/none.py` and local.sh") == [
        "launch/none.sh",
        "ops/none.py",
    ]
    page = "docs/how-to/net.md"
    assert missing_files(page, "`frepo_scale/models/` and `registry.py`, `none.py`") == ["none.py"]
    assert missing_files(page, "`frepo_scale/models/`\n\n`registry.py`") == ["registry.py"]
    assert missing_files(page, "Save it as `mine.py`:\n\n`mine.py`, `yours.py`") == ["yours.py"]
    assert unknown_settings("--gin.NONE=1 and `STEPS=1`, `ALSO_NONE=2`") == ["ALSO_NONE", "NONE"]
    assert CITATION.search("see " + "DESIGN" + ".md section 2")
    assert {"frepo_scale/main.py", "launch/test.sh", "README.md", "pyproject.toml"} <= dict(
        sources()
    ).keys()
