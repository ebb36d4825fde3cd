"""Labelled images as a file of another program holds them.

Legend: n images, K classes.
"""

from dataclasses import dataclass

import numpy as np

FORMS = "a folder of class folders of images, an .npz with images and labels, or a .pt of PyTorch"


@dataclass(frozen=True)
class RawSet:
    """Labelled images as a file holds them.

    Attributes:
      images: n images in any layout and range.
      labels: (n,) integers or (n, K) numbers; None: the file has none.
      note: what was read, for the user.
      unit: whether 0 to 1 is known to be the range of pixels.
      hard: (n,) integers, the class of each image where it is known; None: the largest label.
    """

    images: np.ndarray
    labels: np.ndarray | None
    note: str
    unit: bool = False
    hard: np.ndarray | None = None
