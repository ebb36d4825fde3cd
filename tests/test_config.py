"""Recipes and `--gin.` settings: finding, reading and refusing them."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale import config
from frepo_scale.config import find_recipe, load_recipe, load_text, parse_value
from frepo_scale.core.errors import InputError

RECIPES = sorted(path.stem for path in config.RECIPES.glob("*.gin"))
DIGITS = "include 'digits_ipc1.gin'\n"


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe of the user's own and reads it."""

    def read(text, name="mine.gin", **overrides):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_recipe(path, overrides)

    return read


def digits(**overrides):
    return load_recipe(find_recipe("digits_ipc1"), overrides).config


# Finding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine.gin", "mine", "sub/mine.gin", "./mine.gin"])
def test_a_recipe_is_found_as_given(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name if name.endswith(".gin") else tmp_path / f"{name}.gin"
    path.parent.mkdir(exist_ok=True)
    path.write_text(DIGITS)
    assert find_recipe(name).resolve() == path


@pytest.mark.parametrize("name", ["cifar10_ipc1", "cifar10_ipc1.gin"])
def test_a_recipe_is_found_under_gin(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == config.RECIPES / "cifar10_ipc1.gin"


def test_a_recipe_here_goes_before_one_under_gin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10_ipc1.gin").write_text(DIGITS)
    assert find_recipe("cifar10_ipc1.gin").resolve() == tmp_path / "cifar10_ipc1.gin"


@pytest.mark.parametrize("name", ["cifar10_icp1", "CIFAR10_IPC1.GIN", "cifar10-ipc1"])
def test_an_unknown_recipe_gives_the_nearest_names(name):
    with pytest.raises(InputError, match=rf"recipe '{name}' .*did you mean.*cifar10_ipc1"):
        find_recipe(name)


@pytest.mark.parametrize("name", ["", "x" * 5000, "\udcff"])
def test_a_name_that_is_no_recipe_is_refused_whatever_it_is(name):
    with pytest.raises(InputError, match="does not exist"):
        find_recipe(name)


@pytest.mark.parametrize("name", [".", "..", "/", "gin/"])
def test_a_folder_is_no_recipe(name):
    with pytest.raises(InputError, match="is a folder"):
        find_recipe(name)


# Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("3e-4", 3e-4),
        ("True", True),
        ("None", None),
        ("cifar10", "cifar10"),
        ("'cifar10'", "cifar10"),
        ('"cifar10"', "cifar10"),
        ("/data/my images/x.tar", "/data/my images/x.tar"),
        ("'/data/my images'", "/data/my images"),
        ("(1, 2)", (1, 2)),
        ("", ""),
        ("nan", "nan"),
        ("1e999", "1e999"),
        ("[1e999]", "[1e999]"),
        ("{[1]: 2}", "{[1]: 2}"),
        ("1if", "1if"),
        ("b'x'", "b'x'"),
        ("2j", "2j"),
        ("it's", "it's"),
    ],
)
def test_values_need_no_quotes(text, value, recwarn):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)
    assert not recwarn.list


@given(st.one_of(st.text(), st.from_regex(r"[\[\](){}'\"0-9eE.,:+\-_ jJx\\%@#\n]*")))
@settings(max_examples=300, deadline=None)
def test_every_text_is_some_value_that_reads_back(text):
    value = parse_value(text)
    assert ast.literal_eval(repr(value)) == value


@given(st.text(st.characters(exclude_characters="\0")))
@settings(max_examples=50, deadline=None)
def test_every_text_reaches_the_configuration_or_is_refused(text):
    value = parse_value(text)
    try:
        assert digits(DATA_DIR=text).data.directory == value
    except InputError as error:
        assert not isinstance(value, str)
        assert "DATA_DIR" in str(error)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=100, deadline=None)
def test_every_recipe_text_is_read_or_refused(text):
    try:
        load_text("some", "IPC = 1\n" + text, {})
    except InputError as error:
        assert "\n" not in str(error)


# Overrides ----------------------------------------------------------------------------------


def test_overrides_of_settings_and_of_bindings():
    found = digits(**{"IPC": "2", "NORM": "layer", "Pool.batch": "100", "RIDGE": "1e-3"})
    assert (found.distill.ipc, found.net.norm, found.pool.batch) == (2, "layer", 100)
    assert found.ridge.ridge == 1e-3
    assert found.distill.steps == 2000  # the recipe's


