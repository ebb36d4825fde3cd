"""The data sets known by name: their facts and default paths."""

from dataclasses import dataclass

from frepo_scale.core.errors import InputError, nearest

_IDX = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and"
    " t10k-labels-idx1-ubyte (.gz or not)"
)
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True)
class DatasetSpec:
    """The facts of a data set that are known before it is read.

    Attributes:
      name: what recipes call it.
      num_classes: K; None: any (a user's data).
      resolution: R, the default side in pixels; None: as stored.
      channels: C, 1 or 3; None: as stored.
      zca: whether its images are whitened (a user's are if they are in colour).
      augment_flip: whether a mirrored image is still of its class.
      default_dirs: the paths that are tried, in this order, if no path is given.
      published: the files it is published as, for messages; empty where there are none.
      any_size: whether images may have any size and shape; otherwise squares of side R.
      class_names: K names for files that only number the classes.
    """

    name: str
    num_classes: int | None
    resolution: int | None
    channels: int | None
    zca: bool
    augment_flip: bool
    default_dirs: tuple[str, ...]
    published: str = ""
    any_size: bool = False
    class_names: tuple[str, ...] | None = None


def _colour(
    name: str, num_classes: int, resolution: int, published: str, any_size: bool = False
) -> DatasetSpec:
    """A published data set of photographs."""
    dirs = (f"data/{name}",)
    return DatasetSpec(name, num_classes, resolution, 3, True, True, dirs, published, any_size)


def _grey(
    name: str, resolution: int, *dirs: str, class_names: tuple[str, ...] | None = None
) -> DatasetSpec:
    """A published data set of ten grey classes, whose images must not be mirrored."""
    return DatasetSpec(name, 10, resolution, 1, False, False, dirs, _IDX, class_names=class_names)


_ALL = (
    DatasetSpec("digits", 10, 8, 1, False, False, (), "nothing (it comes with scikit-learn)"),
    _grey("mnist", 28, "data/mnist"),
    _grey(
        "fashion_mnist",
        28,
        "data/fashion_mnist",
        "/usr/share/datasets/fashion-mnist",
        class_names=_FASHION,
    ),
    _colour("cifar10", 10, 32, "cifar-10-binary.tar.gz, cifar-10-python.tar.gz, or one unpacked"),
    _colour(
        "cifar100", 100, 32, "cifar-100-binary.tar.gz, cifar-100-python.tar.gz, or one unpacked"
    ),
    _colour("tiny_imagenet", 200, 64, "tiny-imagenet-200 unpacked or in a .zip or .tar[.gz]"),
    *(
        _colour(name, 10, 128, f"{name}2 unpacked or in a .tar[.gz] or .tgz", any_size=True)
        for name in ("imagenette", "imagewoof")
    ),
    _colour("cub200", 200, 32, "CUB_200_2011 unpacked or in its .tgz", any_size=True),
    _colour("imagenet1k", 1000, 64, "the output of frepo-scale prepare", any_size=True),
    DatasetSpec("folder", None, None, None, True, True, (), any_size=True),
    DatasetSpec("npz", None, None, None, True, True, (), any_size=True),
)
SPECS: dict[str, DatasetSpec] = {spec.name: spec for spec in _ALL}


def spec_for(name: str) -> DatasetSpec:
    """The facts of a data set; `InputError` with the nearest names when there is none."""
    if not isinstance(name, str) or name not in SPECS:
        raise InputError(f"data set {name!r}", "a known data set", nearest(str(name), SPECS))
    return SPECS[name]
