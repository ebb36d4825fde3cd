"""The settings of `frepo-scale prepare`."""

from dataclasses import dataclass
from pathlib import Path

from frepo_scale.core.checks import check_choice, check_int
from frepo_scale.core.errors import InputError
from frepo_scale.data.decode import FILTERS, FITS

LARGEST_SIDE = 1024  # pixels; more is a typing error


@dataclass(frozen=True)
class PrepareConfig:
    """The settings of one prepared set.

    Attributes:
      source: the images, in any form of `sources.registry`.
      out: the folder to make.
      resolution: R, the side in pixels.
      filter: how images are resized, "area" or "lanczos".
      fit: how they become squares, "crop" or "squash".
      workers: processes; None: one per core this process may use.
      skip_bad: how many undecodable images may be left out.
      no_test: whether the set has training images only, whatever the source has.
      name: the name of the set; None: that of the source.
      source_class: the dotted path of a source class of the user's own; None: by form.
    """

    source: Path
    out: Path
    resolution: int
    filter: str = "area"
    fit: str = "crop"
    workers: int | None = None
    skip_bad: int = 0
    name: str | None = None
    source_class: str | None = None
    no_test: bool = False

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        check_int("--resolution", self.resolution, low=1, high=LARGEST_SIDE)
        check_choice("--filter", self.filter, FILTERS)
        check_choice("--fit", self.fit, FITS)
        if self.workers is not None:
            check_int("--workers", self.workers, low=1, high=1024)
        check_int("--skip-bad", self.skip_bad, low=0)
        if self.name is not None and not self.name.strip():
            raise InputError(f"--name {self.name!r}", "a name")
