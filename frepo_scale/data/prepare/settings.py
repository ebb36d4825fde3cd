"""What `frepo-scale prepare` is asked for."""

from dataclasses import dataclass
from pathlib import Path

from frepo_scale.core.checks import check_choice, check_int
from frepo_scale.core.errors import InputError
from frepo_scale.data.decode import DECODES, FILTERS, FITS

LARGEST_SIDE = 1024  # pixels; records of more are no use to anybody


@dataclass(frozen=True)
class PrepareConfig:
    """What to prepare.

    Attributes:
      source: the images, in any form that `inputs` knows.
      out: the folder to make.
      resolution: R, the side in pixels.
      filter: how images are resized, "area" or "lanczos".
      fit: how they become squares, "crop" or "squash".
      decode: "full", or "reduced" for faster and slightly different pixels of large JPEGs.
      workers: processes; None: one per core this process may use.
      skip_bad: how many undecodable images may be left out.
      name: what the set is called; None: as the source is.
    """

    source: Path
    out: Path
    resolution: int
    filter: str = "area"
    fit: str = "crop"
    decode: str = "full"
    workers: int | None = None
    skip_bad: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        check_int("--resolution", self.resolution, low=1, high=LARGEST_SIDE)
        check_choice("--filter", self.filter, FILTERS)
        check_choice("--fit", self.fit, FITS)
        check_choice("--decode", self.decode, DECODES)
        if self.workers is not None:
            check_int("--workers", self.workers, low=1, high=1024)
        check_int("--skip-bad", self.skip_bad, low=0)
        if self.name is not None and not self.name.strip():
            raise InputError(f"--name {self.name!r}", "a name")
