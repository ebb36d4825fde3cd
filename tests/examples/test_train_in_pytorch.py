"""examples/train_in_pytorch.py does what this package does, part by part and as a whole."""

import os
import subprocess
import sys

import handover
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported_digits import STRENGTHS, digits_export

from frepo_scale.core.types import DistilledSet
from frepo_scale.data import augment as ours
from frepo_scale.data.types import Split
from frepo_scale.data.whitening import Preprocessing, Whitening, fit_preprocessing
from frepo_scale.evaluate.fit import FINAL_DRAWS, FitConfig, Fitter
from frepo_scale.export.formats import Export, read_npz, symmetric_matrix, write_npz
from frepo_scale.jobs.protocol import architecture
from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.ops.preemption import Preemption

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")


@pytest.fixture(scope="module")
def example():
    return handover.example()


@pytest.mark.parametrize("form", ["grey", "colour", "grids"])
def test_net_inputs(example, form, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 4, 4, 1 if form == "grey" else 3), dtype=np.uint8)
    preprocessing = fit_preprocessing(pixels, whiten=form == "colour")
    if form == "grids":  # four interleaved grids of 2 x 2 pixels
        upper = rng.normal(size=12 * 13 // 2).astype(np.float32)
        whitening = Whitening(np.ones(48, np.float32) / 7, symmetric_matrix(upper))
        preprocessing = Preprocessing(
            preprocessing.channel_mean, preprocessing.channel_std, whitening
        )
        data = dict(preprocessing.arrays(), whitening_upper=upper)
    else:
        images = preprocessing.apply(pixels[:3])
        names, hard = ("a", "b", "c"), np.arange(3, dtype=np.int32)
        labels = np.eye(3, dtype=np.float32)
        write_npz(tmp_path / "e.npz", Export(images, labels, hard, names, preprocessing, {}, {}))
        data = dict(np.load(tmp_path / "e.npz"))
    np.testing.assert_allclose(
        example.net_inputs(pixels, data), preprocessing.apply(pixels), rtol=1e-4, atol=1e-4
    )


def with_weights(net, params, image_shape):
    """A net of the example with the parameters of a ConvNet of ours."""
    layers = [layer for layer in net if hasattr(layer, "weight")]
    with torch.no_grad():
        for block, layer in enumerate(layers[:-1]):
            kernel = np.asarray(params[f"conv{block}"]["kernel"]).transpose(3, 2, 0, 1)
            layer.weight.copy_(torch.from_numpy(kernel.copy()))
            layer.bias.copy_(torch.from_numpy(np.array(params[f"conv{block}"]["bias"])))
        channels = layers[-2].weight.shape[0]
        kernel = np.asarray(params["head"]["kernel"])  # rows are in the order (H, W, C)
        side = int((kernel.shape[0] // channels) ** 0.5)
        kernel = kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
        layers[-1].weight.copy_(torch.from_numpy(kernel.reshape(kernel.shape[0], -1).copy()))
        layers[-1].bias.copy_(torch.from_numpy(np.array(params["head"]["bias"])))
    return net


@pytest.mark.parametrize("channels", [1, 3])
def test_training_gives_the_same_net(example, channels, monkeypatch):
    """From the same initial weights, without augmentation: schedule, Adam, loss, net."""
    rng = np.random.default_rng(1)
    shape, classes, steps = (8, 8, channels), 4, 30
    net = NetConfig(width=4, depth=2, norm="none")
    module = build_net(net, classes, shape)
    images = rng.normal(size=(4, *shape)).astype(np.float32)
    labels = rng.normal(size=(4, classes)).astype(np.float32)
    fit = FitConfig(steps, 4, 1e-2, False, handover.NO_AUGMENTATION, FINAL_DRAWS)
    fitter = Fitter(module, fit, 4, 0)
    start = jax.device_get(fitter._start(jnp.int32(0), shape).params)
    trained = fitter.fit(DistilledSet(images, labels), 0, Preemption(), lambda done: None)
    wanted, _ = module.apply({"params": trained.params}, images)

    build = example.build
    monkeypatch.setattr(example, "build", lambda given: with_weights(build(given), start, shape))
    recipe = {
        "architecture": architecture(net, classes, shape),
        "steps": steps,
        "batch": 4,
        "warm_up_steps": 15,
        "learning_rate": 1e-2,
        "final_learning_rate": 1e-4,
        "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    }
    data = {"images": images, "labels": labels}
    found = example.train(data, recipe, 0, augmented=False)
    logits = found(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    first, _ = module.apply({"params": start}, images)
    assert np.abs(np.asarray(wanted) - first).max() > 0.1  # it has learned something


def test_initial_weights(example):
    net = NetConfig(width=16, depth=2, norm="none")
    described = architecture(net, 10, (16, 16, 3))
    torch.manual_seed(0)
    weights = [
        layer.weight.detach().numpy()
        for layer in example.build(described)
        if hasattr(layer, "weight")
    ]
    params = build_net(net, 10, (16, 16, 3)).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    wanted = [params["params"][name]["kernel"] for name in ("conv0", "conv1", "head")]
    for one, other in zip(weights, wanted, strict=True):
        assert one.size == other.size
        assert abs(one.std() / np.std(other) - 1) < 0.15
        assert abs(np.abs(one).max() / np.abs(other).max() - 1) < 0.1  # cut at the same value


def test_a_net_that_it_does_not_build_is_one_line(example):
    for other, net in {
        "instance norm": NetConfig(width=4, depth=2, norm="instance"),
        "global average pool": NetConfig("resnet10", norm="none"),
        "not describe": NetConfig("frepo_scale.models.mlp.MLP", norm="none"),
    }.items():
        with pytest.raises(SystemExit) as ended:
            example.build(architecture(net, 10, (16, 16, 3)))
        assert other in ended.value.code and "\n" not in ended.value.code


@pytest.mark.parametrize("operation", ["colour", "crop", "rotate", "translate", "flip"])
def test_operations(example, operation, monkeypatch):
    """With the same random numbers u in [-1, 1) the operations give the same images."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 6, 6, 3)).astype(np.float32)
    u = rng.uniform(-1, 1, size=(8, 3)).astype(np.float32)
    given = iter(u)

    def rand(*shape):
        count = int(np.prod(shape)) // 3
        values = np.stack([next(given) for _ in range(count)], 1)
        return torch.from_numpy((values + 1) / 2).reshape(shape)

    order = ["colour", "crop", "rotate", "translate", "cutout", "flip"]
    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(torch, "randint", lambda *bounds: torch.tensor(order.index(operation)))
    found = example.augment(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), STRENGTHS)
    s = STRENGTHS
    wanted = {
        "colour": lambda: ours.adjust_colour(
            x, s["brightness"] * u[2], np.exp(s["contrast"] * u[1]), np.exp(s["saturation"] * u[0])
        ),
        "crop": lambda: ours.zoom_by(x, s["crop_scale"] ** u[0], (u[1:3].T + 1) / 2),
        "rotate": lambda: ours.rotate_by(x, s["rotate_degrees"] * u[0]),
        "translate": lambda: ours.translate_by(x, s["translate"] * 6 * u[:2].T),
        "flip": lambda: np.where((u[0] < 0)[:, None, None, None], x[:, :, ::-1], x),
    }[operation]()
    np.testing.assert_allclose(found.numpy().transpose(0, 2, 3, 1), wanted, atol=1e-4)
    assert np.abs(np.asarray(wanted) - x).max() > 0.01


def test_every_operation_is_drawn_and_holes_have_their_sizes(example):
    torch.manual_seed(0)
    x = torch.ones(200, 1, 8, 8)
    holes = set()
    for _ in range(60):
        zeros = (example.augment(x, STRENGTHS | {"flip": False}) == 0).sum((1, 2, 3))
        holes |= {int(count) for count in zeros}
    assert holes == {0, 1, 4, 9, 16}  # sides 1 to floor(0.5 * 8)


@pytest.mark.slow
@pytest.mark.parametrize(("ipc", "nets"), [(1, 10), (10, 60)])
def test_accuracies_agree(ipc, nets, tmp_path):
    """Without and with augmentation the means are within two standard errors."""
    pixels, labels = digits_export(tmp_path / "e.npz", ipc)
    np.savez(tmp_path / "test.npz", images=pixels, labels=labels)
    exported, data = read_npz(tmp_path / "e.npz"), dict(np.load(tmp_path / "e.npz"))
    test = Split(exported.preprocessing.apply(pixels), labels)
    for augmented in (False, True):
        here = handover.in_jax(exported, test, nets, augmented)
        there = handover.in_pytorch(data, pixels, labels, nets, augmented)
        assert handover.standard_errors(here, there) < 2, (here, there)
    command = [sys.executable, handover.EXAMPLE, "e.npz", "test.npz", "--nets=1"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, env=one_thread
    )
    assert done.stdout.startswith(f"{100 * there[0]:.2f} ± 0.00 %")
