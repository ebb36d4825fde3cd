"""A test part that is there is read, or refused with the remedy: never left out unsaid."""

import shutil

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.memory import Wanted, load_images
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.sources.registry import list_source

WNIDS = ("n01440764", "n01443537", "n02119789")
VAL = [f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 5)]
WANT = ["n01443537", "n02119789", "n01440764", "n01443537"]
CSV = "ImageId,PredictionString\n" + "".join(
    f"{name[:-5]},{wnid} 1 2 3 4 {wnid} 5 6 7 8 \n"
    for name, wnid in zip(VAL[::-1], WANT[::-1], strict=True)
)
TINY = "".join(f"{name}\t{wnid}\t0\t0\t9\t9\n" for name, wnid in zip(VAL, WANT, strict=True))
TABLE = b"n02119789 1 kit_fox\nn01443537 2 goldfish\nn01440764 3 tench\n"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def training(images, top=""):
    return {top + name: data for name, data in images.pictures(3, 0).items()}


def flat(images, folder="val/"):
    return {folder + name: images.encoded(50 + i) for i, name in enumerate(VAL)}


def write(path, images, files, form):
    if form == "folder":
        return images.write(path, files)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tar").write_bytes(images.tar_of(files))
    return path.with_suffix(".tar")


def found(listing):
    """The wnid of each test image by its file name."""
    rows = zip(listing.test.names, listing.test.labels, strict=True)
    return {name.split("/")[1]: listing.wnids[label] for name, label in rows}


RIGHT = dict(zip(VAL, WANT, strict=True))


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("table", "text", "more"),
    [
        ("val/LOC_val_solution.csv", CSV, {}),
        ("LOC_val_solution.csv", CSV, {}),
        ("LOC_val_solution.csv", CSV.replace("\n", "\r\n") + "\r\n\r\n", {}),
        ("val/val_annotations.txt", TINY, {}),
        ("val/imagenet_2012_validation_synset_labels.txt", "\n".join(WANT), {}),
        (TRUTH, "2\n1\n3\n2\n", {"map_clsloc.txt": TABLE}),
    ],
)
def test_a_table_in_the_part_or_beside_it(tmp_path, images, form, mark, table, text, more):
    secret = {"test/ILSVRC2012_test_00000001.JPEG": images.encoded(9)}
    files = training(images) | flat(images) | secret
    source = write(tmp_path / "d", images, files | {table: mark + text.encode()}, form)
    images.write(tmp_path if form == "tar" else source, more)
    listing = list_source(source)
    assert found(listing) == RIGHT
    assert any(table in note for note in listing.notes)
    assert listing.census.ignored["images without classes"] == 1
    assert listing.test_like is None


@pytest.mark.parametrize("where", ["imagenet", "imagenet/ILSVRC", "imagenet/ILSVRC/Data/CLS-LOC"])
def test_kaggles_folder_at_every_level(tmp_path, images, where):
    top = "ILSVRC/Data/CLS-LOC/"
    files = training(images, top) | flat(images, f"{top}val/") | flat(images, f"{top}test/")
    files |= {"LOC_val_solution.csv": CSV.encode(), "ILSVRC/Annotations/CLS-LOC/val/x.xml": b"x"}
    images.write(tmp_path / "imagenet", files)
    listing = list_source(tmp_path / where)
    assert found(listing) == RIGHT
    assert len(listing.train) == 9
    assert listing.census.ignored["images without classes"] == 4


def test_kaggles_archive(tmp_path, images):
    top = "ILSVRC/Data/CLS-LOC/"
    files = training(images, top) | flat(images, f"{top}val/")
    (tmp_path / "x.tar").write_bytes(images.tar_of(files))
    (tmp_path / "LOC_val_solution.csv").write_text(CSV)
    assert found(list_source(tmp_path / "x.tar")) == RIGHT


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("emptied", [{}, {"val/images/.DS_Store": b"x"}])
def test_tiny_imagenet_sorted_into_class_folders(tmp_path, images, form, emptied):
    files = training(images) | emptied | {"val/val_annotations.txt": TINY.encode()}
    for name, wnid in RIGHT.items():
        files[f"val/{wnid}/{name}"] = images.encoded(7)
    source = write(tmp_path / "d", images, files, form)
    if form == "folder":
        (source / "val" / "images").mkdir(exist_ok=True)
    assert found(list_source(source)) == RIGHT


def test_half_sorted_images_are_refused(tmp_path, images):
    files = training(images) | {f"val/{WANT[0]}/{VAL[0]}": images.encoded(1)}
    files |= {"val/images/left.JPEG": images.encoded(2)}
    with pytest.raises(InputError, match=r"val/images/left\.JPEG .* is not in a class folder"):
        list_source(images.write(tmp_path, files))


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("folder", ["val/", "val/images/", "test/images/", "validation/x/y/"])
def test_images_without_classes_and_without_a_table(tmp_path, images, run, form, folder):
    source = write(tmp_path / "d", images, training(images) | flat(images, folder), form)
    listing = list_source(source)
    assert len(listing.test) == 0
    part = folder.split("/")[0]
    with pytest.raises(InputError) as in_memory:
        load_images(listing, Wanted(3, 8, "crop"), str(source))
    with pytest.raises(InputError) as prepared:
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for error in (in_memory.value, prepared.value):
        assert f"{part}/ has 4 images without classes" in error.what
        assert "LOC_val_solution.csv" in error.fix
    assert "--no-test" in prepared.value.fix
    run(source, tmp_path / "out", no_test=True)
    described = PreparedSet.open(tmp_path / "out").description
    assert described.size("test") == 0
    assert "4 images without classes: " in described.source["census"]
    if part != "test":  # the other remedy
        write(
            tmp_path / "d",
            images,
            training(images)
            | flat(images, folder)
            | {f"{part}/LOC_val_solution.csv": CSV.encode()},
            form,
        )
        assert found(list_source(source)) == RIGHT


