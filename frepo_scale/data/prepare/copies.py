"""The uncompressed copy that workers read where a source has no random access.

Arrays in memory, gzip files, and the images of files that can only be read from their beginning are
copied one after the other into one file; the ranges of the listing then refer to that file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from frepo_scale.data.archive import damage, open_stream, truncated
from frepo_scale.data.decode import UnreadableImage
from frepo_scale.data.images import in_file_order, read_rows
from frepo_scale.data.sources.listing import Listing, Part, Poll

_PIECE = 1 << 22


@dataclass(frozen=True)
class Copy:
    """The data to copy.

    Attributes:
      blocks: arrays of pixels, gzip files with the bytes to take of each, and parts whose images
        are taken in the order of their files.
      size: bytes of the whole.
    """

    blocks: tuple[np.ndarray | tuple[str, int] | Part, ...]
    size: int

    def write(self, out: BinaryIO, poll: Poll) -> None:
        """Writes the copy.

        Raises:
          InputError: a file is damaged.
        """
        for block in self.blocks:
            if isinstance(block, np.ndarray):
                out.write(np.ascontiguousarray(block).data)
                continue
            if isinstance(block, Part):
                _write_images(block, out, poll)
                continue
            path, left = Path(block[0]), block[1]
            with damage(path), open_stream(path) as stream:
                while left and (piece := stream.read(min(_PIECE, left))):
                    poll()
                    out.write(piece)
                    left -= len(piece)
            if left:
                raise truncated(path, f"{left} bytes are missing")


def _write_images(part: Part, out: BinaryIO, poll: Poll) -> None:
    """Writes the images of a part in the order of their files."""
    for row, data in read_rows(part, in_file_order(part).tolist()):
        poll()
        if isinstance(data, UnreadableImage):
            raise truncated(Path(part.paths[part.files[row]]), f"{data.member}: {data.reason}")
        out.write(data)


def with_copy(listing: Listing, path: Path) -> tuple[Listing, Copy]:
    """The listing with all images in files that have random access, and the copy this needs.

    Args:
      listing: of a source.
      path: where the copy will be.
    """
    blocks: list[np.ndarray | tuple[str, int] | Part] = []
    ends: dict[str, int] = {}
    for part in (listing.train, listing.test):
        if part.compressed and part.opener is None:
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
        elif part.compressed and part.opener is not None:
            blocks.append(part)
            order = in_file_order(part)
            starts_of_rows = np.empty(len(part), np.int64)
            starts_of_rows[order] = size + np.cumsum(part.sizes[order]) - part.sizes[order]
            shift = starts_of_rows - part.offsets
            size += int(part.sizes.sum())
        elif part.compressed and part.paths:
            shift = np.array([starts[name] for name in part.paths], np.int64)[part.files]
        else:
            parts.append(part)
            continue
        files = np.zeros(len(part), np.int32)
        offsets = part.offsets + shift
        parts.append(
            replace(
                part,
                paths=[str(path)],
                files=files,
                offsets=offsets,
                compressed=False,
                pixels=None,
                opener=None,
            )
        )
    return replace(listing, train=parts[0], test=parts[1]), Copy(tuple(blocks), size)
