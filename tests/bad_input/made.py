"""A data set, and the files of a run, made without a run."""

import numpy as np

from frepo_scale import config
from frepo_scale.core.identity import scientific_settings
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.export.formats import Export, write_npz
from frepo_scale.ops.workdir import Workdir


def arrays(classes=3, per_class=4, **changed):
    labels = np.tile(np.arange(classes), per_class)
    images = np.arange(len(labels) * 64, dtype=np.uint32).astype(np.uint8).reshape(-1, 8, 8, 1)
    return {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels} | changed


def make_run(root, finished=True, **overrides):
    """The workdir of a run of the digits, without a run."""
    recipe = config.load_recipe(config.find_recipe("digits_ipc1"), overrides)
    workdir = Workdir(root)
    settings = scientific_settings(recipe.config)
    workdir.open(settings, 0)
    workdir.claim(settings)
    workdir.config.write_text(recipe.text)
    workdir.operative_config.write_text(recipe.operative)
    preprocessing = Preprocessing(np.zeros(1, np.float32), np.ones(1, np.float32), None)
    np.savez(workdir.preprocessing, dataset="f" * 64, **preprocessing.arrays())
    if finished:
        workdir.done.touch()
        export = Export(
            images=np.zeros((10, 8, 8, 1), np.float32),
            labels=np.eye(10, dtype=np.float32),
            hard_labels=np.arange(10, dtype=np.int32),
            class_names=tuple("0123456789"),
            preprocessing=preprocessing,
            evaluation={},
            provenance={"recipe": "digits_ipc1", "config": recipe.text},
        )
        write_npz(workdir.distilled, export)
    return workdir