@pytest.mark.parametrize(
    "beside",
    ["testing/a/1.png", "Val/1.png", "test_images/1.png", "val.tar", "x-test.zip", "test/"],
)
def test_what_looks_like_a_test_part(tmp_path, images, run, beside):
    source = images.write(tmp_path / "d", training(images))
    if beside.endswith("/"):
        (source / beside).mkdir()
    else:
        images.write(source, {beside: b"x"})
    with pytest.raises(InputError) as caught:
        run(source, tmp_path / "out")
    assert beside.split("/")[0] in caught.value.what
    assert "--no-test" in caught.value.fix
    run(source, tmp_path / "out", no_test=True)
    assert PreparedSet.open(tmp_path / "out").description.size("train") == 9
    run(source, tmp_path / "out", no_test=True)  # finished: the same command again


def test_nothing_looks_like_a_test_part(tmp_path, images, run, capsys):
    files = training(images) | {"tests.txt": b"x", "docs/val.txt": b"x", ".test/x": b"x"}
    run(images.write(tmp_path / "d", files), tmp_path / "out")
    assert "training images only" in capsys.readouterr().out


def test_a_test_part_is_left_out_when_told_to(tmp_path, images, run, capsys):
    source = images.write(tmp_path / "d", images.pictures(3, 2))
    run(source, tmp_path / "out", no_test=True)
    assert "6 test images (--no-test)" in capsys.readouterr().out
    assert PreparedSet.open(tmp_path / "out").description.size("test") == 0
    with pytest.raises(InputError, match="others"):  # the set with the test part is another
        run(source, tmp_path / "out")


@pytest.mark.parametrize("beside", ["val/", "", "ILSVRC2012_img_val/"])
def test_the_validation_archive_unpacked_beside_the_training_archive(tmp_path, images, run, beside):
    inner = {
        f"{w}.tar": images.tar_of({f"{w}_{i}.JPEG": images.encoded(i + 9 * k) for i in range(2)})
        for k, w in enumerate(WNIDS)
    }
    train = {"ILSVRC2012_img_train.tar": images.tar_of(inner)}
    source = images.write(tmp_path / "d", train | flat(images, beside))
    with pytest.raises(InputError) as caught:
        run(source, tmp_path / "out")
    assert (beside or VAL[0]) in caught.value.what
    shutil.rmtree(source)  # the remedy
    val = {
        "ILSVRC2012_img_val.tar": images.tar_of(flat(images, "")),
        "LOC_val_solution.csv": CSV.encode(),
    }
    assert found(list_source(images.write(source, train | val))) == RIGHT


def test_a_test_archive_beside_the_only_known_one(tmp_path, images, run):
    source = images.write(
        tmp_path / "d", {"data.tar": images.tar_of(training(images)), "test.rar": b"x"}
    )
    with pytest.raises(InputError, match=r"test\.rar beside data\.tar"):
        run(source, tmp_path / "out")


def test_classes_in_one_part_only(tmp_path, images):
    files = images.pictures(2, 1)
    kept = {name: data for name, data in files.items() if not name.startswith("test/n014")}
    listing = list_source(images.write(tmp_path / "a", kept))
    assert "2 classes (n01440764, n01443537) have no test image" in listing.notes
    extra = {f"test/{name}/1.JPEG": b"x" for name in ("zebra", "yak")}
    with pytest.raises(InputError) as caught:
        list_source(images.write(tmp_path / "b", files | extra))
    assert "yak, zebra" in caught.value.what and "train/" in caught.value.what


def test_a_table_of_other_images_is_refused(tmp_path, images):
    for name, text in (
        ("other.csv", CSV.replace("00000003", "00000009")),
        ("class.csv", CSV.replace("n01440764", "n09999999")),
        ("twice.csv", CSV + CSV.split("\n")[1]),
        ("few.csv", "\n".join(CSV.split("\n")[:3])),
    ):
        files = training(images) | flat(images) | {"val/LOC_val_solution.csv": text.encode()}
        with pytest.raises(InputError) as caught:
            list_source(images.write(tmp_path / name, files))
        assert "LOC_val_solution.csv" in caught.value.what


def test_another_labelled_part_is_counted(tmp_path, images):
    files = images.pictures(2, 1)
    files |= {
        name.replace("test/", "val/"): data for name, data in files.items() if "test/" in name
    }
    listing = list_source(images.write(tmp_path, files))
    assert listing.census.ignored == {"another test part": 3}
    assert listing.census.names == {"another test part": ["val/"]}


def test_a_table_of_another_data_set_above_is_not_taken(tmp_path, images):
    """Lines that only count images say nothing about images of another folder."""
    images.write(tmp_path, {TRUTH: b"2\n1\n3\n2\n", "map_clsloc.txt": TABLE})
    listing = list_source(images.write(tmp_path / "mine", training(images) | flat(images)))
    assert len(listing.test) == 0
    assert "val/ has 4 images without classes" in listing.test_like.what
