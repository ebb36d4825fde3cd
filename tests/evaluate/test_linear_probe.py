"""The evaluation `linear_probe` against least squares of NumPy on the same features."""

import jax
import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.evaluate.encoders import Encoders
from frepo_scale.evaluate.evaluation import Task
from frepo_scale.evaluate.linear_probe import RIDGES, LinearProbe, _Probe
from frepo_scale.evaluate.protocol import EvaluationConfig
from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.models.weights import write_net_file

NET = NetConfig(width=2, depth=2, norm="none")
SHAPE = (8, 8, 1)  # padded to 12 px: 3 x 3 x 4 = 36 features
TASK = Task(EvaluationConfig(), NET, SHAPE, 2, held_out=30, in_memory=True)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Two nets with random parameters."""
    module, paths = build_net(NET, 2, SHAPE), []
    for number in range(2):
        images = np.zeros((1, *SHAPE), np.float32)
        made = module.init(jax.random.key(number), images, train=False)
        paths.append(tmp_path_factory.mktemp("nets") / f"{number}.safetensors")
        write_net_file(paths[-1], made, {})
    return Encoders(tuple(map(str, paths)), NET, 2, SHAPE)


def accuracy(encoder, images, labels, context):
    """Test accuracy of the ridge that is best on the held-out images, by NumPy."""

    def features(images):
        return np.asarray(
            encoder.module.apply(encoder.variables, images, train=False)[1], np.float64
        )

    f, real, found = features(images), context.real, []
    for ridge in RIDGES:
        rho = ridge * np.trace(f.T @ f) / len(f)
        # Least squares with rows sqrt(rho) I below the features.
        rows = np.concatenate([f, np.sqrt(rho) * np.eye(f.shape[1])])
        w = np.linalg.lstsq(rows, np.concatenate([labels, np.zeros((f.shape[1], 2))]))[0]
        found.append(
            [
                np.mean(np.argmax(features(part.images) @ w, axis=1) == part.labels)
                for part in (real.held_out, real.test)
            ]
        )
    return max(found, key=lambda pair: pair[0])[1]


@pytest.mark.slow
def test_accuracies_are_those_of_least_squares(context, encoders, tmp_path, monkeypatch):
    given = context(tmp_path / "progress.json", encoders=encoders)
    rows = {row.key: row for row in LinearProbe().run(given)}
    with monkeypatch.context() as patch:  # a restart measures nothing again
        patch.setattr(_Probe, "measure", lambda *given: pytest.fail("measured again"))
        again = context(tmp_path / "progress.json", encoders=encoders)
        assert [*LinearProbe().run(again)] == [*rows.values()]
    assert list(rows) == ["distilled", "distilled_hard", "random_real", "full_data"]
    train = given.real.train
    sets = {  # 4 images and 40: fewer and more than the 36 features
        "distilled": given.distilled,
        "full_data": (train.images, scaled_labels(train.labels, 2)),
    }
    for key, (images, labels) in sets.items():
        expected = [accuracy(one, images, labels, given) for one in encoders.load()]
        assert rows[key].score.n == 2
        assert rows[key].score.mean == pytest.approx(np.mean(expected), abs=1e-12)
        assert {*rows[key].facts["ridges"]} <= {*RIDGES}
    # As many draws for each net as the protocol has nets.
    assert rows["random_real"].score.n == 2 * given.config.nets
    assert rows["full_data"].score.mean > 0.9


def test_all_training_images_are_a_choice(context, encoders):
    config = EvaluationConfig(nets=1)
    rows = [row.key for row in LinearProbe().run(context(encoders=encoders, config=config))]
    assert rows == ["distilled", "distilled_hard", "random_real"]


def scaled(encoders, factor, path):
    """The first net with its parameters multiplied."""
    encoder = encoders.load()[0]
    scaled = jax.tree.map(lambda x: np.float32(factor) * x, encoder.variables)
    write_net_file(path, scaled, {})
    return Encoders((str(path),), NET, 2, SHAPE)


def test_features_of_zero_say_nothing_and_those_that_overflow_are_refused(
    context, encoders, tmp_path
):
    config = EvaluationConfig(nets=1)
    zero = scaled(encoders, 0, tmp_path / "zero.safetensors")
    for row in LinearProbe().run(context(encoders=zero, config=config)):
        assert row.score.mean == pytest.approx(0.5)  # always the first of two classes
    huge = scaled(encoders, 1e30, tmp_path / "huge.safetensors")
    with pytest.raises(InputError) as refused:
        list(LinearProbe().run(context(encoders=huge, config=config)))
    assert str(tmp_path / "huge.safetensors") in refused.value.what


def test_it_needs_nets_and_held_out_images(encoders):
    suits = TASK.__class__(**vars(TASK) | {"encoders": encoders})
    LinearProbe().check(suits)
    for changes, what in (
        ({"encoders": None}, "POOL_WEIGHTS"),
        ({"held_out": 0}, "linear_probe"),
        ({"encoders": Encoders(encoders.paths, NetConfig(width=3), 2, SHAPE)}, encoders.paths[0]),
        ({"encoders": Encoders(("gone",), NET, 2, SHAPE)}, "gone"),
    ):
        with pytest.raises(InputError) as caught:
            LinearProbe().check(TASK.__class__(**vars(suits) | changes))
        assert what in caught.value.what
