"""Forms that are not read, recognised by their files: what they are and what to do."""

import re
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage
from frepo_scale.data.sources.census import is_leftover

_NPZ = "save the arrays with np.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...)"
_FOLDERS = "write the images to train/<class>/<image> and test/<class>/<image>"
_UNPACK = "unpack it and give the folder, or pack it again as .tar, .tar.gz or .zip"
# The first that matches a name is taken.
_KNOWN = tuple(
    (re.compile(pattern, re.IGNORECASE), what, fix)
    for pattern, what, fix in (
        (
            r"(train|val|test)_images(_\d+)?\.tar\.gz",
            "tar.gz shards of Hugging Face's older ImageNet",
            "the class is the end of each name: move every image into train/<n01234567>/ or"
            " val/<n01234567>/, or download the Parquet files of the same data set",
        ),
        (r"(data|lock)\.mdb|.+\.l?mdb", "an LMDB database", _FOLDERS),
        (
            r"_common_metadata",
            "a Petastorm or Spark store",
            "write it as Parquet of encoded images",
        ),
        (
            r".+\.parquet",
            "Parquet files that do not say which part they are",
            "name them train-00000-of-00001.parquet, test-... or put them into train/ and test/",
        ),
        (
            r".+\.arrow",
            "a data set of Hugging Face as save_to_disk writes it",
            "datasets.load_from_disk(PATH)[SPLIT].to_parquet('SPLIT-00000-of-00001.parquet') for"
            " train and test",
        ),
        (r".+\.(h5|hdf5|he5)", "an HDF5 file", _NPZ),
        (r".+\.mat", "a MATLAB file", f"read it with scipy.io.loadmat and {_NPZ}"),
        (r".+\.rec", "RecordIO of MXNet", _FOLDERS),
        (r".+\.beton", "a file of FFCV", _FOLDERS),
        (r".+\.mds(\..+)?", "shards of MosaicML Streaming", _FOLDERS),
        (r".+\.lance", "a Lance table", "write it as Parquet of encoded images"),
        (r".+\.(pt|pth)", "tensors of PyTorch", f"convert them with .numpy() and {_NPZ}"),
        (r".+\.(npy|pkl|pickle)", "single arrays or pickles", _NPZ),
        (
            r".+\.tfrecords?(-.+)?|.+\.array_record(-.+)?",
            "records that do not say which part they are",
            "name them train-00000-of-00001.tfrecord and validation-00000-of-00001.tfrecord",
        ),
        (r".+\.(7z|rar|tar\.bz2|tbz2?|tar\.xz|txz|tar\.zst|zst|xz|bz2)", "an archive", _UNPACK),
    )
)
_MANY = 10_000  # entries of a folder that are looked at


def refuse_unsupported(path: Path) -> None:
    """Refuses a file, or a folder with files, of a form that is known and not read.

    Raises:
      InputError: it is one.
    """
    with damage(path):
        found = _find(path)
    if found is not None:
        file, what, fix = found
        raise InputError(
            f"{file} is of a form that is not read: {what}", "a form of docs/recipes.md", fix
        )


def _find(path: Path) -> tuple[Path, str, str] | None:
    """The first known file at a path, in it, or in a folder in it."""
    if path.is_file():
        return _known(path)
    folders = [path, *sorted(f for f in path.iterdir() if f.is_dir() and not is_leftover(f.name))]
    for folder in folders[:100]:
        for number, file in enumerate(sorted(folder.iterdir())):
            found = None if is_leftover(file.name) or number > _MANY else _known(file)
            if found is not None:
                return found
    return None


def _known(file: Path) -> tuple[Path, str, str] | None:
    """The form of a file by its name."""
    for pattern, what, fix in _KNOWN:
        if pattern.fullmatch(file.name):
            return file, what, fix
    return None
