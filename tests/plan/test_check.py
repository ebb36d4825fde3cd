"""`plan --measured`: predictions against the results of benchmarks/gpu_check.py."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.main import main
from frepo_scale.plan import check
from frepo_scale.plan.chips import CHIPS
from frepo_scale.plan.hardware import parse_hardware
from frepo_scale.plan.plan import make_plan

# Written by `benchmarks/gpu_check.py --smoke --parts facts,fast` on a CPU.
WRITTEN = Path(__file__).with_name("gpu_check")


@pytest.fixture
def on_h100(tmp_path):
    """The same results, as if they were of an H100."""
    found = json.loads((WRITTEN / check.FILE).read_text())
    (tmp_path / check.FILE).write_text(json.dumps(found | {"device": "NVIDIA H100 80GB HBM3"}))
    return tmp_path


def test_what_the_check_writes_is_read():
    found = check.read_check(WRITTEN)
    assert found.device == "cpu"
    assert [step.name for step in found.steps] == ["smoke float32", "smoke bfloat16"]
    assert all(step.seconds > 0 for step in found.steps)
    assert found.steps[0].shape["side"] == 8
    # It says nothing of a GPU.
    assert check.factors(found, CHIPS["h100"]) == {}


def test_a_factor_is_the_measured_time_by_the_predicted_one(on_h100):
    found = check.read_check(on_h100)
    factors = check.factors(found, CHIPS["h100"])
    step = found.steps[0]
    # 5 classes, 2 images each and mirrored: 20 rows of 4 * 2 * 2**2 features.
    plan = make_plan(check._subject(step), parse_hardware("h100:1"), 1, 1)
    phases = {phase.name: phase for phase in plan.phases}
    assert phases["Gram matrix"].operations == 2 * 20 * 32 * 20
    assert factors[step.name] == pytest.approx(step.seconds / plan.ideal_seconds)
    twice = found._replace(steps=(step._replace(seconds=2 * step.seconds),))
    assert check.factors(twice, CHIPS["h100"]) == {step.name: 2 * factors[step.name]}
    # Another kind of the same maker is another device.
    assert check.factors(found, CHIPS["a100"]) == {}


def test_the_line_has_the_factors_and_the_hours(on_h100):
    found = check.read_check(on_h100)
    plan = make_plan(check._subject(found.steps[0]), parse_hardware("h100:1"), 1, 1)
    steps = round(3600 / plan.ideal_seconds)  # one hour at peak rates
    plan = plan._replace(subject=replace(plan.subject, steps=steps))
    text = check.line(found, {"a": 2.0, "b": 3.0, "c": 7.0}, plan)
    for words in ("3 measured steps", "2.00 to 7.00 times", "3.00 in the median", "takes 3.0 h"):
        assert words in text


def test_plan_prints_it(on_h100, capsys):
    command = ["plan", "digits_ipc1", "--on", "h100:1", "--on", "a100:1", "--quick", "--json"]
    assert main([*command, "--measured", str(on_h100)]) == 0
    h100, a100 = json.loads(capsys.readouterr().out)
    assert set(h100["measured_by_predicted"]) == {"smoke float32", "smoke bfloat16"}
    assert "2 measured steps" in h100["notes"][-1]
    assert a100["measured_by_predicted"] == {}
    assert "NVIDIA H100" in a100["notes"][-1]


@pytest.mark.parametrize(
    "broken", [None, "", "[]", '{"device": "NVIDIA L4"}', '{"device": "x", "shapes": {"a": 3}}']
)
def test_what_is_no_result_of_the_check_is_refused(broken, tmp_path):
    if broken is not None:
        (tmp_path / check.FILE).write_text(broken)
    with pytest.raises(InputError) as caught:
        check.read_check(tmp_path)
    assert str(tmp_path) in caught.value.what


def test_a_check_without_a_timed_step_is_refused(tmp_path):
    shutil.copy(WRITTEN / check.FILE, tmp_path)
    found = json.loads((tmp_path / check.FILE).read_text())
    (tmp_path / check.FILE).write_text(json.dumps(found | {"steps": {"smoke float32": {}}}))
    with pytest.raises(InputError) as caught:
        check.read_check(tmp_path)
    assert "gpu_check" in caught.value.fix
