"""MNIST and Fashion-MNIST as torchvision stores them: MNIST/raw and FashionMNIST/raw in a root."""

from dataclasses import replace
from pathlib import Path

from frepo_scale.data.sources.idx import IdxFiles, find_idx
from frepo_scale.data.sources.listing import Listing, Poll

_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


class TorchvisionIdx:
    """The idx files of one of the two data sets below the root of torchvision.

    Attributes:
      dataset: "mnist" or "fashion_mnist".
    """

    def __init__(self, dataset: str) -> None:
        """The files of one of the two data sets."""
        self.dataset = dataset
        self._folder = _FOLDERS[dataset]
        self.form = IdxFiles.form

    def _raw(self, path: Path) -> Path:
        """The folder with the idx files, from the root or from the folder of the data set."""
        return path / "raw" if path.absolute().name == self._folder else path / self._folder / "raw"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        return path.is_dir() and bool(find_idx(self._raw(path)))

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`."""
        below = self._raw(path)
        found = IdxFiles().listing(below, poll)
        while below != path and found.census is not None:
            found.census.folder(below.parent, (), {below.name})
            below = below.parent
        return replace(found, name=self.dataset)
