"""The uncompressed copy that workers read where a source has no random access.

Arrays in memory and gzip files are copied one after the other into one file; the ranges of the
listing then refer to that file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from frepo_scale.data.archive import damage, open_stream, truncated
from frepo_scale.data.sources.listing import Listing, Part, Poll

_PIECE = 1 << 22


@dataclass(frozen=True)
class Copy:
    """The data to copy.

    Attributes:
      blocks: arrays of pixels, and gzip files with the bytes to take of each, in order.
      size: bytes of the whole.
    """

    blocks: tuple[np.ndarray | tuple[str, int], ...]
    size: int

    def write(self, out: BinaryIO, poll: Poll) -> None:
        """Writes the copy.

        Raises:
          InputError: a gzip file is damaged.
        """
        for block in self.blocks:
            if isinstance(block, np.ndarray):
                out.write(np.ascontiguousarray(block).data)
                continue
            path, left = Path(block[0]), block[1]
            with damage(path), open_stream(path) as stream:
                while left and (piece := stream.read(min(_PIECE, left))):
                    poll()
                    out.write(piece)
                    left -= len(piece)
            if left:
                raise truncated(path, f"{left} bytes are missing")


def with_copy(listing: Listing, path: Path) -> tuple[Listing, Copy]:
    """The listing with all images in files that have random access, and the copy this needs.

    Args:
      listing: of a source.
      path: where the copy will be.
    """
    blocks: list[np.ndarray | tuple[str, int]] = []
    ends: dict[str, int] = {}
    for part in (listing.train, listing.test):
        if part.compressed:
            for file, name in enumerate(part.paths):
                rows = part.files == file
                end = int((part.offsets[rows] + part.sizes[rows]).max())
                ends[name] = max(end, ends.get(name, 0))
    starts, size = {}, 0
    for name, end in ends.items():
        blocks.append((name, end))
        starts[name] = size
        size += end
    parts: list[Part] = []
    for part in (listing.train, listing.test):
        if part.pixels is not None:
            blocks.append(part.pixels)
            shift = np.full(len(part), size, np.int64)
            size += part.pixels.nbytes
        elif part.compressed and part.paths:
            shift = np.array([starts[name] for name in part.paths], np.int64)[part.files]
        else:
            parts.append(part)
            continue
        files = np.zeros(len(part), np.int32)
        offsets = part.offsets + shift
        parts.append(
            replace(
                part, paths=[str(path)], files=files, offsets=offsets, compressed=False, pixels=None
            )
        )
    return replace(listing, train=parts[0], test=parts[1]), Copy(tuple(blocks), size)
