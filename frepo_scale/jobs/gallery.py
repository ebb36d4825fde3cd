"""The gallery of a probed set: a PNG in the workdir, and the same picture in TensorBoard."""

import io

import numpy as np

from frepo_scale.core.paths import read_bytes
from frepo_scale.core.types import DistilledSet
from frepo_scale.export.gallery import save_gallery
from frepo_scale.jobs.results import Work
from frepo_scale.ops.tensorboard import TensorBoardWriter


def write_gallery(
    work: Work, tensorboard: TensorBoardWriter, distilled: DistilledSet, step: int
) -> None:
    """Writes the gallery of a set (N rows in host memory) at its outer step.

    Args:
      work: the objects of the attempt.
      tensorboard: the writer of process 0.
      distilled: the set.
      step: its outer step.

    Raises:
      InputError: the workdir cannot be written.
    """
    from PIL import Image

    path = work.workdir.gallery / f"step_{step:07d}.png"
    pixels = work.preprocessing.to_pixels(distilled.images)
    dataset = work.run.dataset
    names = tuple(dataset.class_names[label] for label in dataset.classes)
    save_gallery(path, pixels, names, work.run.config.distill.ipc)
    picture = Image.open(io.BytesIO(read_bytes(path)))
    tensorboard.write_image(step, "distilled set", np.asarray(picture))
