"""Accuracy of evaluation networks trained here and by examples/train_in_pytorch.py on one export.

.venv/bin/python benchmarks/handover.py RUN/distilled.npz [--nets 10] [--gin.DATA_DIR=PATH]
"""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale import config
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import NO_AUGMENTATION, AugmentConfig
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.types import Rows, Split, everything
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import FINAL_DRAWS, FitConfig
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator
from frepo_scale.export.formats import Export, read_npz
from frepo_scale.main import split_overrides
from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.ops.preemption import Preemption

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "train_in_pytorch.py"


def example() -> Any:
    """The module examples/train_in_pytorch.py."""
    spec = importlib.util.spec_from_file_location("train_in_pytorch", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_jax(exported: Export, test: Rows, nets: int, augmented: bool) -> list[float]:
    """Test accuracies of networks trained by this package with the recipe of an export.

    Args:
      exported: the set.
      test: real images as net inputs, with labels.
      nets: how many networks.
      augmented: whether batches are augmented.
    """
    recipe = exported.evaluation
    net = NetConfig(recipe["net"], recipe["width"], recipe["depth"], recipe["norm"], recipe["args"])
    module = build_net(net, exported.labels.shape[1], exported.images.shape[1:])
    augment = AugmentConfig(**recipe["augment"]) if augmented else NO_AUGMENTATION
    evaluator = Evaluator(module, EvaluationConfig(), augment, 0, Preemption())
    fit = FitConfig(
        steps=recipe["steps"],
        batch=recipe["batch"],
        learning_rate=recipe["learning_rate"],
        constant=False,
        augment=augment,
        draws=FINAL_DRAWS,
    )
    labelled = DistilledSet(exported.images, exported.labels)
    found = evaluator.measure(
        "handover",
        fit,
        nets,
        lambda number: labelled,
        lambda trained: trained.accuracy(test),
        FinishedNets(None, {}, ""),
    )
    return [top1 for top1, _ in found]


def in_pytorch(
    data: Mapping[str, np.ndarray],
    pixels: np.ndarray,
    labels: np.ndarray,
    nets: int,
    augmented: bool,
) -> list[float]:
    """Test accuracies of networks trained by the example.

    Args:
      data: the arrays of an export, as numpy reads them.
      pixels: (n, H, W, C) uint8 real images.
      labels: (n,) integers.
      nets: how many networks.
      augmented: whether batches are augmented.
    """
    import torch

    # Steps of such nets are short: on busy cores several threads mostly wait for each other.
    torch.set_num_threads(1)
    module = example()
    inputs = module.net_inputs(pixels, data).astype(np.float32)
    recipe = json.loads(data["meta"].item())["evaluation"]
    return [
        module.accuracy(module.train(data, recipe, seed, augmented), inputs, labels)
        for seed in range(nets)
    ]


def standard_errors(one: Sequence[float], other: Sequence[float]) -> float:
    """The distance of two means in standard errors of their difference."""
    variances = [np.var(values, ddof=1) / len(values) for values in (one, other)]
    return float(abs(np.mean(one) - np.mean(other)) / math.sqrt(max(sum(variances), 1e-12)))


def main(arguments: Sequence[str]) -> None:
    """Prints one line for each kind of training."""
    rest, overrides = split_overrides(arguments)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("--nets", type=int, default=10)
    given = parser.parse_args(rest)
    exported = read_npz(given.export)
    recipe = config.load_text("export", str(exported.provenance["config"]), overrides)
    test = load_dataset(recipe.config.data).test
    pixels, labels = everything(test), np.asarray(test.labels)
    inputs = Split(exported.preprocessing.apply(pixels), labels)
    with np.load(given.export) as npz:
        data = dict(npz)
    for augmented in (False, True):
        ours = in_jax(exported, inputs, given.nets, augmented)
        theirs = in_pytorch(data, pixels, labels, given.nets, augmented)
        print(
            f"{'with' if augmented else 'without'} augmentation:"
            f" here {100 * np.mean(ours):.2f} ± {100 * np.std(ours):.2f},"
            f" PyTorch {100 * np.mean(theirs):.2f} ± {100 * np.std(theirs):.2f},"
            f" {standard_errors(ours, theirs):.2f} standard errors apart",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
