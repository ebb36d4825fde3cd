import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from frepo_scale.core.identity import differences, scientific_settings, settings_sha256
from frepo_scale.train.config import LoopConfig

_OPERATIONAL = {"operational": True}


@dataclass(frozen=True)
class _Inner:
    rate: float = 0.1
    folder: str = field(default="/x", metadata=_OPERATIONAL)
    name: str | None = None


@dataclass(frozen=True)
class _Outer:
    steps: int = 3
    inner: _Inner = field(default_factory=_Inner)
    storage: _Inner = field(default_factory=_Inner, metadata=_OPERATIONAL)
    workers: int = field(default=4, metadata=_OPERATIONAL)


def test_operational_fields_are_left_out_at_every_depth() -> None:
    assert scientific_settings(_Outer()) == {
        "steps": 3,
        "inner.rate": 0.1,
        "inner.name": None,
    }
    other = _Outer(inner=_Inner(folder="/y"), storage=_Inner(rate=9.0), workers=1)
    assert scientific_settings(other) == scientific_settings(_Outer())


def test_every_scientific_field_changes_the_fingerprint() -> None:
    variants = [_Outer(), _Outer(steps=4), _Outer(inner=_Inner(rate=0.2))]
    variants.append(_Outer(inner=_Inner(name="None")))
    assert len({settings_sha256(scientific_settings(v)) for v in variants}) == len(variants)


def test_log_and_save_periods_are_operational_and_the_probe_period_is_not() -> None:
    # The best probe is what is exported.
    assert scientific_settings(LoopConfig()).keys() == {"probe_every"}


_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
_settings = st.dictionaries(st.text(min_size=1), _values, max_size=6)


@given(_settings, st.randoms())
def test_fingerprint_does_not_depend_on_order_or_on_json(
    stored: dict[str, Any], random: Any
) -> None:
    items = list(stored.items())
    random.shuffle(items)
    assert settings_sha256(dict(items)) == settings_sha256(stored)
    assert settings_sha256(json.loads(json.dumps(stored))) == settings_sha256(stored)
    assert differences(json.loads(json.dumps(stored)), stored) == []


@given(_settings, _settings)
def test_differences_name_what_differs_and_nothing_else(
    stored: dict[str, Any], current: dict[str, Any]
) -> None:
    absent = object()
    different = sorted(
        n for n in stored.keys() | current.keys() if stored.get(n, absent) != current.get(n, absent)
    )
    lines = differences(stored, current)
    assert len(lines) == len(different)
    assert all(line.startswith(f"{n} was ") for line, n in zip(lines, different, strict=True))
    assert (differences(current, stored) == []) == (lines == [])


def test_a_setting_only_one_side_has_is_a_difference() -> None:
    assert differences({"a": 1, "b": None}, {"a": 1}) == ["b was None and is now not set"]
    assert differences({}, {"c": 0.5}) == ["c was not set and is now 0.5"]
