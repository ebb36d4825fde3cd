"""Images stored with one channel after the other, read with the channels last."""

import math
import zipfile
from typing import IO

import numpy as np


class ChannelsFirst:
    """An open batch; see `RangeFile`. Offsets count bytes of the file, or of a compressed array."""

    def __init__(self, path: str) -> None:
        """Opens the file."""
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115  kept open
        if path.endswith(".npz"):
            with zipfile.ZipFile(path) as archive:  # what it opens stays open
                if archive.getinfo("data.npy").compress_type != zipfile.ZIP_STORED:
                    self._file.close()
                    self._file = archive.open("data.npy")

    def read(self, offset: int, size: int) -> bytes:
        """See `RangeFile`: the pixels of an image, channels last."""
        self._file.seek(offset)
        data = self._file.read(size)
        side = math.isqrt(size // 3)
        if len(data) < size:
            return data
        return np.frombuffer(data, np.uint8).reshape(3, side, side).transpose(1, 2, 0).tobytes()

    def close(self) -> None:
        """See `RangeFile`."""
        self._file.close()
