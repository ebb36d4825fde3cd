"""Every recipe parses, builds, has the paper's settings, and names missing data clearly."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from frepo_scale import config
from frepo_scale.data import sources
from frepo_scale.main import main
from frepo_scale.models.registry import build_net, feature_dim
from frepo_scale.models.weights import write_net_file

RECIPES = sorted(path.stem for path in config.RECIPES.glob("*.gin"))

# docs/algorithm.md sections 3 to 5 and 7, copied by hand:
# name: images per class, outer steps, depth, flip, evaluation steps, probe steps, accuracy.
K = 1000
PAPER = {
    "mnist_ipc1": (1, 500 * K, 3, False, 1 * K, 1000, "not measured"),
    "mnist_ipc10": (10, 500 * K, 3, False, 2 * K, 1000, "not measured"),
    "mnist_ipc50": (50, 500 * K, 3, False, 5 * K, 1000, "not measured"),
    "fashion_mnist_ipc1": (1, 500 * K, 3, False, 1 * K, 1000, "75.6"),
    "fashion_mnist_ipc10": (10, 500 * K, 3, False, 2 * K, 1000, "86.2"),
    "fashion_mnist_ipc50": (50, 500 * K, 3, False, 5 * K, 1000, "89.6"),
    "cifar10_ipc1": (1, 500 * K, 3, True, 1 * K, 1000, "46.8 ± 0.7"),
    "cifar10_ipc10": (10, 500 * K, 3, True, 2 * K, 1000, "65.5 ± 0.4"),
    "cifar10_ipc50": (50, 500 * K, 3, True, 5 * K, 1000, "71.7 ± 0.2"),
    "cifar100_ipc1": (1, 500 * K, 3, True, 2 * K, 1000, "28.7 ± 0.1"),
    "cifar100_ipc10": (10, 500 * K, 3, False, 10 * K, 2000, "42.5 ± 0.2"),
    "cifar100_ipc50": (50, 500 * K, 3, False, 40 * K, 5000, "44.3 ± 0.2"),
    "tiny_imagenet_ipc1": (1, 500 * K, 4, True, 20 * K, 1000, "15.4 ± 0.3"),
    "tiny_imagenet_ipc10": (10, 500 * K, 4, False, 40 * K, 5000, "25.4 ± 0.2"),
    "cub200_ipc1": (1, 500 * K, 3, True, 20 * K, 1000, "not measured"),
    "cub200_ipc10": (10, 500 * K, 3, True, 40 * K, 1000, "not measured"),
    "imagenette_ipc10": (10, 500 * K, 5, True, 2 * K, 1000, "66.5 ± 0.8"),
    "imagewoof_ipc10": (10, 500 * K, 5, True, 2 * K, 1000, "42.2 ± 0.9"),
    "imagenet1k_ipc1": (1, 2000 * K, 4, False, 10 * K, 2500, "7.5 ± 0.3"),
    "imagenet1k_ipc2": (2, 2000 * K, 4, False, 40 * K, 5000, "9.7 ± 0.2"),
}
DIGITS = ["digits_ipc1", "digits_ipc10"]
TWINS = ["cifar100_ipc50_ridge", "cub200_ipc10_ridge"]
SMOKE = "imagenet1k_smoke"
FROZEN = "cifar10_ipc50_frozen"
# The paper's applications: parts, runs, images per class, distilled images of a run.
SERIES = {
    "cifar100_continual_5": (5, 5, 20, 400),
    "cifar100_continual_10": (10, 10, 20, 200),
    "fashion_mnist_membership": (6, 5, 50, 500),
}
# RCIG, and few steps of FRePo, on each of these data sets, at one and at ten images per class.
CELLS = [
    f"{dataset}_ipc{ipc}"
    for dataset in ("cifar10", "cifar100", "fashion_mnist", "tiny_imagenet", "imagenet1k")
    for ipc in (1, 10)
]
RCIG, FAST = ([f"{cell}_{kind}" for cell in CELLS] for kind in ("rcig", "fast"))
# Ours, for pods: images per class, outer steps, members, pool, devices on each axis of the mesh.
PODS = {
    "imagenet1k_ipc2_m4": (2, 500 * K, 4, 16, (4, 4)),
    "imagenet1k_ipc2_m16": (2, 125 * K, 16, 32, (16, 16)),
    "imagenet1k_ipc10": (10, 500 * K, 4, 16, (4, 4)),
    "imagenet1k_ipc50": (50, 125 * K, 16, 32, (16, 16)),
}

# data set: classes, train images of a class, side, channels, and what its form is called.
# 11 images leave at least 10 (and 53 at least 50) beside the held-out 5 %.
DATA = {
    "mnist": (10, 53, 28, 1, "train-images-idx3-ubyte"),
    "fashion_mnist": (10, 53, 28, 1, "train-images-idx3-ubyte"),
    "cifar10": (10, 53, 32, 3, "cifar-10-binary.tar.gz"),
    "cifar100": (100, 53, 32, 3, "cifar-100-binary.tar.gz"),
    "tiny_imagenet": (200, 11, 64, 3, "tiny-imagenet-200"),
    "cub200": (200, 11, 32, 3, "CUB_200_2011 unpacked"),
    "imagenette": (10, 53, 128, 3, "imagenette2 unpacked"),
    "imagewoof": (10, 53, 128, 3, "imagewoof2 unpacked"),
    "imagenet1k": (1000, 2, 64, 3, "train/<class>/<image>"),
}


def dataset_of(name: str) -> str:
    return re.sub(r"_(smoke|ipc|continual|membership).*", "", name)


def ipc_of(name: str) -> int:
    return 1 if name == SMOKE else int(re.search(r"_ipc(\d+)", name)[1])


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """Writes a data set of the right shape once; returns its path."""
    written: dict[str, Path] = {}

    def write(dataset: str) -> Path:
        if dataset not in written:
            classes, per_class, side, channels, _ = DATA[dataset]
            path = tmp_path_factory.mktemp("data") / f"{dataset}.npz"
            labels = np.repeat(np.arange(classes), per_class)
            shape = (side, side, channels)
            train = np.zeros((len(labels), *shape), np.uint8)
            train[0] = 255  # equal images are refused
            np.savez(
                path,
                x_train=train,
                y_train=labels,
                x_test=np.zeros((2, *shape), np.uint8),
                y_test=np.array([0, classes - 1]),
            )
            written[dataset] = path
        return written[dataset]

    return write


def test_every_recipe_of_the_issue_is_there_and_no_other():
    assert sorted([*PAPER, *DIGITS, *TWINS, *PODS, *RCIG, *FAST, *SERIES, SMOKE, FROZEN]) == RECIPES


@pytest.mark.parametrize("name", sorted({*RECIPES} - {*SERIES, FROZEN}))
def test_a_recipe_builds(name, made_up, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = dataset_of(name)
    given = [] if dataset == "digits" else [f"--gin.DATA_DIR={made_up(dataset)}", "--gin.BATCH=64"]
    if name in PODS:
        given += ["--gin.MESH_POOL=1", "--gin.MESH_DATA=1", "--gin.IPC=2"]
    if name in (
        "imagenet1k_ipc10_rcig",
        "imagenet1k_ipc10_fast",
    ):  # there are two images of a class
        given += ["--gin.IPC=2"]
    if name == SMOKE:  # these images are not prepared
        given += ["--gin.DATA_PLACEMENT=auto"]
    assert main(["distill", name, "--dry-run", *given]) == 0
    out, err = capsys.readouterr()
    classes = 10 if dataset == "digits" else DATA[dataset][0]
    ipc = 2 if "--gin.IPC=2" in given else ipc_of(name)
    assert re.search(rf"{classes} classes\n(.*\n)*?{classes * ipc} distilled images\n", out)
    assert re.search(r"\n[\d,]+ entries seen = [\d,]+ images read", out)
    assert f"IPC = {ipc}\n" in out  # the operative configuration
    assert re.search(r"\nTotal: [\d,]+ -- [\d,]+ bytes\n", out)  # the parameter overview
    assert "memory, MiB" in out and f"frepo-scale plan {name} --on cpu\n" in out
    assert out.endswith(f"workdir runs/{name}; dry run: nothing was trained.\n")
    assert err == ""
    assert list(tmp_path.iterdir()) == []


def test_the_frozen_recipe_builds_with_the_nets_that_it_names(
    made_up, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = config.load_recipe(config.find_recipe(FROZEN), {}).config
    module = build_net(found.net, 10, (32, 32, 3))
    assert found.distill.ipc * 10 > feature_dim(module, (32, 32, 3))  # more images than features
    run = ["distill", FROZEN, "--dry-run", f"--gin.DATA_DIR={made_up('cifar10')}"]
    assert main([*run, "--gin.BATCH=64"]) == 2
    assert found.pool.weights[0] in capsys.readouterr().err
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    for path in found.pool.weights:
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), dict(shapes))
        write_net_file(tmp_path / path, zeros, {})
    assert main([*run, "--gin.BATCH=64"]) == 0
    assert "\n500 distilled images\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", SERIES)
def test_a_series_builds(name, made_up, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts, runs, ipc, size = SERIES[name]
    found = config.load_recipe(config.find_recipe(name), {}).config
    assert (found.series.parts, found.series.runs or parts) == (parts, runs)
    assert (found.distill.ipc, found.distill.steps, found.data.batch) == (ipc, 500 * K, 1024)
    assert found.distill.flip == ("continual" in name)
    small = ["--gin.BATCH=32", "--gin.IPC=5"]  # of the made-up images
    data = f"--gin.DATA_DIR={made_up(dataset_of(name))}"
    assert main(["distill", name, "--dry-run", data, *small]) == 0
    out, err = capsys.readouterr()
    assert f"\n{5 * size // ipc} distilled images\n" in out
    assert [f"runs/{name}/part_{run:02d}: " in out for run in range(runs + 1)] == [
        *[True] * runs,
        False,
    ]
    assert err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PAPER)
def test_without_its_data_a_recipe_says_what_to_put_where(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = dataset_of(name)
    spec = sources.SPECS[dataset]
    here = tuple(path for path in spec.default_dirs if not path.startswith("/"))
    assert here, "at least one default path relative to the current folder"
    monkeypatch.setitem(sources.SPECS, dataset, replace(spec, default_dirs=here))
    assert main(["distill", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("frepo-scale: ")
    assert err.count("\n") == 1
    for words in (f"'{dataset}' not found at {here[0]}", DATA[dataset][-1], "--gin.DATA_DIR=PATH"):
        assert words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_holds_the_papers_settings(name):
    ipc, steps, depth, flip, evaluation_steps, probe_steps, _ = PAPER[name]
    found = config.load_recipe(config.find_recipe(name), {}).config
    classes = DATA[dataset_of(name)][0]
    assert found.data.name == dataset_of(name)
    assert found.data.batch == 1024
    assert found.data.skip_unreadable == 0
    assert (found.distill.ipc, found.distill.steps) == (ipc, steps)
    assert (found.distill.learning_rate, found.distill.flip) == (3e-4, flip)
    assert found.distill.learn_labels is True
    assert (found.ridge.ridge, found.ridge.form) == (1e-6, "auto")
    net = found.net
    assert (net.name, net.width, net.depth, net.norm) == ("convnet", 128, depth, "batch")
    pool = found.pool
    assert (pool.size, pool.max_online, pool.learning_rate, pool.batch) == (10, 100, 3e-4, 1000)
    assert pool.members == 1
    assert found.loop.probe_every == 10_000
    evaluation = found.evaluation
    assert (evaluation.nets, evaluation.probe_nets) == (5, 5)
    assert evaluation.steps_for(ipc * classes) == evaluation_steps
    assert evaluation.probe_steps == probe_steps
    assert (evaluation.learning_rate, evaluation.batch) == (3e-4, 500)
    assert evaluation.full_data is False


@pytest.mark.parametrize("name", PODS)
def test_a_pod_recipe_fills_its_pod_and_sees_as_many_images_as_the_papers(name):
    ipc, steps, members, size, mesh = PODS[name]
    found = config.load_recipe(config.find_recipe(name), {}).config
    paper = config.load_recipe(config.find_recipe("imagenet1k_ipc2"), {}).config
    assert (found.distill.ipc, found.distill.steps) == (ipc, steps)
    assert (found.pool.members, found.pool.size) == (members, size)
    assert (found.mesh.pool, found.mesh.data) == mesh
    assert members % mesh[0] == size % members == found.data.batch % mesh[1] == 0
    assert steps * members == paper.distill.steps
    assert (found.data, found.net) == (paper.data, paper.net)
    # Rows of the regression against features: above an eighth the paper's ridge overfits.
    assert (found.ridge.ridge > 1e-6) == (1000 * ipc > 16384 / 8)


@pytest.mark.parametrize("name", RCIG)
def test_an_rcig_recipe_has_the_published_settings_and_the_papers_data(name):
    found = config.load_recipe(config.find_recipe(name), {}).config
    paper = config.load_recipe(config.find_recipe(f"{dataset_of(name)}_ipc1"), {}).config
    assert found.data == paper.data
    assert (found.net.depth, found.net.norm) == (paper.net.depth, "none")
    # Softplus at depth 3 only; evaluation nets are the same as FRePo's.
    assert (found.net.activation == "softplus") == (found.net.depth == 3)
    assert found.net.for_evaluation() == paper.net.for_evaluation()
    assert (found.algorithm.name, found.algorithm.args) == ("rcig", {})
    outer = found.outer
    assert (outer.loss, outer.optimiser, outer.schedule) == (
        "cross_entropy",
        "adabelief",
        "constant",
    )
    assert (outer.average, outer.margin, outer.label_scale) == (0.99, 0.5, "one")
    assert (found.ridge.ridge, found.ridge.scale) == (5e-4, "absolute")
    pool = found.pool
    assert (pool.size, pool.ages, pool.max_online) == (30, "zero", 99)
    assert (pool.online_steps, pool.draw_online_steps) == (15, True)
    assert pool.learning_rate == 5e-5


@pytest.mark.parametrize("name", FAST)
def test_a_fast_recipe_differs_in_length_learning_rate_and_loss_alone(name):
    found, longer = (
        config.load_recipe(config.find_recipe(x), {}).config
        for x in (name, name.removesuffix("_fast"))
    )
    assert (found.outer.loss, found.distill.learning_rate) == ("cross_entropy", 1e-2)
    assert (found.distill.steps, found.loop.probe_every) == (600, 200)
    same = replace(
        found,
        outer=replace(found.outer, loss="mse"),
        distill=replace(
            found.distill,
            learning_rate=longer.distill.learning_rate,
            steps=longer.distill.steps,
            chunk=longer.distill.chunk,
        ),
        loop=longer.loop,
        # imagenet1k_ipc10 is for pods.
        pool=longer.pool if name == "imagenet1k_ipc10_fast" else found.pool,
        mesh=longer.mesh if name == "imagenet1k_ipc10_fast" else found.mesh,
    )
    assert same == longer


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_differs_in_the_ridge_alone(name):
    found, paper = (
        config.load_recipe(config.find_recipe(x), {}).config
        for x in (name, name.removesuffix("_ridge"))
    )
    assert found.ridge.ridge > 1e-6
    assert replace(found, ridge=paper.ridge) == paper


@pytest.mark.parametrize("name", [*PAPER, *TWINS])
def test_above_an_eighth_of_the_features_the_papers_ridge_has_a_twin(name):
    found = config.load_recipe(config.find_recipe(name), {}).config
    classes, _, side, channels, _ = DATA[dataset_of(name)]
    module = build_net(found.net, classes, (side, side, channels))
    rows = classes * found.distill.ipc * (2 if found.distill.flip else 1)
    above = rows > feature_dim(module, (side, side, channels)) / 8
    assert above == (f"{name.removesuffix('_ridge')}_ridge" in TWINS)


@pytest.mark.parametrize("name", DIGITS)
def test_the_digits_recipes_are_small_and_compare_with_all_data(name):
    found = config.load_recipe(config.find_recipe(name), {}).config
    assert found.data.name == "digits"
    assert found.distill.ipc == ipc_of(name)
    assert found.distill.flip is False
    assert found.ridge.ridge == {1: 1e-6, 10: 1e-2}[found.distill.ipc]
    assert found.evaluation.nets == 3
    assert found.evaluation.full_data is True


def test_an_installed_program_has_every_recipe():
    root = config.RECIPES.resolve().parent
    package = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = package["package-data"]["frepo_scale"]
    copied = {path for pattern in patterns for path in (root / "frepo_scale").glob(pattern)}
    assert copied == set(config.RECIPES.rglob("*.gin"))
    assert {path.stem for path in copied} > set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_says_what_to_expect(name):
    header = []
    for line in (config.RECIPES / f"{name}.gin").read_text().splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    facts = dict(re.findall(r"^# (\w+): +(\S.*)$", "\n".join(header), re.MULTILINE))
    assert facts.keys() >= {"command", "hardware", "time", "accuracy"}
    # Without an argument the script runs the first recipe of a newcomer.
    launcher = "launch/local.sh" if name == "digits_ipc1" else f"launch/local.sh {name}.gin"
    found = re.search(r"TPU v5e (\d+)x(\d+)", facts["hardware"])
    if found:  # more than one machine has
        chips = int(found[1]) * int(found[2])
        launcher = f"launch/tpu_pod.sh --accelerator-type v5litepod-{chips} {name}.gin"
    assert f"{facts['command']} ".startswith(f"{launcher} ")
    if name in PAPER:
        assert facts["accuracy"].startswith(PAPER[name][-1])
