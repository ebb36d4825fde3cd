"""Class folders in a zip, which is read in place."""

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from source_forms import contents, damaged, zip_of

from frepo_scale.core.errors import InputError
from frepo_scale.data.decode import UnreadableImage
from frepo_scale.data.memory import Wanted, load_images
from frepo_scale.data.sources.registry import list_source


def zipped(path, files):
    path.write_bytes(zip_of(files))
    return path


@pytest.mark.parametrize("top", ["", "photos/"])
def test_the_same_as_a_folder(tmp_path, images, top):
    files = images.pictures(3, 2)
    beside = {"__MACOSX/._x": b"x", f"{top}train/{images.wnids[0]}/.DS_Store": b"x"}
    folder = list_source(images.write(tmp_path / "f", files))
    packed = zipped(tmp_path / "x.zip", {top + n: d for n, d in files.items()} | beside)
    for path in (packed, tmp_path):  # an archive in a folder is found
        if path == tmp_path:
            images.write(tmp_path / "g", {}).mkdir()
            path = packed.rename(tmp_path / "g" / "x.zip").parent
        found = list_source(path)
        assert found.class_names == found.wnids == folder.wnids
        for one, other in ((found.train, folder.train), (found.test, folder.test)):
            assert contents(one) == contents(other)
        assert found.fingerprint() == folder.fingerprint()


def tiny_imagenet(images):
    """As it is published: images/ below the classes, and a table of those of val/."""
    files = {}
    for k, wnid in enumerate(images.wnids):
        for i in range(2):
            files[f"tiny/train/{wnid}/images/{wnid}_{i}.JPEG"] = images.encoded(10 * k + i)
            files[f"tiny/val/images/val_{2 * k + i}.JPEG"] = images.encoded(100 + 10 * k + i)
    table = "".join(f"val_{i}.JPEG\t{images.wnids[i // 2]}\t0\t0\t9\t9\n" for i in range(6))
    files["tiny/val/val_annotations.txt"] = table.encode()
    files["tiny/words.txt"] = "".join(f"{w}\tname {w}\n" for w in images.wnids).encode()
    files["tiny/test/images/test_0.JPEG"] = images.encoded(200)
    return files


def test_tiny_imagenet(tmp_path, images):
    listing = list_source(zipped(tmp_path / "tiny-imagenet-200.zip", tiny_imagenet(images)))
    assert listing.wnids == images.wnids
    assert listing.class_names == tuple(f"name {wnid}" for wnid in images.wnids)
    assert len(listing.train) == 6
    assert contents(listing.test) == {
        f"{images.wnids[i // 2]}/val_{i}.JPEG": (
            i // 2,
            images.encoded(100 + 10 * (i // 2) + i % 2),
        )
        for i in range(6)
    }


def kaggle(images):
    """ImageNet as Kaggle hands it out."""
    root = "ILSVRC/Data/CLS-LOC"
    files = {}
    lines = ["ImageId,PredictionString"]
    for k, wnid in enumerate(images.wnids):
        files[f"{root}/train/{wnid}/{wnid}_0.JPEG"] = images.encoded(k)
        files[f"{root}/val/ILSVRC2012_val_{k + 1:08}.JPEG"] = images.encoded(100 + k)
        lines.append(f"ILSVRC2012_val_{k + 1:08},{wnid} 1 2 3 4")
    files[f"{root}/test/ILSVRC2012_test_00000001.JPEG"] = images.encoded(200)
    files["LOC_val_solution.csv"] = "\n".join(lines).encode()
    return files


def test_kaggles_imagenet(tmp_path, images):
    listing = list_source(zipped(tmp_path / "x.zip", kaggle(images)))
    assert len(listing.train) == 3
    assert contents(listing.test) == {
        f"{wnid}/ILSVRC2012_val_{k + 1:08}.JPEG": (k, images.encoded(100 + k))
        for k, wnid in enumerate(images.wnids)
    }


def test_a_damaged_image_is_counted_and_can_be_skipped(tmp_path, images):
    files = images.pictures(3, 2)
    path = zipped(tmp_path / "x.zip", files)
    whole = bytearray(path.read_bytes())
    name = f"train/{images.wnids[0]}/{images.wnids[0]}_1.JPEG".encode()
    whole[whole.index(name) + len(name) + 20] ^= 1
    path.write_bytes(whole)
    listing = list_source(path)
    with pytest.raises(InputError) as error:
        load_images(listing, Wanted(3, 8, "crop"), str(path))
    assert f"{images.wnids[0]}_1.JPEG" in error.value.what
    loaded = load_images(listing, Wanted(3, 8, "crop", skip_unreadable=1), str(path))
    assert len(loaded.skipped) == 1 and len(loaded.train) == 8


def test_links_and_archives_in_it(tmp_path, images):
    files = images.pictures(1, 1)
    with pytest.raises(InputError) as error:
        list_source(zipped(tmp_path / "x.zip", files | {"more/train.tar.gz": b"x"}))
    assert "more/train.tar.gz" in error.value.what
    path = zipped(tmp_path / "x.zip", files)
    whole = path.read_bytes()
    at = whole.index(b"PK\x01\x02") + 41
    path.write_bytes(whole[:at] + b"\xa1" + whole[at + 1 :])  # a symbolic link of Unix
    with pytest.raises(InputError) as error:
        list_source(path)
    assert "is a link" in error.value.what


def test_other_forms_in_a_zip_are_to_be_unpacked(tmp_path):
    with pytest.raises(InputError) as error:
        list_source(zipped(tmp_path / "x.zip", {"train_data_batch_1": b"x", "README": b"x"}))
    assert "train_data_batch_1" in error.value.what and "unpack" in error.value.fix


def test_no_zip(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError) as error:
        list_source(tmp_path / "x.zip")
    assert "x.zip" in error.value.what


def grey(value):
    out = io.BytesIO()
    Image.new("L", (2, 2), value).save(out, "PNG")
    return out.getvalue()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_changes_no_label(tmp_path, data):
    """Damage is refused, or an image is unreadable, or nothing changes."""
    files = {f"train/{w}/{i}.png": grey(20 * k + i) for k, w in enumerate("abc") for i in range(2)}
    bad, cut = damaged(data, zip_of(files))
    (tmp_path / "x.zip").write_bytes(bad)
    try:
        found = contents(list_source(tmp_path / "x.zip").train)
    except InputError:
        return
    assert not cut
    for name, (_, value) in found.items():
        assert isinstance(value, UnreadableImage) or value == files[f"train/{name}"]
