"""The classes of sources that number their images and name the numbers elsewhere."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.wordnet import is_wnid, to_sorted, wnids_of


@dataclass(frozen=True)
class LabelNames:
    """The classes in our order: that of sorted WordNet ids, or that of the source.

    Attributes:
      names: K names; None: the labels are numbers only.
      wnids: WordNet ids where the names are that.
      target: (K,) our label of each label of the source; None: the same.
      note: which order it is.
    """

    names: tuple[str, ...] | None
    wnids: tuple[str, ...] | None
    target: np.ndarray | None
    note: str

    def ours(self, label: int) -> int:
        """Our label for one of the source; one out of range stays as it is, to be refused."""
        if self.target is None or not 0 <= label < len(self.target):
            return label
        return int(self.target[label])

    def folder(self, label: int) -> str:
        """The name of the class of one of our labels, for the name of an image."""
        if self.names is None or not 0 <= label < len(self.names):
            return str(label)
        return self.names[label]


def label_names(names: Sequence[str] | None, origin: str) -> LabelNames:
    """The classes named `names` (index = label of the source) by `origin`, such as a file.

    Raises:
      InputError: a WordNet id occurs twice, or only some names are WordNet ids.
    """
    if names is None:
        return LabelNames(None, None, None, "labels are taken as they are, without names")
    counts = Counter(names)
    ids = sum(map(is_wnid, names))
    if ids not in (0, len(names)):  # as plain names, the labels would not be mapped
        raise InputError(
            f"{origin} has {ids} WordNet ids in {len(names)} names",
            "nothing but WordNet ids, or none",
            "correct the names",
        )
    if wnids_of(names) is None:  # two classes may have one name: cranes are birds and machines
        unique = (f"{n} ({k})" if counts[n] > 1 else n for k, n in enumerate(names))
        note = f"labels are taken as they are, named by {origin}"
        return LabelNames(tuple(unique), None, None, note)
    if len(counts) < len(names):
        twice = counts.most_common(1)[0][0]
        raise InputError(f"{origin} names class {twice} twice", "each once", "correct the names")
    target = to_sorted(names)
    moved = int((target != np.arange(len(target))).sum())
    note = "labels are in the order of the WordNet ids already"
    if moved:
        note = (
            "labels are in another order: mapped to the order of the WordNet ids by"
            f" {origin}; {moved} of {len(target)} change"
        )
    ordered = tuple(sorted(names))
    return LabelNames(ordered, ordered, target if moved else None, note)
