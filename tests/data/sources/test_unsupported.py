"""Forms that are not read are recognised by their files."""

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.registry import list_source

FILES = {
    "data.mdb": "LMDB",
    "_common_metadata": "Petastorm",
    "part-00000.parquet": "which part",
    "data-00000-of-00001.arrow": "save_to_disk",
    "images.h5": "HDF5",
    "train_32x32.mat": "MATLAB",
    "train.rec": "RecordIO",
    "train.beton": "FFCV",
    "shard.00000.mds": "MosaicML",
    "training.pt": "PyTorch",
    "x_train.npy": "np.savez",
    "cifar.pkl": "np.savez",
    "images.tfrecord": "which part",
    "photos.7z": "archive",
    "photos.tar.xz": "archive",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["file", "folder", "below"])
def test_a_form_is_named(tmp_path, images, name, form):
    folder = images.write(tmp_path / ("d/data" if form == "below" else "d"), {name: b"x"})
    with pytest.raises(InputError) as error:
        list_source(folder / name if form == "file" else tmp_path / "d")
    text = f"{error.value.what} {error.value.fix}"
    assert str(folder / name) in error.value.what
    assert FILES[name] in text


def test_the_older_shards_of_hugging_face(tmp_path, images):
    names = ("train_images_0.tar.gz", "train_images_1.tar.gz", "val_images.tar.gz")
    folder = images.write(tmp_path / "d" / "data", {name: b"x" for name in names})
    for path in (tmp_path / "d", folder, folder / names[0]):
        with pytest.raises(InputError) as error:
            list_source(path)
        assert "Hugging Face" in error.value.what


def test_such_a_file_beside_a_form_that_is_read_does_no_harm(tmp_path, images):
    source = images.write(tmp_path / "d", images.pictures(1, 1) | {"features.h5": b"x"})
    assert len(list_source(source).train) == 3