def test_an_override_with_the_package_in_front():
    assert digits(**{"frepo_scale.Pool.batch": "7"}).pool.batch == 7


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("IPCC", "IPC"),
        ("ipc", "IPC"),
        ("LEARNINGRATE", "LEARNING_RATE"),
        ("Pool.batchsize", "Pool.batch"),
        ("pool.batch", "Pool.batch"),
        ("Pol.batch", "Pool.batch"),
        ("x/IPC", "IPC"),
    ],
)
def test_an_unknown_name_gives_the_nearest(name, hint):
    with pytest.raises(InputError, match=rf"--gin\.{name}\b.*did you mean .*\b{hint}\b"):
        digits(**{name: "1"})


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("DATASET", "cifar-10", "did you mean cifar10 or cifar100"),
        ("DATASET", "fashionmnist", "did you mean fashion_mnist"),
        ("NET", "convnett", "did you mean convnet"),
        ("NORM", "bach", "did you mean batch"),
        ("FIT", "corp", "did you mean crop"),
        ("Ridge.form", "duel", "did you mean dual"),
    ],
)
def test_an_unknown_choice_gives_the_nearest(name, value, hint):
    with pytest.raises(InputError, match=hint):
        digits(**{name: value})


@pytest.mark.parametrize(
    ("reference", "fix"), [("RCIG", "ALGORITHM = 'rcig'"), ("Distil", "did you mean Distill")]
)
def test_an_unknown_reference_is_refused_with_what_to_write(recipe, reference, fix):
    with pytest.raises(InputError) as refused:
        recipe(f"{DIGITS}Run.algorithm = @{reference}()\n")
    assert f"@{reference}()" in refused.value.what
    assert fix in refused.value.fix


def test_an_override_without_effect_is_refused(recipe):
    text = DIGITS + "Data.batch = 7\n"
    assert recipe(text).config.data.batch == 7
    with pytest.raises(InputError, match=r"--gin\.BATCH changes nothing"):
        recipe(text, BATCH="8")


# Recipe files -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_the_text_of_a_recipe_gives_it_again(name):
    recipe = load_recipe(find_recipe(name), {"IPC": "3", "DATA_DIR": "/a place/" + "long " * 30})
    again = load_text("again", recipe.text, {})
    assert again.config == recipe.config
    assert again.config.data.directory == "/a place/" + "long " * 30
    assert (again.text, again.operative) == (recipe.text, recipe.operative)
    assert "include" not in recipe.text


def test_the_text_of_a_run_can_be_overridden():
    text = load_recipe(find_recipe("digits_ipc1"), {}).text
    assert load_text("run", text, {"WIDTH": "7"}).config.net.width == 7


def test_a_recipe_needs_no_include(recipe):
    assert recipe("DATASET = 'mnist'\nIPC = 4\n").config.distill.ipc == 4


def test_a_config_of_an_earlier_version_is_read():
    text = load_recipe(find_recipe("digits_ipc1"), {}).text
    for new, old in (("POOL_SIZE", "POOL"), ("REGRESSION_FLIP", "FLIP"), ("DATA_SOURCE", "DATA")):
        text = text.replace(f"{new} = ", f"{old} = ").replace(f"%{new}", f"%{old}")
    text = text.replace("FLIP = False", "FLIP = True").replace("POOL = 10", "POOL = 12")
    text = "\n".join(line for line in text.split("\n") if "lgorithm" not in line)
    found = load_text("run", text.replace("DATA = 'real'", "DATA = 'synthetic'"), {}).config
    assert (found.pool.size, found.distill.flip, found.data.images) == (12, True, "noise")
    assert found.algorithm.name == "frepo"


def test_a_macro_of_ones_own_with_an_old_name_is_read_back(recipe):
    text = recipe(DIGITS + "POOL = 4\nPool.size = %POOL\n").text
    assert load_text("run", text, {}).config.pool.size == 4


def test_a_config_of_a_run_is_a_recipe_also_with_old_names(recipe):
    text = load_recipe(find_recipe("digits_ipc1"), {}).text.replace("POOL_SIZE", "POOL")
    assert (
        recipe("# recipe: digits_ipc1\n" + text.replace("POOL = 10", "POOL = 12")).config.pool.size
        == 12
    )


def test_a_users_recipe_elsewhere_includes_the_shared_part(recipe):
    found = recipe("include 'base/frepo.gin'\nDATASET = 'mnist'\nIPC = 4\n", "own/mine.gin")
    assert (found.name, found.config.data.name, found.config.distill.ipc) == ("mine", "mnist", 4)


def test_an_include_beside_the_recipe_goes_before_one_under_gin(recipe, tmp_path):
    (tmp_path / "digits_ipc1.gin").write_text("include 'mnist_ipc1.gin'\nIPC = 9\n")
    assert recipe(DIGITS).config.data.name == "mnist"
    assert recipe(DIGITS).config.distill.ipc == 9


