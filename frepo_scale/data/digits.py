"""The 8x8 digits that come with scikit-learn: a data set that is always there."""

import numpy as np

from frepo_scale.data.types import Split

_FIFTH = 5


def read_digits() -> tuple[Split, Split]:
    """The train and test parts: images (n, 8, 8, 1) uint8, labels (n,) int64.

    The set has no official test part: of each class every fifth image, in file order, is test, so
    both parts hold the classes in the same proportion and the split never changes.
    """
    from sklearn.datasets import load_digits  # slow to import, needed for this set only

    data = load_digits()
    # Stored as counts 0..16.
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = np.asarray(data.target)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[_FIFTH - 1 :: _FIFTH]] = True
    return Split(images[~test], labels[~test]), Split(images[test], labels[test])
