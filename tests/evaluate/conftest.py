"""Two classes of tiny images, and a context to evaluate them in."""

import numpy as np
import pytest

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.data.types import Split
from frepo_scale.evaluate.evaluation import EvaluationContext, RealData
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator
from frepo_scale.models.convnet import ConvNet
from frepo_scale.models.registry import NetConfig
from frepo_scale.ops.preemption import Preemption

CONFIG = EvaluationConfig(
    nets=2, steps=30, probe_nets=3, probe_steps=20, learning_rate=1e-2, full_data=True
)
EVALUATOR = Evaluator(
    ConvNet(num_classes=2, width=2, depth=1, norm="none"),
    CONFIG,
    AugmentConfig(flip=False),
    0,
    Preemption(),
)


def make_blobs(n, seed):
    """Images of two classes: the upper half of the second is brighter."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.int32)
    images = 0.5 * rng.normal(size=(n, 8, 8, 1)).astype(np.float32)
    images[labels == 1, :4] += 1
    return Split(images, labels)


def make_context(path=None, settings="a", **changes):
    """A context whose distilled set are two clean images of each class."""
    labels = np.repeat(np.eye(2, dtype=np.float32) - 0.5, 2, axis=0)
    clean = np.zeros((4, 8, 8, 1), np.float32)
    clean[2:, :4] = 1
    sets = {"distilled": DistilledSet(clean, labels)}
    given = {
        "sets": sets,
        "real": RealData(make_blobs(40, 0), make_blobs(60, 1), 2, make_blobs(30, 2)),
        "ipc": 2,
        "seed": 0,
        "config": CONFIG,
        "evaluator": EVALUATOR,
        "finished": FinishedNets(path, sets, settings),
        "net": NetConfig(width=2, depth=1, norm="none"),
    }
    return EvaluationContext(**(given | changes))


@pytest.fixture
def blobs():
    return make_blobs


@pytest.fixture
def context():
    return make_context
