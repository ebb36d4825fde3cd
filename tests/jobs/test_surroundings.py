"""A resumed run says how its environment differs, and is refused where equal bits were promised."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import scientific_settings
from frepo_scale.jobs import distill as distill_job
from frepo_scale.jobs import surroundings
from frepo_scale.jobs.surroundings import check_environment, ends_recorded, leaving_at_once
from frepo_scale.ops.goodput import Ledger, read_ledger
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.supervisor import Supervisor
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel import ending
from frepo_scale.parallel.mesh import MeshConfig

OLD, NEW = {"jax": "1", "devices": "8"}, {"jax": "2", "devices": "8"}


def attempt(workdir, environment, saved=True):
    ledger = Ledger(workdir.ledger)
    ledger.begin(0, environment=environment)
    if saved:
        ledger.saving(5)
        ledger.committed()


def check(workdir, monkeypatch, capsys, environment, deterministic=False):
    monkeypatch.setattr(surroundings, "environment", lambda mesh: environment)
    mesh = MeshConfig(deterministic=deterministic)
    run = SimpleNamespace(mesh=None, config=SimpleNamespace(mesh=mesh))
    check_environment(workdir, run)
    return capsys.readouterr().err


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def test_one_line_says_what_differs(workdir, monkeypatch, capsys):
    attempt(workdir, OLD)
    assert check(workdir, monkeypatch, capsys, OLD) == ""
    line = check(workdir, monkeypatch, capsys, NEW)
    assert line.count("\n") == 1 and "jax was '1' and is now '2'" in line and "devices" not in line


def test_nothing_is_said_where_no_step_is_continued(workdir, monkeypatch, capsys):
    attempt(workdir, OLD, saved=False)
    assert check(workdir, monkeypatch, capsys, NEW, deterministic=True) == ""
    attempt(workdir, {})  # of an earlier version
    assert check(workdir, monkeypatch, capsys, NEW, deterministic=True) == ""


def test_a_change_is_said_once(workdir, monkeypatch, capsys):
    attempt(workdir, OLD)
    attempt(workdir, NEW)
    assert check(workdir, monkeypatch, capsys, NEW) == ""


def test_equal_bits_need_the_same_environment_in_every_attempt(workdir, monkeypatch, capsys):
    attempt(workdir, OLD)
    check(workdir, monkeypatch, capsys, OLD, deterministic=True)
    for _ in range(2):
        with pytest.raises(InputError) as refused:
            check(workdir, monkeypatch, capsys, NEW, deterministic=True)
        assert "DETERMINISTIC" in refused.value.what and "attempt 1" in refused.value.what
        assert "--gin.DETERMINISTIC=False" in refused.value.fix
        attempt(workdir, NEW)  # continued without: the first attempt still differs


def test_a_failure_of_the_runtime_is_recorded_with_its_advice(workdir):
    supervisor = Supervisor(workdir, 0.0)
    supervisor.begin(0, {"jax": "1"})
    with pytest.raises(Exception, match="lower it"):  # noqa: SIM117
        with ends_recorded(workdir, supervisor, Preemption(), lambda text: "lower it"):
            raise MemoryError("Unable to allocate 3 GiB")
    (found,) = read_ledger(workdir.ledger).attempts
    assert found.reason.startswith("failed: out of memory") and "lower it" in found.reason
    assert found.environment == {"jax": "1"}


def test_a_record_of_an_earlier_version_is_read(workdir):
    attempt(workdir, OLD)
    (path,) = workdir.ledger.iterdir()
    record = json.loads(path.read_text())
    del record["environment"]
    path.write_text(json.dumps(record))
    history = read_ledger(workdir.ledger)
    assert history.damaged == 0 and history.attempts[0].environment == {}
    path.write_text(json.dumps(record | {"environment": 3}))
    assert read_ledger(workdir.ledger).damaged == 1
    assert "environment" in {field.name for field in dataclasses.fields(history.attempts[0])}


def test_the_job_checks_it_before_it_restores(tmp_path, monkeypatch):
    recipe = config.load_recipe(
        config.find_recipe("digits_ipc1"), {"WIDTH": "4", "DETERMINISTIC": "True"}
    )
    workdir = Workdir(tmp_path / "run")
    workdir.claim(scientific_settings(recipe.config))
    attempt(workdir, OLD)

    def spent(*given):
        raise AssertionError("compute was spent")

    monkeypatch.setattr(distill_job, "_Attempt", spent)
    with pytest.raises(InputError) as refused:
        distill_job.distill(recipe, workdir.root)
    assert "attempt 1" in refused.value.what and "jax was '1'" in refused.value.what
    assert not workdir.config.exists()


def test_a_stop_that_cannot_be_recorded_ends_the_process_all_the_same(monkeypatch):
    class Handed:
        """Gives back what would be called at a stop."""

        leaving_at_once = staticmethod(lambda leave: leave)

    def say():
        raise OSError("no space")

    codes = []
    monkeypatch.setattr(ending, "leave", codes.append)
    with pytest.raises(OSError, match="no space"):
        leaving_at_once(Handed(), say)(42)
    assert codes == [42]
