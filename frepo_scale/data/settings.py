"""The settings of the real images."""

from dataclasses import dataclass

from frepo_scale.core.checks import check_choice
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.data.decode import FITS
from frepo_scale.data.placement import PLACEMENTS
from frepo_scale.data.sources.specs import spec_for
from frepo_scale.data.subset import canonical_classes, parse_chunk

LARGEST_SIDE = 4096  # pixels; more is a typing error, and would not fit into memory
IMAGES = ("real", "noise")  # of `images`, besides a dotted path


@dataclass(frozen=True)
class DataConfig:
    """The real images, and how they reach the devices."""

    name: str = setting(macro="DATASET", help="the data set, such as cifar10")
    directory: str | None = setting(
        None,
        "DATA_DIR",
        "path of the data set; None: the usual paths (docs/recipes.md)",
        operational=True,
    )
    resolution: int | None = setting(
        None,
        "RESOLUTION",
        "side of the images in pixels; None: as the data set has it",
        low=1,
        high=LARGEST_SIDE,
    )
    fit: str = setting(
        "crop", "FIT", "how images of differing sizes become squares: crop | squash", choices=FITS
    )
    skip_unreadable: int = setting(
        0,
        "SKIP_UNREADABLE",
        "at most this many undecodable images are skipped; one more is an error",
        low=0,
    )
    classes: str | None = setting(
        None,
        "CLASSES",
        "the classes that are distilled, such as '0-19' or '0-4,7', with labels over all classes;"
        " None: all",
    )
    chunk_of: str | None = setting(
        None,
        "CHUNK_OF",
        "a disjoint part of the training images, such as '0/5', the first of five; None: all",
    )
    batch: int = setting(1024, "BATCH", "target images per net and outer step", low=1)
    images: str = setting(
        "real",
        "DATA_SOURCE",
        "real | noise | the dotted path of a source class; noise: random pixels, to measure input",
    )
    placement: str = setting(
        "auto",
        "DATA_PLACEMENT",
        "where the target images are stored during a run: memory | device | stream | auto",
        choices=PLACEMENTS,
        operational=True,
    )
    workers: int = setting(
        0,
        "DATA_WORKERS",
        "processes that read a streamed set; 0: threads",
        low=0,
        operational=True,
    )

    def __post_init__(self) -> None:
        """Raises InputError for an unknown data set or a value out of its bounds."""
        spec_for(self.name)
        object.__setattr__(self, "classes", canonical_classes(self.classes))
        parse_chunk(self.chunk_of)
        check_settings(self)
        if "." not in self.images:
            check_choice("DATA_SOURCE", self.images, (*IMAGES, "a dotted path module.Class"))
