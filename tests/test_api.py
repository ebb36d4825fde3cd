"""The Python API: `import frepo_scale as fs`."""

import doctest
import importlib.metadata
import inspect
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import frepo_scale as fs
from frepo_scale import api
from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.export import loaded
from frepo_scale.export.folder import write_folder
from frepo_scale.export.formats import Export, write_npz
from frepo_scale.export.safetensors_folder import write_safetensors
from frepo_scale.jobs import distill as distill_job

NAMES = tuple("0123456789")


def export(**changes):
    """Ten images of 8 x 8 grey pixels, as the digits leave them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    preprocessing = fit_preprocessing(pixels, whiten=False)
    given = {
        "images": preprocessing.apply(pixels[:10]),
        "labels": rng.normal(size=(10, 10)).astype(np.float32),
        "hard_labels": np.arange(10, dtype=np.int32),
        "class_names": NAMES,
        "preprocessing": preprocessing,
        "evaluation": {"net": "convnet"},
        "provenance": {"dataset": "digits", "step": 2000},
    }
    return Export(**(given | changes))


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A current folder with distilled.npz."""
    monkeypatch.chdir(tmp_path)
    write_npz("distilled.npz", export())
    return tmp_path / "distilled.npz"


def test_the_package_is_light_and_says_what_it_has():
    program = (
        "import sys, frepo_scale as fs\n"
        "assert set(fs.__all__) <= set(dir(fs))\n"
        "print([m for m in ('jax', 'numpy', 'gin', 'tensorflow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert all(getattr(fs, name) is not None for name in fs.__all__)
    assert fs.__version__ == importlib.metadata.version("frepo-scale")
    with pytest.raises(AttributeError, match="disstil"):
        _ = fs.disstil


@pytest.mark.parametrize("name", ["distill", "evaluate", "plan"])
def test_commands_have_the_names_of_packages(name, monkeypatch):
    """`fs.evaluate(...)` works before and after `import frepo_scale.evaluate.fit`."""
    __import__(f"frepo_scale.{name}")
    assert inspect.signature(getattr(fs, name)) == inspect.signature(getattr(api, name))
    assert getattr(fs, name).__doc__ == inspect.getdoc(getattr(api, name))
    monkeypatch.setattr(api, name, lambda *args, **settings: {"args": args, "settings": settings})
    assert getattr(fs, name)("a", STEPS=3) == {"args": ("a",), "settings": {"STEPS": 3}}
    assert getattr(fs, name) is sys.modules[f"frepo_scale.{name}"]


def test_load_gives_what_was_written(file):
    written = export()
    for path in ("distilled.npz", file, file.parent):  # a file, a path, a workdir
        found = fs.load(path)
        for name in ("images", "labels", "hard_labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
        assert (found.class_names, found.evaluation) == (NAMES, {"net": "convnet"})
        np.testing.assert_array_equal(found.to_pixels(), written.to_pixels())
    assert len(found) == 10
    assert isinstance(found, fs.LoadedSet)


def test_load_reads_a_safetensors_folder(file):
    write_safetensors("hub", export())
    np.testing.assert_array_equal(fs.load("hub").images, export().images)


def test_a_folder_of_pixels_is_not_loaded_as_net_inputs(file):
    write_folder("pixels", export())
    with pytest.raises(fs.InputError) as caught:
        fs.load("pixels")
    assert "pixels" in caught.value.what and "--format folder" in caught.value.fix


def test_load_from_a_store(store, tmp_path):
    write_npz("gs://bucket/run/distilled.npz", export())
    for path in ("gs://bucket/run/distilled.npz", "gs://bucket/run"):
        np.testing.assert_array_equal(fs.load(path).images, export().images)


def test_what_is_no_distilled_set(file):
    os.mkdir("empty")
    (file.parent / "text.npz").write_text("no")
    for path in ("nowhere", "nowhere.npz", "empty", "text.npz", "ftp://x/y"):
        with pytest.raises(fs.InputError) as caught:
            fs.load(path)
        assert path in caught.value.what


def test_arrays_of_numpy_and_jax(file):
    found = fs.load(file)
    images, labels = found.to_numpy()
    assert images is found.images and labels is found.labels
    distilled = found.as_jax()
    np.testing.assert_array_equal(distilled.images, images)
    np.testing.assert_array_equal(distilled.labels, labels)


def test_tensors_of_pytorch(file):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    found = fs.load(file)
    images, labels = found.to_torch()
    assert (tuple(images.shape), tuple(labels.shape)) == ((10, 1, 8, 8), (10, 10))
    np.testing.assert_array_equal(images.numpy().transpose(0, 2, 3, 1), found.images)
    np.testing.assert_array_equal(labels.numpy(), found.labels)
    images.zero_()
    labels.zero_()
    assert found.images.any() and found.labels.any()  # the tensors are copies


def test_without_pytorch(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError) as caught:
        fs.load(file).to_torch()
    assert "-m pip install 'frepo-scale[torch]'" in caught.value.fix


def test_repr(file):
    found = fs.load(file)
    assert repr(found).startswith("LoadedSet(10 images (8, 8, 1) of 10 classes")
    assert "dataset='digits', step=2000" in repr(found)
    write_npz("bare.npz", export(provenance={}))
    assert repr(fs.load("bare.npz")) == "LoadedSet(10 images (8, 8, 1) of 10 classes)"


def test_the_examples_of_the_docstrings(file):
    found = doctest.testmod(loaded)
    assert found.attempted > 5
    assert not found.failed


def test_values_are_read_back_as_they_were_given(monkeypatch, tmp_path):
    seen = {}

    def stop(recipe, workdir):
        seen["config"], seen["workdir"] = recipe.config, workdir
        raise fs.Preempted(42)

    monkeypatch.setattr(distill_job, "distill", stop)
    settings = {
        "STEPS": 7,
        "LEARNING_RATE": 1e-2,
        "REGRESSION_FLIP": True,
        "NORM": "none",
        "NET_ARGS": {},
    }
    settings |= {"DATA_DIR": tmp_path, "EVALUATIONS": ["accuracy"], "Pool.batch": 5}
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(fs.Preempted):
        fs.distill("digits_ipc1", tmp_path / "w", **settings)
    config = seen["config"]
    assert (config.distill.steps, config.distill.learning_rate) == (7, 1e-2)
    assert config.distill.flip is True
    assert (config.net.norm, config.data.directory) == ("none", str(tmp_path))
    assert config.pool.batch == 5
    assert seen["workdir"] == tmp_path / "w"
    with pytest.raises(fs.Preempted):
        fs.distill("digits_ipc1")
    assert str(seen["workdir"]) == "runs/digits_ipc1"
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_wrong_names_are_input_errors(file):
    with pytest.raises(fs.InputError, match="digits_ipc1"):
        fs.distill("digits_icp1")
    with pytest.raises(fs.InputError, match="STEPS"):
        fs.distill("digits_ipc1", STEP=3)
    with pytest.raises(fs.InputError, match="provenance"):
        fs.evaluate(file)  # without the recipe that made it


def test_gpus_are_not_a_topology():
    """The advice is not to install a compiler for TPUs."""
    with pytest.raises(InputError) as caught:
        fs.plan("digits_ipc1", topology="h100:8")
    assert caught.value.what == "topology='h100:8'"
    assert "plan RECIPE --on h100:8" in caught.value.fix


@pytest.mark.slow
def test_a_run_from_python(tmp_path, capsys):
    settings = {"STEPS": 4, "WIDTH": 8, "BATCH": 64, "PROBE_NETS": 1, "PROBE_STEPS": 2}
    settings |= {"EVAL_NETS": 2, "EVAL_STEPS": 20, "FULL_DATA": False, "PROFILE_AT": 0}
    workdir = tmp_path / "run"
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    result = fs.distill("digits_ipc1", workdir, **settings)
    assert result == json.loads((workdir / "result.json").read_text())
    assert result["distilled"]["n"] == 2
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert fs.distill("digits_ipc1", workdir, **settings) == result  # finished
    distilled = fs.load(workdir)
    assert "recipe='digits_ipc1'" in repr(distilled)
    assert distilled.results["distilled"] == result["distilled"]  # completed after the evaluation
    convolutions = [
        layer["channels"]
        for layer in distilled.evaluation["architecture"]["layers"]
        if layer["op"] == "convolution"
    ]
    assert convolutions == [8, 16]
    again = fs.evaluate(workdir)
    assert again["distilled"] == result["distilled"]  # the same protocol gives the same number
    one = fs.evaluate(workdir / "distilled.npz", EVAL_NETS=1)
    assert one["distilled"]["n"] == 1
    assert one == fs.evaluate(str(workdir), EVAL_NETS=1)
    needs = fs.plan("digits_ipc1", MESH_DATA=1, **settings)
    assert needs["operations"] > 1e6 and needs["arguments"] > 0 and needs["devices"] >= 1
