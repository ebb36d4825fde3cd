"""The classes of sources that number their images."""

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.label_names import label_names

WNIDS = ["n02119789", "n01443537", "n01440764"]


def test_names_stay_in_their_order_and_become_unique():
    found = label_names(["crane", "ant", "crane"], "names.txt")
    assert found.names == ("crane (0)", "ant", "crane (2)") and found.wnids is None
    assert [found.ours(label) for label in (0, 2, 5, -1)] == [0, 2, 5, -1]
    assert found.folder(1) == "ant" and found.folder(7) == "7" and "names.txt" in found.note


def test_wordnet_ids_are_sorted():
    found = label_names(WNIDS, "names.txt")
    assert found.names == found.wnids == tuple(sorted(WNIDS))
    assert [found.ours(label) for label in range(3)] == [2, 1, 0]
    assert found.ours(3) == 3 and "2 of 3 change" in found.note
    same = label_names(sorted(WNIDS), "names.txt")
    assert same.target is None and "already" in same.note


def test_numbers_without_names():
    found = label_names(None, "")
    assert found.names is None and found.ours(4) == 4 and found.folder(4) == "4"


@pytest.mark.parametrize("names", [[*WNIDS, WNIDS[0]], [*WNIDS, "cat"]])
def test_names_that_cannot_be_right(names):
    with pytest.raises(InputError) as error:
        label_names(names, "names.txt")
    assert "names.txt" in error.value.what
