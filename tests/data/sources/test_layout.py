import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.layout import WORDS, Layout, read_layout

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
) -> Layout:
    given = {"val/val_annotations.txt": notes, WORDS: words}
    texts = {name: text.encode() for name, text in given.items() if text is not None}
    return read_layout([*images, *texts], folders, texts, "ORIGIN")


@pytest.mark.parametrize("top", ["", "top/"])
@pytest.mark.parametrize("part", ["test", "val", "valid"])
def test_class_folders(top: str, part: str) -> None:
    got = layout([top + p.replace("test/", f"{part}/") for p in GOOD])
    assert got.class_names == ("a", "b")
    assert got.train == [
        (f"{top}train/a/1.png", 0),
        (f"{top}train/b/1.png", 1),
        (f"{top}train/b/2.png", 1),
    ]
    assert got.test == [(f"{top}{part}/a/1.png", 0), (f"{top}{part}/b/1.png", 1)]


def test_test_goes_before_val_and_unlabelled_parts_are_skipped() -> None:
    assert layout([*GOOD, "val/a/9.png"]).test == [("test/a/1.png", 0), ("test/b/1.png", 1)]
    labelled = [p.replace("test/", "val/") for p in GOOD]
    for unlabelled in ("test/1.png", "test/images/1.png"):
        found = layout([*labelled, unlabelled]).test
        assert found == [("val/a/1.png", 0), ("val/b/1.png", 1)]


def test_hidden_and_foreign_paths_do_not_matter() -> None:
    got = layout(
        [*GOOD, ".git/train/c/1.png", "__MACOSX/train/c/1.png", "train/.x/1.png", "logo.png"],
        ("train/.ipynb_checkpoints", "docs"),
    )
    assert got.class_names == ("a", "b")


def test_tiny_imagenet() -> None:
    words = "n1\tgoldfish, Carassius auratus\nn2\ttench\nn9\tother\n"
    got = layout([*TINY, "test/images/c.JPEG"], notes=NOTES, words=words)
    assert got.class_names == ("goldfish", "tench")
    assert got.test == [("val/images/a.JPEG", 1), ("val/images/b.JPEG", 0)]


def test_equal_words_are_made_distinct() -> None:
    assert layout(GOOD, words="a\tcrane\nb\tcrane, bird\n").class_names == (
        "crane (a)",
        "crane (b)",
    )


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        (NOTES + "c.JPEG\tn3\n", "line 3 of val/val_annotations.txt in ORIGIN: .*c.JPEG n3"),
        (NOTES.replace("n2", "n3"), "line 1 of .* no class of the training part .*a.JPEG n3"),
        (NOTES + "a.JPEG\tn1\n", "line 3"),
        ("\n" + NOTES + "\na.JPEG\tn2\n", "line 5"),
        (NOTES + "c.JPEG\tn1\n", "no such image .*c.JPEG"),
        (NOTES.split("\n")[0], "has no line for val/images/b.JPEG"),
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
    ],
)
def test_bad_layouts(images: list[str], folders: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout(images, folders)


@pytest.mark.parametrize(
    ("images", "folders"),
    [
        (GOOD[:3], ()),
        ([*GOOD[:3], "test/images/1.png"], ()),
        (GOOD[:3], ("test", "test/a")),
    ],
)
def test_a_test_part_may_be_missing(images: list[str], folders: tuple[str, ...]) -> None:
    found = layout(images, folders)
    assert (found.test, found.folders) == ([], ("a", "b"))
