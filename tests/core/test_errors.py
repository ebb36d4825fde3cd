import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError, RunError, nearest


def test_message_says_what_was_expected_and_how_to_fix_it() -> None:
    error = InputError("IPC = 0", "at least 1", "set --gin.IPC=1")
    assert str(error) == "IPC = 0: expected at least 1; set --gin.IPC=1"
    assert (error.what, error.expected, error.fix) == ("IPC = 0", "at least 1", "set --gin.IPC=1")
    assert str(InputError("IPC = 0", "at least 1")) == "IPC = 0: expected at least 1"


def test_an_error_of_a_worker_is_unchanged() -> None:
    error = pickle.loads(pickle.dumps(InputError("a", "b", "c")))
    assert type(error) is InputError and str(error) == "a: expected b; c"
    assert (error.what, error.expected, error.fix) == ("a", "b", "c")


@given(st.text(), st.text(), st.text())
def test_message_is_one_line_whatever_was_put_in(what: str, expected: str, fix: str) -> None:
    text = str(InputError(what, expected, fix))
    assert len(text.splitlines()) == 1
    for part in (what, expected, fix):
        assert " ".join(part.split()) in text


def test_the_two_kinds_are_distinct() -> None:
    assert not issubclass(InputError, RunError) and not issubclass(RunError, InputError)
    assert not issubclass(InputError, OSError | ValueError)  # not caught with them by accident


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LEARNIG_RATE", "did you mean LEARNING_RATE?"),
        ("learning_rate", "did you mean LEARNING_RATE?"),
        ("Ridg", "did you mean RIDGE?"),
        ("zzz", "known: IPC, LEARNING_RATE, RIDGE"),
    ],
)
def test_nearest_suggests_or_lists(name: str, hint: str) -> None:
    assert nearest(name, ["RIDGE", "LEARNING_RATE", "IPC"]) == hint
    assert nearest(name, {"IPC", "RIDGE", "LEARNING_RATE"}) == hint


@given(st.lists(st.text(string.ascii_uppercase, min_size=1), min_size=1, unique=True), st.data())
def test_nearest_finds_a_known_name_first(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert nearest(name.lower(), names).startswith(f"did you mean {name}")
