"""`frepo-scale pretrain`: trains nets on the training part of a recipe's data, for `POOL_WEIGHTS`.

The nets are those of the pool. They are trained by the code of the evaluations, with their loss,
labels, augmentation and schedule (docs/algorithm.md section 5), on the training images that are not
held out, as net inputs. No test image is used.
"""

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError, Preempted
from frepo_scale.core.keys import Purpose
from frepo_scale.core.paths import is_file
from frepo_scale.core.tensors import numpy_files
from frepo_scale.core.types import DistilledSet
from frepo_scale.core.versions import versions
from frepo_scale.data.dataset import Dataset, load_dataset
from frepo_scale.data.placement import room_of
from frepo_scale.data.types import everything
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.evaluate.fit import Draws, FitConfig, TrainedNet
from frepo_scale.evaluate.protocol import Evaluator
from frepo_scale.jobs.exported import portable
from frepo_scale.jobs.run import augmentation
from frepo_scale.jobs.settings import Recipe
from frepo_scale.jobs.surroundings import leaving_at_once
from frepo_scale.models.registry import build_net
from frepo_scale.models.weights import net_metadata, read_net_file, write_net_file
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.runtime import agree, is_first
from frepo_scale.parallel.share import on_first
from frepo_scale.train.inputs import Inputs

PRETRAIN_DRAWS = Draws(Purpose.PRETRAIN_INIT, Purpose.PRETRAIN_BATCH, Purpose.PRETRAIN_AUGMENT)
_STOPPED = "stopped; the same command continues with "
_IDENTITY = "pretrain_sha256"  # of the metadata: what the parameters are a function of


def pretrain(recipe: Recipe, out: Path, nets: int = 1) -> list[Path]:
    """Trains nets and writes a file for each; files that are there already are kept.

    Args:
      recipe: its data, its net and its settings of `PretrainConfig`.
      out: the file; of several nets `<name>_0.safetensors`, `<name>_1.safetensors`, ...
      nets: how many; net number k is the same for any number of nets.

    Returns:
      The files.

    Raises:
      InputError: the recipe or the data are wrong, or a file holds something else.
      Preempted: a stop was requested; the same call continues with the next net.
    """
    numpy_files()  # raises before the data are read
    paths = _paths(out, nets)
    with pinned(), matmul_precision(recipe.config.distill.matmul_precision):
        mesh = single_device_mesh()
        dataset = load_dataset(recipe.config.data, room_of(mesh))
        _check_in_memory(dataset)
        identities = [_identity(recipe, dataset, number) for number in range(nets)]
        # All files are checked before the first net is trained.
        done = [_is_done(path, mine) for path, mine in zip(paths, identities, strict=True)]
        preemption = Preemption()
        preemption.install()
        if not all(done):
            trainer = _Trainer(recipe, dataset, Inputs(dataset, dataset.fit_preprocessing(), mesh))
        for number, path in enumerate(paths):
            if done[number]:
                _say(f"{path} is finished")
                continue
            try:
                metadata = {_IDENTITY: identities[number]} | _about(recipe, dataset, number)
                # A net that is not finished is not saved.
                with leaving_at_once(preemption, partial(_say, _STOPPED + str(path))):
                    trainer.train(number, path, metadata, preemption)
            except Preempted:
                _say(_STOPPED + str(path))
                raise Preempted(preemption.exit_code) from None
    return paths


class _Trainer:
    """The training images of a recipe, and how nets are trained on them."""

    def __init__(self, recipe: Recipe, dataset: Dataset, inputs: Inputs) -> None:
        config, labels = recipe.config, np.asarray(inputs.train.labels)
        self._config, self._dataset, self._held_out = config, dataset, inputs.held_out
        self._set = DistilledSet(
            everything(inputs.train), scaled_labels(labels, dataset.num_classes)
        )
        self._fit = FitConfig(
            config.pretrain.steps,
            config.pretrain.batch,
            config.pretrain.learning_rate,
            constant=False,
            augment=augmentation(config, dataset),
            draws=PRETRAIN_DRAWS,
            dtype=config.pool.dtype,
        )

    def train(
        self, number: int, path: Path, metadata: dict[str, str], preemption: Preemption
    ) -> None:
        """Trains net `number` and writes its file."""
        config, dataset = self._config, self._dataset
        module = build_net(config.net, dataset.num_classes, dataset.image_shape)
        evaluator = Evaluator(
            module, config.evaluation, self._fit.augment, config.distill.seed, preemption
        )
        trained = evaluator.train(f"net {number}", self._fit, self._set, number)
        accuracy = self._accuracy(trained)
        if accuracy is not None:
            metadata = metadata | {"held_out_accuracy": f"{accuracy:.6f}"}
        on_first(lambda: write_net_file(path, trained.variables, metadata))
        measured = "no held-out images"
        if accuracy is not None:
            measured = f"{100 * accuracy:.2f} % of {len(self._held_out)} held-out images"
        _say(f"{path} written: {measured}")

    def _accuracy(self, trained: TrainedNet) -> float | None:
        return trained.accuracy(self._held_out)[0] if len(self._held_out) else None


def _paths(out: Path, nets: int) -> list[Path]:
    if out.suffix != ".safetensors":
        raise InputError(
            f"--out {out}", "a file name that ends with .safetensors", f"use {out}.safetensors"
        )
    if nets == 1:
        return [out]
    return [out.with_name(f"{out.stem}_{number}.safetensors") for number in range(nets)]


def _check_in_memory(dataset: Dataset) -> None:
    if dataset.placement in ("stream", "constant"):
        raise InputError(
            "pretrain with training images that are read during the run",
            "images in memory",
            "use --gin.DATA_PLACEMENT=memory and --gin.DATA_SOURCE=real",
        )


def _identity(recipe: Recipe, dataset: Dataset, number: int) -> str:
    config = recipe.config
    content: dict[str, Any] = {
        "data": dataset.fingerprint,
        "target": [len(dataset.train), config.data.classes, config.data.chunk_of],
        "net": asdict(config.net),
        "training": asdict(config.pretrain),
        "augment": asdict(augmentation(config, dataset)),
        "precision": [config.pool.dtype, config.distill.matmul_precision],
        "seed": [config.distill.seed, number],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_done(path: Path, identity: str) -> bool:
    """Whether a file holds the net; as process 0 sees it.

    Raises:
      InputError: it holds something else.
    """

    def check() -> None:
        if is_file(path) and read_net_file(str(path)).metadata.get(_IDENTITY) != identity:
            raise InputError(
                f"{path} exists and holds another net",
                "a new file, or one of the same recipe, settings and data",
                "choose another --out, or remove the file",
            )

    on_first(check)
    return bool(agree(int(is_file(path))))


def _about(recipe: Recipe, dataset: Dataset, number: int) -> dict[str, str]:
    """The metadata of a file: texts by name."""
    config = recipe.config
    return net_metadata(config.net) | {
        "recipe": recipe.name,
        "config": portable(recipe.text),
        "dataset": config.data.name,
        "dataset_sha256": dataset.fingerprint,
        "image_shape": json.dumps(dataset.image_shape),
        "classes": str(dataset.num_classes),
        "seed": str(config.distill.seed),
        "number": str(number),
        "versions": json.dumps(versions()),
    }


def _say(line: str) -> None:
    if is_first():
        print(line, flush=True)
