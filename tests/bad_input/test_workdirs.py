"""Workdirs that cannot be used."""

import json
import os
import shutil
import sys
from collections import namedtuple

import pytest
from bad_input.made import make_run

from frepo_scale.main import main
from frepo_scale.ops.workdir import Workdir


def test_a_workdir_that_is_a_file(distill):
    distill(workdir="neighbour.txt", mentions=["neighbour.txt is a file"])


def test_a_workdir_with_something_else(cwd, distill):
    distill(workdir=".", mentions=["workdir . "])


def test_a_workdir_below_a_file(distill):
    distill(workdir="neighbour.txt/w", mentions=["neighbour.txt/w cannot be written"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workdir_without_permission(cwd, distill):
    os.mkdir("locked", 0o500)
    distill(workdir="locked/w", mentions=["locked/w cannot be written"])


def test_a_workdir_with_an_impossible_name(distill):
    distill(workdir="x" * 300, mentions=["File name too long"])


def test_a_workdir_that_is_a_url(distill):
    for url in ("s3://bucket/w", "https://host/w", "gs:/bucket/w", "g/gs://b/w"):
        distill(workdir=url, mentions=[url, "is a URL", "a local path, or a URL", "gs://"])
        distill("--dry-run", workdir=url, mentions=["is a URL"])


def test_a_store_without_a_backend(distill, refused, store, monkeypatch):
    def missing(path):
        raise ImportError("No module named 'gcsfs'")

    monkeypatch.setattr(store, "exists", missing)
    mentions = ["gs://bucket/w cannot be used (No module named 'gcsfs')", "TensorFlow"]
    distill(workdir="gs://bucket/w", mentions=mentions)
    distill("--dry-run", workdir="gs://bucket/w", mentions=mentions)
    for command in (["report"], ["evaluate"], ["export", "--out", "e.npz"]):
        refused(*command, "gs://bucket/w", mentions=mentions)


def test_a_store_without_what_checkpoints_need(distill, store, monkeypatch):
    # None: importing it fails, installed or not.
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    monkeypatch.delitem(sys.modules, "google.cloud.storage")
    distill(workdir="gs://bucket/w", mentions=["google-cloud-storage", "-m pip install"])
    assert store.objects == {}


def test_a_store_without_a_run(refused, store):
    refused("report", "gs://bucket/w", mentions=["gs://bucket/w is not the workdir"])
    refused(
        "export", "gs://bucket/w", "--out", "e.npz", mentions=["gs://bucket/w is not the workdir"]
    )
    refused("evaluate", "gs://bucket/w", mentions=["gs://bucket/w"])
    assert store.objects == {}


def test_a_workdir_of_another_run_on_a_store(distill, store):
    Workdir("gs://bucket/w").claim({"distill.ipc": 2})
    before = dict(store.objects)
    distill(workdir="gs://bucket/w", mentions=["gs://bucket/w belongs to another run"])
    assert store.objects == before


@pytest.mark.parametrize("workdir", ["w", "new/deep/w"])
def test_a_full_disk(workdir, distill, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30, 2**20))
    distill(workdir=workdir, mentions=["has 1 MiB free", "at least"])


def test_a_workdir_of_another_run_names_what_differs(distill):
    make_run("w", IPC="2", NORM="layer", SEED="5")
    for more in ([], ["--dry-run"]):
        distill(
            *more,
            mentions=[
                "w belongs to another run",
                "distill.ipc was 2 and is now 1",
                "distill.seed was 5 and is now 0",
                "net.norm was 'layer' and is now 'batch'",
            ],
        )


def test_a_workdir_of_an_earlier_version_has_the_default_precision(distill, capsys):
    run = make_run("w")
    settings = json.loads(run.identity.read_text())
    for name in ("distill.matmul_precision", "pool.dtype", "evaluation.dtype"):
        del settings[name]
    run.identity.write_text(json.dumps(settings))
    assert main(["distill", "digits_ipc1", "--workdir", "w", "--dry-run"]) == 0
    capsys.readouterr()
    for name, field, value in (
        ("MATMUL_PRECISION", "distill.matmul_precision was 'default'", "highest"),
        ("NET_DTYPE", "pool.dtype was 'float32'", "bfloat16"),
        ("EVAL_DTYPE", "evaluation.dtype was 'float32'", "bfloat16"),
    ):
        distill(f"--gin.{name}={value}", mentions=[f"{field} and is now {value!r}"])


def test_the_precision_in_the_environment_must_be_that_of_the_recipe(
    distill, refused, monkeypatch, capsys
):
    variable = "JAX_DEFAULT_MATMUL_PRECISION"
    monkeypatch.setenv(variable, "high")
    mentions = [f"{variable} = 'high'", "MATMUL_PRECISION = 'default'"]
    for more in ([], ["--dry-run"]):
        distill(*more, mentions=mentions)
    same = "--gin.MATMUL_PRECISION=high"
    assert main(["distill", "digits_ipc1", "--workdir", "w", same, "--dry-run"]) == 0
    capsys.readouterr()
    make_run("w")
    refused("evaluate", "w", mentions=mentions)


def test_operational_settings_may_differ(capsys):
    make_run("w", LOG_EVERY="7", SAVE_EVERY="9", PROFILE_AT="0")
    assert main(["distill", "digits_ipc1", "--workdir", "w", "--dry-run"]) == 0


def test_a_workdir_started_with_other_data(distill):
    make_run("w")
    distill("--gin.LOG_EVERY=7", mentions=["the data at scikit-learn", " w was started", "f" * 12])


def test_a_damaged_identity(distill):
    run = make_run("w")
    for content in (b"", b"{", b"[]", b"\xff"):
        run.identity.write_bytes(content)
        distill(mentions=["w/identity.json cannot be read"])


def test_a_damaged_result(refused):
    run = make_run("w")
    for content in (b"", b"{", b"[]", b"\xff"):
        run.result.write_bytes(content)
        mentions = ["w/result.json is damaged", "remove it"]
        refused("report", "w", mentions=mentions)
        refused("distill", "digits_ipc1", "--workdir", "w", mentions=mentions)
