"""The 8x8 digits that come with scikit-learn: a data set that is always available."""

from pathlib import Path

import numpy as np

from frepo_scale.data.sources.census import Census
from frepo_scale.data.sources.listing import Listing, Part, Poll

_FIFTH = 5


class Digits:
    """1797 grey images of ten classes; it has no path.

    The set has no official test part: of each class every fifth image, in file order, is test, so
    both parts hold the classes in the same proportion and the split never changes.
    """

    form = "the digits of scikit-learn"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        return False

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`."""
        from sklearn.datasets import load_digits  # slow to import, needed for this set only

        data = load_digits()
        # Stored as counts 0..16.
        images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = np.asarray(data.target)
        test = np.zeros(len(labels), bool)
        for label in range(10):
            test[np.flatnonzero(labels == label)[_FIFTH - 1 :: _FIFTH]] = True
        return Listing(
            form=self.form,
            train=Part.of_arrays(images[~test], labels[~test], "train"),
            test=Part.of_arrays(images[test], labels[test], "test"),
            census=Census(len(images)),
        )
