import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.layout import ANNOTATIONS, WORDS, Layout, read_layout

GOOD = ["train/b/2.png", "train/b/1.png", "train/a/1.png", "test/a/1.png", "test/b/1.png"]
TINY = [
    "train/n1/images/1.JPEG",
    "train/n2/images/2.JPEG",
    "val/images/a.JPEG",
    "val/images/b.JPEG",
]
NOTES = "a.JPEG\tn2\t0\t0\t9\t9\nb.JPEG\tn1\t0\t0\t9\t9\n"


def layout(
    images: list[str],
    folders: tuple[str, ...] = (),
    notes: str | None = None,
    words: str | None = None,
    num_classes: int | None = None,
) -> Layout:
    given = {ANNOTATIONS: notes, WORDS: words}
    texts = {name: text for name, text in given.items() if text is not None}
    return read_layout(images, folders, texts, "ORIGIN", num_classes)


@pytest.mark.parametrize("top", ["", "top/"])
@pytest.mark.parametrize("part", ["test", "val", "valid"])
def test_class_folders(top: str, part: str) -> None:
    got = layout([top + p.replace("test/", f"{part}/") for p in GOOD])
    assert got.class_names == ("a", "b") and got.part == part
    assert got.train == [
        (f"{top}train/a/1.png", 0),
        (f"{top}train/b/1.png", 1),
        (f"{top}train/b/2.png", 1),
    ]
    assert got.test == [(f"{top}{part}/a/1.png", 0), (f"{top}{part}/b/1.png", 1)]


def test_test_goes_before_val_and_unlabelled_parts_are_passed_over() -> None:
    assert layout([*GOOD, "val/a/9.png"]).part == "test"
    labelled = [p.replace("test/", "val/") for p in GOOD]
    assert layout([*labelled, "test/1.png"]).part == "val"
    assert layout([*labelled, "test/images/1.png"]).part == "val"


def test_hidden_and_foreign_paths_do_not_matter() -> None:
    got = layout(
        [*GOOD, ".git/train/c/1.png", "__MACOSX/train/c/1.png", "train/.x/1.png", "logo.png"],
        ("train/.ipynb_checkpoints", "docs"),
    )
    assert got.class_names == ("a", "b")


def test_tiny_imagenet() -> None:
    words = "n1\tgoldfish, Carassius auratus\nn2\ttench\nn9\tother\n"
    got = layout([*TINY, "test/images/c.JPEG"], notes=NOTES, words=words)
    assert got.class_names == ("goldfish", "tench") and got.part == "val"
    assert got.test == [("val/images/a.JPEG", 1), ("val/images/b.JPEG", 0)]


def test_equal_words_are_told_apart() -> None:
    assert layout(GOOD, words="a\tcrane\nb\tcrane, bird\n").class_names == (
        "crane (a)",
        "crane (b)",
    )


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        (
            NOTES + "c.JPEG\tn3\n",
            "line 3 of val_annotations.txt in ORIGIN gives 'c.JPEG' class 'n3'",
        ),
        (NOTES + "a.JPEG\tn1\n", "line 3"),
        (NOTES + "\n", "line 3"),
        (NOTES + "c.JPEG\tn1\n", "c.JPEG: no such image"),
        (NOTES.split("\n")[0], "b.JPEG: no line for that image"),
    ],
)
def test_bad_annotations(notes: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout(TINY, notes=notes)


@pytest.mark.parametrize(
    ("images", "folders", "message"),
    [
        (["a/1.png"], (), "ORIGIN has no train/ folder"),
        ([], (), "ORIGIN has no train/ folder"),
        (["x/train/a/1.png", "y/train/a/1.png"], (), "several folders with train/ in them: x/, y/"),
        ([*GOOD, "train/1.png"], (), "train/1.png in ORIGIN is not in a class folder"),
        ([*GOOD, "train/a/deep/1.png"], (), "train/a/deep/1.png .* not in a class folder"),
        ([*GOOD, "train/a/images/x/1.png"], (), "train/a/images/x/1.png .* not in a class"),
        ([*GOOD, "test/1.png"], (), "test/1.png in ORIGIN is not in a class folder"),
        (GOOD, ("train", "train/c"), "train/c in ORIGIN holds no image"),
        ([*GOOD, "test/c/1.png"], (), "class c of test/ in ORIGIN is not in train/"),
        (GOOD[:3], (), "ORIGIN has no test part with classes"),
        ([*GOOD[:3], "test/images/1.png"], (), "no test part with classes"),
        (GOOD[:3], ("test", "test/a"), "no test part with classes"),
        (["train/a/1.png", "test/a/1.png"], (), "1 class folders: expected at least 2"),
    ],
)
def test_bad_layouts(images: list[str], folders: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout(images, folders)


def test_the_number_of_classes_must_fit() -> None:
    assert layout(GOOD, num_classes=2)
    with pytest.raises(InputError, match="has 2 class folders: expected 3"):
        layout(GOOD, num_classes=3)


def test_a_test_part_may_be_missing_where_none_is_needed() -> None:
    images = ["train/a/1.png", "train/b/1.png", "test/images/1.png"]
    found = read_layout(images, [], {}, "ORIGIN", None, need_test=False)
    assert (found.part, found.test, found.folders) == ("", [], ("a", "b"))
    with pytest.raises(InputError, match="no test part"):
        read_layout(images, [], {}, "ORIGIN", None)
