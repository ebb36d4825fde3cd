"""A distilled set that needs no run."""

import numpy as np

from frepo_scale import config
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.types import everything
from frepo_scale.distill.synthetic import hard_labels, scaled_labels
from frepo_scale.export.formats import Export, write_npz
from frepo_scale.jobs.protocol import evaluation_recipe

STRENGTHS = {
    "flip": True,
    "brightness": 0.25,
    "contrast": 0.3,
    "saturation": 0.4,
    "crop_scale": 1.25,
    "rotate_degrees": 15.0,
    "translate": 0.2,
    "cutout": 0.5,
}


def digits_export(path, ipc=1):
    """Real digits, `ipc` of each class, with the recipe of a small net; test images and labels."""
    settings = {"WIDTH": "8", "EVAL_STEPS": "150", "EVAL_LEARNING_RATE": "3e-3"}
    read = config.load_recipe(config.find_recipe("digits_ipc1"), settings).config
    dataset = load_dataset(read.data)
    preprocessing = dataset.fit_preprocessing()
    chosen = [np.flatnonzero(dataset.train.labels == k)[:ipc] for k in range(10)]
    export = Export(
        images=preprocessing.apply(dataset.train.at(np.concatenate(chosen))),
        labels=scaled_labels(np.repeat(np.arange(10), ipc), 10),
        hard_labels=hard_labels(10, ipc),
        class_names=dataset.class_names,
        preprocessing=preprocessing,
        evaluation=evaluation_recipe(read, dataset),
        provenance={},
    )
    write_npz(path, export)
    return everything(dataset.test), np.asarray(dataset.test.labels)
