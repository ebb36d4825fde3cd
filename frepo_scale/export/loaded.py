"""A distilled set read from a file, as NumPy, JAX or PyTorch arrays.

Legend: N distilled images, H W height and width in pixels, C channels (1 or 3), K classes.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.extras import not_installed
from frepo_scale.core.paths import children, is_file, is_folder, to_path
from frepo_scale.core.types import DistilledSet
from frepo_scale.export.folder import DATASET, PIXELS
from frepo_scale.export.formats import Export, read_npz
from frepo_scale.export.safetensors_folder import IMAGES, read_safetensors
from frepo_scale.ops.workdir import PART, Workdir

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, repr=False)
class LoadedSet(Export):
    """A distilled set and everything needed to train on it.

    `load` makes it. Train on `images` and `labels`; `to_pixels` is for viewing.

    Attributes:
      images: (N, H, W, C) float32, as the net sees them: normalised, and whitened for colour sets.
      labels: (N, K) float32, the learned soft labels.
      hard_labels: (N,) int32 in [0, K), the class each image started from.
      class_names: K names.
      preprocessing: `apply` makes net inputs of real uint8 images (n, H, W, C); `to_pixels` is its
        inverse.
      evaluation: the protocol that gives the reported accuracy (net, steps, batch, ...).
      provenance: data set, outer step, seed, versions, ...
      results: the measured accuracies, each {"mean", "std", "n"}.

    Example:
      >>> import frepo_scale as fs
      >>> distilled = fs.load("distilled.npz")
      >>> distilled
      LoadedSet(10 images (8, 8, 1) of 10 classes, dataset='digits', step=2000)
      >>> images, labels = distilled.to_numpy()
      >>> images.shape, labels.shape
      ((10, 8, 8, 1), (10, 10))
      >>> distilled.as_jax().images.dtype
      dtype('float32')
      >>> distilled.to_pixels().dtype
      dtype('uint8')
    """

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.images)

    def __repr__(self) -> str:
        """One line: how many images of which shape, and where they come from."""
        known = {name: self.provenance.get(name) for name in ("dataset", "recipe", "step")}
        origin = "".join(f", {k}={value!r}" for k, value in known.items() if value is not None)
        shape = tuple(self.images.shape[1:])
        return f"LoadedSet({len(self)} images {shape} of {len(self.class_names)} classes{origin})"

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, H, W, C) and labels (N, K), float32."""
        return self.images, self.labels

    def as_jax(self) -> DistilledSet:
        """Images (N, H, W, C) and labels (N, K), float32, on JAX's default device."""
        import jax.numpy as jnp

        return DistilledSet(jnp.asarray(self.images), jnp.asarray(self.labels))

    def to_torch(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Copies of the images (N, C, H, W), as PyTorch's layers take them, and labels (N, K).

        Raises:
          InputError: PyTorch is not installed.
        """
        try:
            import torch
        except ModuleNotFoundError as error:
            raise not_installed("PyTorch is not installed", "torch") from error
        # Copies, because a tensor may be changed in place. Without one the transpose of images with
        # one channel would share their memory.
        images = np.array(self.images.transpose(0, 3, 1, 2), order="C")
        return torch.from_numpy(images), torch.from_numpy(self.labels.copy())


def load(path: str | os.PathLike[str]) -> LoadedSet:
    """Reads a distilled set.

    Args:
      path: the workdir of a finished run, its `distilled.npz`, or an .npz or a safetensors folder
        written by `frepo-scale export`; local or on gs://.

    Raises:
      InputError: there is no distilled set, or the file is damaged.
    """
    found = to_path(path)
    if is_folder(found) and is_file(found / IMAGES):
        return LoadedSet(**vars(read_safetensors(found)))
    if is_folder(found):
        workdir = Workdir(found)
        parts = [path.name for path in children(found) if path.name.startswith(PART)]
        if parts and not is_file(workdir.distilled):
            raise InputError(
                f"{path} is the workdir of a series",
                "the workdir of one of its runs",
                f"such as {found / min(parts)}",
            )
        if is_file(found / DATASET) and is_file(found / PIXELS):
            raise InputError(
                f"{path} holds pixels, not net inputs with their preprocessing",
                "the workdir of a finished run, an exported .npz or a safetensors folder",
                "export the run again without --format folder",
            )
        if not is_file(workdir.distilled):
            raise InputError(
                f"{path} has no {workdir.distilled.name}",
                "the workdir of a finished run, or an exported .npz",
                "finish the run first: give its frepo-scale distill command again",
            )
        found = workdir.distilled
    return LoadedSet(**vars(read_npz(found)))
