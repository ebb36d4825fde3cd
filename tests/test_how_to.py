"""The examples of docs/how-to: a user's net and evaluation."""

import json
import re
from pathlib import Path

import pytest

from frepo_scale.main import main

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to"
BLOCK = re.compile(r"<!-- test: (\w+\.py) -->\n```python\n(.*?)```", re.DOTALL)
LONGEST = 40  # lines of code that a user may need
SETTINGS = {
    "STEPS": 4,
    "PROBE_NETS": 1,
    "PROBE_STEPS": 2,
    "EVAL_NETS": 2,
    "EVAL_STEPS": 20,
    "EVAL_LEARNING_RATE": 1e-2,
    "FULL_DATA": False,
    "WIDTH": 8,
    "BATCH": 64,
    "PROFILE_AT": 0,
    "NET": "my_nets.PatchNet",
    "NET_ARGS": "{'patch': 2}",
    "EVALUATIONS": "['accuracy', 'my_evaluations.NoisyImages']",
}


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """The modules of the how-to pages, as a user would save them."""
    found = {}
    for page in sorted(HOW_TO.glob("*.md")):
        found |= dict(BLOCK.findall(page.read_text()))
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return found


def test_the_examples_are_short(examples):
    assert {"my_nets.py", "my_evaluations.py"} <= examples.keys()
    assert all(len(text.splitlines()) <= LONGEST for text in examples.values())


@pytest.mark.slow
def test_a_run_with_a_net_and_an_evaluation_of_the_users_own(examples, tmp_path, capsys):
    overrides = [f"--gin.{name}={value}" for name, value in SETTINGS.items()]
    workdir = tmp_path / "run"
    assert main(["distill", "digits_ipc1", "--workdir", str(workdir), *overrides]) == 0
    printed = capsys.readouterr().out
    result = json.loads((workdir / "result.json").read_text())
    assert [table["name"] for table in result["evaluations"]] == [
        "accuracy",
        "my_evaluations.NoisyImages",
    ]
    noisy = result["evaluations"][1]
    assert [row["key"] for row in noisy["rows"]] == ["distilled", "random_real"]
    assert all(row["n"] == 2 for row in noisy["rows"])
    # With noise the same nets are other than without it.
    assert noisy["rows"][1]["mean"] != result["random_real"]["mean"]
    page = (workdir / "report.html").read_text()
    for text in ("test accuracy with Gaussian noise", "random real images"):
        assert text in printed
        assert text.removeprefix("test ") in page
    assert "'patch': 2" in (workdir / "operative_config.gin").read_text()
    identity = json.loads((workdir / "identity.json").read_text())
    assert identity["net.args"] == {"patch": 2}
    assert main(["distill", "digits_ipc1", "--workdir", str(workdir), *overrides]) == 0  # same
    capsys.readouterr()
    overrides[-2] = "--gin.NET_ARGS={'patch': 4}"
    assert main(["distill", "digits_ipc1", "--workdir", str(workdir), *overrides]) == 2
    assert "net.args" in capsys.readouterr().err


def test_the_nets_field_decides_its_features(examples):
    from frepo_scale.models.registry import NetConfig, build_net, feature_dim

    for patch, dim in ((2, 16 * 8), (4, 4 * 8)):
        config = NetConfig("my_nets.PatchNet", width=8, args={"patch": patch})
        for net in (config, config.for_evaluation()):
            assert feature_dim(build_net(net, 10, (8, 8, 1)), (8, 8, 1)) == dim
