"""Files of a run other than checkpoints, on a store that cannot append, rename or lock."""

import json
import os

import pytest

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.core.paths import to_path
from frepo_scale.ops import tensorboard
from frepo_scale.ops.goodput import FINISHED, Ledger, read_ledger
from frepo_scale.ops.lock import WorkdirLock
from frepo_scale.ops.metrics import JsonlWriter, read_jsonl
from frepo_scale.ops.tensorboard import StepActions, TensorBoardWriter


@pytest.fixture
def root(store):
    return to_path("gs://bucket/run")


def test_rows_are_written_whole_at_every_flush(root, store):
    path = root / "metrics.jsonl"
    writer = JsonlWriter(path, 0)
    for step in (1, 2, 3):
        writer.write_scalars(step, {"a": step})
    assert read_jsonl(path) == []
    writer.flush()
    writer.flush()  # nothing new
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3]
    writer.write_scalars(4, {"a": 4})
    writer.close()  # by a run that may have lost its workdir
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3]
    assert [mode for name, mode in store.calls if mode != "rb"] == ["wb"]


def test_a_resumed_run_keeps_the_rows_up_to_its_step(root):
    path = root / "metrics.jsonl"
    for resume_at, steps in ((0, range(1, 8)), (4, [4, 5]), (5, [])):
        writer = JsonlWriter(path, resume_at)
        for step in steps:
            writer.write_scalars(step, {"a": step})
        writer.flush()
        writer.close()
    assert read_jsonl(path) == [{"step": step, "a": float(step)} for step in range(1, 6)]


def test_one_owner_at_a_time(root, store):
    path = root / "lock.json"
    first, second = (WorkdirLock(path, renew_every=1e6, sleep=lambda s: None) for _ in range(2))
    first.acquire()
    with pytest.raises(InputError, match=rf"gs://bucket/run .*process {os.getpid()} on"):
        second.acquire()
    first.renew()
    first.check()
    path.write_text(json.dumps({"token": "theirs"}))
    first.renew()
    with pytest.raises(RunError, match="gs://bucket/run"):
        first.check()
    first.release()
    assert json.loads(path.read_bytes()) == {"token": "theirs"}  # not ours to remove
    path.unlink()
    second.acquire()
    second.release()
    assert store.objects == {}


def test_of_two_that_start_at_once_the_last_to_write_wins(root):
    path = root / "lock.json"
    second = WorkdirLock(path, renew_every=1e6, sleep=lambda s: None)
    first = WorkdirLock(path, renew_every=1e6, sleep=lambda s: second._replace(path.read_bytes()))
    with pytest.raises(InputError, match=rf"process {os.getpid()} on"):
        first.acquire()
    assert json.loads(path.read_bytes())["token"] == second._token


def test_a_failed_renewal_is_repeated(root, store, monkeypatch):
    owner = WorkdirLock(root / "lock.json", renew_every=1e6, sleep=lambda s: None)
    owner.acquire()
    before = store.objects["bucket/run/lock.json"]
    with monkeypatch.context() as patch:
        patch.setattr(store, "open", lambda path, mode: 1 / 0)
        owner.renew()
    owner.check()
    assert store.objects["bucket/run/lock.json"] == before
    owner.renew()
    assert store.objects["bucket/run/lock.json"] != before
    owner.release()


def test_attempts_are_numbered_consecutively(root):
    for number in (1, 2):
        ledger = Ledger(root / "attempts")
        ledger.begin(number)
        ledger.saving(number + 5)
        ledger.committed()
        ledger.end(FINISHED)
    history = read_ledger(root / "attempts")
    assert [a.first_step for a in history.attempts] == [1, 2]
    assert [a.last_step for a in history.attempts] == [6, 7]
    assert history.damaged == 0


def test_event_files_on_a_store_need_tensorflow(root, store, monkeypatch, capsys):
    monkeypatch.setattr(tensorboard, "has_tensorflow", lambda: False)
    writer = TensorBoardWriter(root / "tensorboard")
    assert "gs://bucket/run/tensorboard" in capsys.readouterr().err
    actions = StepActions(writer, root / "tensorboard", root / "profile_now", 0, 10, 0)
    writer.write_scalars(1, {"a": 1.0})
    actions.after_step(1)
    writer.flush()
    actions.close()
    writer.close()
    assert store.objects == {}


def test_tensorflow_gets_the_url(root, monkeypatch):
    from clu import metric_writers

    given = []
    monkeypatch.setattr(tensorboard, "has_tensorflow", lambda: True)
    monkeypatch.setattr(
        metric_writers,
        "SummaryWriter",
        lambda logdir: given.append(logdir) or metric_writers.MultiWriter([]),
    )
    TensorBoardWriter(root / "tensorboard").close()
    assert given == ["gs://bucket/run/tensorboard"]


def test_a_profile_that_cannot_be_written_is_no_reason_to_stop(root, monkeypatch, capsys):
    import jax

    given = []
    monkeypatch.setattr(jax.profiler, "start_trace", given.append)

    def fail():
        raise RuntimeError("HTTP\nrequest")

    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    monkeypatch.setattr(tensorboard, "has_tensorflow", lambda: False)
    writer = TensorBoardWriter(root / "tensorboard")
    capsys.readouterr()
    actions = StepActions(writer, root / "tensorboard", root / "profile_now", 0, 100, 10)
    for step in range(1, 30):
        actions.after_step(step)
    actions.close()
    writer.close()
    assert given == ["gs://bucket/run/tensorboard"]
    line = "frepo-scale: no profile in gs://bucket/run/tensorboard (HTTP request)\n"
    assert capsys.readouterr().err == line
