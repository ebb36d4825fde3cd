"""A whole run of the digits on an object store: stopped, resumed, reported, evaluated, exported.

etils and Orbax write to the store of `fake_store`; TensorBoard's event files and profiles, which
TensorFlow and XLA write by themselves, are left out.
"""

import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from fake_run import RATES

from frepo_scale.core.paths import to_path
from frepo_scale.export.formats import read_npz
from frepo_scale.main import main
from frepo_scale.ops import tensorboard
from frepo_scale.ops.lock import WorkdirLock

pytestmark = pytest.mark.slow

URL = "gs://bucket/runs/digits"
SETTINGS = {
    "STEPS": 30,
    "PROBE_EVERY": 10,
    "PROBE_NETS": 1,
    "PROBE_STEPS": 10,
    "SAVE_EVERY": 5,
    "LOG_EVERY": 5,
    "EVAL_NETS": 1,
    "EVAL_STEPS": 10,
    "FULL_DATA": False,
    "WIDTH": 8,
    "BATCH": 64,
    "PROFILE_AT": 0,
}


def command(workdir):
    overrides = [f"--gin.{name}={value}" for name, value in SETTINGS.items()]
    return ["distill", "digits_ipc1.gin", "--workdir", str(workdir), *overrides]


@pytest.fixture
def bucket(served, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tensorboard, "has_tensorflow", lambda: False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield served
    for number, handler in handlers.items():
        signal.signal(number, handler)


def rows(text):
    found = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if k not in RATES} for row in found]


def content(store, name):
    return store.objects[f"{URL.removeprefix('gs://')}/{name}"][0]


def saved_steps(store):
    top = f"{URL.removeprefix('gs://')}/checkpoints/"
    return {n.removeprefix(top).split("/")[0] for n in store.objects if n.startswith(top)}


def test_a_run_on_a_store_is_the_run_on_a_disk(bucket, tmp_path, monkeypatch, capsys):
    assert main(command(tmp_path / "local")) == 0

    put = bucket.put

    def put_and_stop(name, data):
        if name.endswith("checkpoints/10/commit_success.txt"):
            os.kill(os.getpid(), signal.SIGTERM)
        return put(name, data)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "put", put_and_stop)
        assert main(command(URL)) == 42
    assert f"the same command resumes from {URL}" in capsys.readouterr().out
    assert f"{URL.removeprefix('gs://')}/DONE" not in bucket.objects
    stopped = rows(content(bucket, "metrics.jsonl"))
    assert 10 <= stopped[-1]["step"] < 30

    # Rows after the restored step are dropped.
    torn = content(bucket, "metrics.jsonl") + b'{"step": 29, "loss": 7.0}\n{"step": 30, "lo'
    bucket.put(f"{URL.removeprefix('gs://')}/metrics.jsonl", torn)
    assert main(command(URL)) == 0
    assert f"resuming {URL} at step" in capsys.readouterr().out

    assert rows(content(bucket, "metrics.jsonl")) == rows(Path("local/metrics.jsonl").read_text())
    with (
        np.load("local/distilled.npz") as here,
        np.load(io.BytesIO(content(bucket, "distilled.npz"))) as there,
    ):
        assert all(np.array_equal(here[name], there[name]) for name in here.files)
    names = {name.removeprefix("bucket/runs/digits/").split("/")[0] for name in bucket.objects}
    local = {path.name for path in Path("local").iterdir()}
    assert names == local - {"tensorboard"}  # and no lock, no write test
    assert len([n for n in bucket.objects if "/attempts/" in n]) == 2
    assert saved_steps(bucket) == {"25", "30"}
    modes = {mode for _, mode in bucket.calls}
    assert modes <= {"r", "rb", "w", "wb"}
    assert os.listdir() == ["local"]  # nothing named like the URL

    # A finished run is not changed, and the other commands read it.
    before = dict(bucket.objects)
    assert main(command(URL)) == 0
    assert "finished" in capsys.readouterr().out and bucket.objects == before
    assert main(["report", URL]) == 0
    assert content(bucket, "report.html").count(b"data:image/png") >= 4
    assert main(["export", URL, "--out", "e.npz"]) == 0
    assert Path("e.npz").read_bytes() == content(bucket, "distilled.npz")
    assert main(["export", URL, "--format", "folder", "--out", "pictures"]) == 0
    assert len(list(Path("pictures").rglob("*.png"))) == 10
    overrides = ["--gin.EVAL_NETS=1", "--gin.EVAL_STEPS=5"]
    assert main(["evaluate", URL, *overrides]) == 0
    assert json.loads(content(bucket, "evaluation.json"))["distilled"]["n"] == 1
    assert read_npz(f"{URL}/distilled.npz").images.shape == (10, 8, 8, 1)


def test_a_second_run_on_the_same_url_is_refused(bucket, capsys):
    owner = WorkdirLock(to_path(URL) / "lock.json", renew_every=1e6)
    owner.acquire()
    before = dict(bucket.objects)
    assert main(command(URL)) == 2
    assert f"workdir {URL} is in use by process {os.getpid()}" in capsys.readouterr().err
    assert bucket.objects == before
    owner.release()
