import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frepo_scale.core.checks import check_bool, check_choice, check_float, check_int
from frepo_scale.core.errors import InputError


def _passes(check: Callable[..., None], *args: Any, **kwargs: Any) -> bool:
    try:
        check("NAME", *args, **kwargs)
    except InputError as error:
        assert str(error).startswith("NAME = ")  # the public name comes first
        assert "\n" not in str(error)
        return False
    return True


@given(st.integers(), st.integers(), st.integers() | st.none())
def test_ints_pass_in_their_range(value: int, low: int, high: int | None) -> None:
    expected = low <= value and (high is None or value <= high)
    assert _passes(check_int, value, low, high) == expected


@given(st.floats() | st.integers(), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_floats_pass_in_their_range(value: float, low: float, high: float) -> None:
    finite = math.isfinite(value)
    assert _passes(check_float, value, low, high) == (finite and low <= value <= high)
    assert _passes(check_float, value, low, open_low=True) == (finite and low < value)


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1], (1,), 1j, np.float32(1)])
def test_what_is_not_a_whole_number_is_refused(value: Any) -> None:
    assert not _passes(check_int, value, 0)


@pytest.mark.parametrize(
    "value",
    [True, "0.5", None, [0.5], 1j, math.nan, math.inf, np.float32("inf"), 10**400, -(10**400)],
)
def test_what_is_not_a_finite_number_is_refused(value: Any) -> None:
    assert not _passes(check_float, value, -math.inf)


def test_numpy_numbers_pass() -> None:
    assert _passes(check_int, np.int64(3), 1, 3) and not _passes(check_int, np.int64(4), 1, 3)
    assert _passes(check_float, np.float32(0.5), 0) and _passes(check_float, np.int32(1), 0)


@pytest.mark.parametrize("value", [0, 1, "True", None, np.bool_(True)])
def test_only_true_and_false_are_bools(value: Any) -> None:
    assert not _passes(check_bool, value)
    assert _passes(check_bool, True) and _passes(check_bool, False)


def test_choices_suggest_the_nearest() -> None:
    check_choice("NET", "convnet", ("convnet", "resnet"))
    check_choice("NET", "resnet", iter(["convnet", "resnet"]))
    with pytest.raises(InputError) as caught:
        check_choice("NET", "convnt", iter(["resnet", "convnet"]))
    assert str(caught.value) == (
        "NET = 'convnt': expected one of resnet, convnet; did you mean convnet?"
    )
    for value in (None, [], {}, 3):
        assert not _passes(check_choice, value, ["a"])


def test_messages_name_range_and_remedy() -> None:
    def text(check: Callable[..., None], *args: Any, **kwargs: Any) -> str:
        with pytest.raises(InputError) as caught:
            check("IPC", *args, **kwargs)
        return str(caught.value)

    assert text(check_int, 0, 1) == "IPC = 0: expected a whole number of at least 1"
    for meant in (1e3, "1000", 1000.0, np.float32(1000)):  # the advice keeps the value
        assert text(check_int, meant, 1).endswith("at least 1; set --gin.IPC=1000")
    assert text(check_int, 1e3, 1, 10) == (
        "IPC = 1000.0: expected a whole number of at least 1 and at most 10"
    )
    assert (
        text(check_int, 9, 2, 8) == "IPC = 9: expected a whole number of at least 2 and at most 8"
    )
    assert text(check_float, 0.0, 0, open_low=True) == "IPC = 0.0: expected a number greater than 0"
    assert text(check_float, 2, 0.0, 1.0) == (
        "IPC = 2: expected a number of at least 0.0 and at most 1.0"
    )
    assert text(check_bool, "yes") == "IPC = 'yes': expected True or False; set --gin.IPC=True"
    assert text(check_bool, 3) == "IPC = 3: expected True or False"
