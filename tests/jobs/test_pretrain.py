"""`frepo-scale pretrain`, and a run whose pool are its nets."""

import json

import numpy as np
import pytest

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import scientific_settings
from frepo_scale.jobs.net_files import with_fingerprints
from frepo_scale.jobs.results import portable
from frepo_scale.main import main
from frepo_scale.models.weights import read_net_file, sha256_of

NET = ("--gin.WIDTH=2", "--gin.DEPTH=2")
SHORT = (*NET, "--gin.PRETRAIN_STEPS=2", "--gin.PRETRAIN_BATCH=8")
RUN = (
    *NET,
    *("--gin.MAX_ONLINE=0", "--gin.POOL_SIZE=1", "--gin.OUTER_AUGMENT=True", "--gin.STEPS=2"),
    *("--gin.BATCH=8", "--gin.PROBE_EVERY=2", "--gin.PROBE_STEPS=1", "--gin.PROBE_NETS=1"),
    *("--gin.EVAL_NETS=1", "--gin.EVAL_STEPS=1", "--gin.FULL_DATA=False", "--gin.PROFILE_AT=0"),
    "--gin.EVALUATIONS=['linear_probe']",
)


def test_the_content_of_the_files_is_part_of_the_identity_and_their_path_is_not(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, content in zip(paths, (b"1", b"1", b"2"), strict=True):
        path.write_bytes(content)

    def settings(path, **further):
        given = {"POOL_WEIGHTS": str([str(path)])} | further
        recipe = config.load_recipe(config.find_recipe("digits_ipc1"), given)
        return scientific_settings(with_fingerprints(recipe).config)

    first, moved, other = map(settings, paths)
    assert first == moved
    assert {name for name in first if first[name] != other[name]} == {"pool.weights_sha256"}
    known = {"Pool.weights_sha256": str([sha256_of(str(paths[0]))])}
    assert settings(paths[1], **known) == first
    for path, further in ((paths[2], known), (tmp_path / "gone", {})):
        with pytest.raises(InputError) as caught:
            settings(path, **further)
        assert str(path) in caught.value.what


def test_an_export_names_no_path_of_its_maker():
    text = "POOL_WEIGHTS = \\\n    ['/home/a.safetensors',\n     '/home/b.safetensors']\nIPC = 1\n"
    assert portable(text) == "POOL_WEIGHTS = ()\nIPC = 1\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--out", "net.npz"], ["--out net.npz", ".safetensors"]),
        (["--out", "net.safetensors", "--nets", "0"], ["--nets 0"]),
        (["--out", "net.safetensors", "--gin.DATA_SOURCE=noise"], ["DATA_SOURCE=real"]),
        (["--out", "net.safetensors", "--gin.PRETRAIN_STEPS=0"], ["PRETRAIN_STEPS = 0"]),
    ],
)
def test_wrong_requests_are_refused(given, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "digits_ipc1", *given]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words), err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nets_are_trained_once_and_a_run_keeps_to_its_net(tmp_path, capsys):
    out, workdir = tmp_path / "net.safetensors", tmp_path / "run"
    command = ["pretrain", "digits_ipc1", "--out", str(out), "--nets", "2", *SHORT]
    assert main(command) == 0
    paths = [tmp_path / f"net_{number}.safetensors" for number in range(2)]
    first, second = (read_net_file(str(path)) for path in paths)
    assert 0 <= float(first.metadata["held_out_accuracy"]) <= 1
    assert json.loads(first.metadata["net"])["width"] == 2
    kernels = [file.arrays["params.head.kernel"] for file in (first, second)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    # Again: what is there stays; what is missing is made as before.
    paths[1].unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert f"{paths[0]} is finished\n" in capsys.readouterr().out
    assert read_net_file(str(paths[1])).arrays.keys() == second.arrays.keys()
    np.testing.assert_array_equal(
        read_net_file(str(paths[1])).arrays["params.head.kernel"], kernels[1]
    )
    assert main([*command, "--gin.SEED=1"]) == 2
    assert str(paths[0]) in capsys.readouterr().err

    def distil(path, *further):
        given = f"--gin.POOL_WEIGHTS={[str(path)]}"
        return main(["distill", "digits_ipc1", "--workdir", str(workdir), *RUN, given, *further])

    assert distil(paths[0]) == 0
    rows = json.loads((workdir / "result.json").read_text())["evaluations"][0]["rows"]
    # Where the best set is that of step 0, its labels are hard, and they are measured once.
    hard = [] if "hard labels" in rows[0]["label"] else ["distilled_hard"]
    assert [row["key"] for row in rows] == ["distilled", *hard, "random_real"]
    identity = json.loads((workdir / "identity.json").read_text())
    assert identity["pool.weights_sha256"] == [first.sha256]
    capsys.readouterr()
    assert distil(paths[1]) == 2
    assert "pool.weights_sha256" in capsys.readouterr().err
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(paths[0].read_bytes())
    assert distil(copy) == 0