def test_a_users_own_macro(recipe):
    assert recipe(DIGITS + "MANY = 5\nIPC = %MANY\n").config.distill.ipc == 5
    assert recipe(DIGITS + "MANY = 5\nIPC = %MANY\n", MANY="6").config.distill.ipc == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DIGITS + "IPC = 2\nIPC = 3\n", "line 3: IPC is set again .first in line 2"),
        (DIGITS + "Pool.batch = 2\nPool.batch = 2\n", "Pool.batch is set again"),
        (DIGITS + "IPCC = 2\n", "line 2: IPCC is set but nothing uses it.*did you mean IPC"),
        (DIGITS + "IPC = %IPCS\n", "IPCS is used but not set.*did you mean IPC"),
        (DIGITS + "IPC = %IPC\n", "refers to itself"),
        (DIGITS + "IPC = %STEPS\nSTEPS = %IPC\n", "refers to itself"),
        (DIGITS + "Pool.sise = 2\n", "line 2: Pool.sise.*did you mean Pool.size"),
        (DIGITS + "Pool:\n  sise = 2\n", "line 3: Pool.sise"),
        (DIGITS + "x/IPC = 2\n", "line 2: x/IPC has a scope"),
        (DIGITS + "x/Pool.batch = 2\n", "line 2: x/Pool.batch has a scope"),
        (DIGITS + "IPC = @Missing()\n", "@Missing"),
        (DIGITS + "IPC = @Data\n", "IPC = .*whole number"),
        (DIGITS + "Run.data = 5\n", r"Run.data = 5: expected @Data\(\)"),
        (DIGITS + "Run.data = @Pool()\n", r"expected @Data\(\)"),
        (DIGITS + "Run.data = @Data\n", r"expected @Data\(\)"),
        ("IPC = 2\n" + DIGITS, "line 2: include after a setting"),
        ("include 'nope.gin'\n", "line 1: included file 'nope.gin' does not exist"),
        ("include 'mine.gin'\n", "mine.gin includes itself"),
        ("import os\n" + DIGITS, "line 1: an import"),
        (DIGITS + "from os import path\n", "line 2: an import"),
        (DIGITS + "IPC == 2\n", "line 2"),
        (DIGITS + "IPC = 2 3\n", "line 2"),
        (DIGITS + "IPC = [2\n", "mine.gin: "),
        (DIGITS + "NET = 'convnet\n", "mine.gin: "),
        (DIGITS + "NET = '''convnet\n", "mine.gin: "),
        (DIGITS + "IPC = two\n", "line 2"),
        (DIGITS + "IPC = os.getpid()\n", "line 2"),
        (b"\xff\xfe", "mine.gin cannot be read"),
        (b"\0", "mine.gin: "),
        ("", "DATASET is used but not set"),
        ("IPC = 2\n", "DATASET is used but not set"),
        ("include 'base/frepo.gin'\n", "DATASET is used but not set"),
    ],
)
def test_a_wrong_recipe_is_one_clear_line(recipe, text, message):
    with pytest.raises(InputError, match=message) as caught:
        recipe(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_recipe_may_come_from_any_editor(recipe, mark, end):
    text = (DIGITS + "IPC = 3\n").encode().replace(b"\n", end) + 3 * end
    assert recipe(mark + text).config.distill.ipc == 3


def test_two_files_that_include_each_other_are_refused(recipe, tmp_path):
    (tmp_path / "other.gin").write_text("include 'mine.gin'\n")
    with pytest.raises(InputError, match="includes itself"):
        recipe("include 'other.gin'\n")


def test_a_run_may_not_include_files():
    with pytest.raises(InputError, match="included file"):
        load_text("run", DIGITS, {})


def test_lines_are_those_of_an_editor(recipe):
    # Characters that str.splitlines() takes for line ends are none in gin.
    assert recipe("# \x0c \u2028 \x85\n" + DIGITS + "IPC = 2\n").config.distill.ipc == 2


def test_windows_line_ends(recipe):
    assert recipe((DIGITS + "IPC = 2\n").replace("\n", "\r\n")).config.distill.ipc == 2


def test_a_refused_recipe_leaves_nothing_behind(recipe):
    with pytest.raises(InputError):
        recipe(DIGITS + "IPC = 0\n", MAX_ONLINE="3")
    assert digits().pool.max_online == 100
    assert digits().distill.ipc == 1


def test_public_settings():
    promised = """DATASET DATA_DIR IPC STEPS BATCH LEARNING_RATE NET WIDTH DEPTH NORM POOL_SIZE
        MAX_ONLINE RIDGE REGRESSION_FLIP SEED LOG_EVERY PROBE_EVERY SAVE_EVERY EVAL_NETS
        EVAL_STEPS ALGORITHM ALGORITHM_ARGS DATA_SOURCE"""
    assert set(promised.split()) <= set(config.settings())
