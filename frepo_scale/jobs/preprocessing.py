"""The preprocessing of a run: fitted once, stored in its workdir with a fingerprint of its data."""

import contextlib
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import open_to_read
from frepo_scale.data.dataset import Dataset
from frepo_scale.data.whitening import Preprocessing, empty_preprocessing, whitened_size
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.runtime import agree, all_true, process_count
from frepo_scale.parallel.share import of_first, on_first

_LARGE = 4096  # dimensions from which the eigenvectors take minutes

# What reading a missing or damaged .npz can raise.
_DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,  # a damaged flag says "encrypted", or (its subclass) "patched data"
    zipfile.BadZipFile,
    zlib.error,
)


@contextlib.contextmanager
def _stored(workdir: Workdir) -> Iterator[Mapping[str, np.ndarray]]:
    with open_to_read(workdir.preprocessing) as file, np.load(file, allow_pickle=False) as stored:
        yield stored


def check_data(workdir: Workdir, dataset: Dataset) -> None:
    """Raises InputError if the run in the workdir was started with other data."""
    with contextlib.suppress(*_DAMAGE), _stored(workdir) as stored:
        fingerprint = str(stored["dataset"])
        if fingerprint != dataset.fingerprint:
            raise other_data(workdir, dataset, fingerprint)


def other_data(workdir: Workdir, dataset: Dataset, stored: str) -> InputError:
    """The error for data that differ from those of the run's start.

    Args:
      workdir: the run.
      dataset: the data found.
      stored: the fingerprint of the data that the run was started with.
    """
    return InputError(
        f"the data at {dataset.origin} are not those that {workdir.root} was started with",
        f"pixels and labels with sha256 {stored[:12]}..., found {dataset.fingerprint[:12]}...",
        "give the original data with --gin.DATA_DIR, or start a new --workdir",
    )


def stored_preprocessing(workdir: Workdir, dataset: Dataset) -> Preprocessing:
    """The preprocessing from the workdir; otherwise it is fitted and stored there.

    A line says so where fitting takes minutes, as for images of 64 px that were not prepared.
    """
    # A file that cannot be read is written again: it is a function of the data.
    with contextlib.suppress(*_DAMAGE), _stored(workdir) as stored:
        return Preprocessing.from_arrays(dict(stored))
    size = whitened_size(dataset.image_shape) if dataset.whitened else 0
    if size >= _LARGE and not dataset.fitted:
        line = f"frepo-scale: whitening: eigenvectors in {size} dimensions, up to ten minutes, once"
        print(line, file=sys.stderr, flush=True)
    fitted = dataset.fit_preprocessing()
    with whole_file(workdir.preprocessing) as file:
        arrays = {"dataset": np.array(dataset.fingerprint)} | fitted.arrays()
        np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes them for other keywords
    return fitted


def shared_preprocessing(workdir: Workdir, dataset: Dataset) -> Preprocessing:
    """`stored_preprocessing` of process 0 on every process: eigenvectors differ between machines.

    Raises:
      InputError: on process 0, the data or the workdir are wrong.
    """
    if process_count() == 1:
        return stored_preprocessing(workdir, dataset)
    found: list[Preprocessing] = []
    on_first(lambda: found.append(stored_preprocessing(workdir, dataset)))
    own = found[0] if found else empty_preprocessing(dataset.image_shape, dataset.whitened)
    return Preprocessing.from_arrays(of_first(own.arrays()))


def check_same_data(dataset: Dataset) -> None:
    """Raises InputError unless every process found the data that process 0 found."""
    number = int(dataset.fingerprint[:16], 16)  # 64 bits of the sha256, as `agree` carries numbers
    if not all_true(number == agree(number)):
        raise InputError(
            f"the data at {dataset.origin} are not the same for all processes"
            f" (here {dataset.fingerprint[:12]}...)",
            "one data set for all",
            "give them all the same --gin.DATA_DIR, or copies of one set",
        )
