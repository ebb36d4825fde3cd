"""Decoding JPEGs to small squares: speed per core and difference, all methods in one run.

    python benchmarks/decoding.py PATH [--images 200] [--resolution 64] [--rounds 5]
        [--damaged 3000]

PATH is any source that `frepo-scale prepare` reads. Every method decodes every image in every
round, one after the other in one thread; of each image the best round counts, in CPU seconds, so
that the ratios are comparable on a busy machine. Differences are mean
absolute ones, in steps of 1/255, from full decoding (Pillow) and area averaging. TensorFlow is
compared where it is installed. Every method but the one that says otherwise averages areas as
`prepare` does.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from frepo_scale.data import decode
from frepo_scale.data.decode import decode_image, to_square
from frepo_scale.data.sources.registry import list_source

Method = Callable[[bytes], np.ndarray]
LEAST = 1.3  # times TensorFlow


def read_jpegs(source: Path, count: int) -> list[bytes]:
    """The first `count` JPEGs in RGB, which all methods take, in the order of the records."""
    part = list_source(source).train.shuffled()
    found: list[bytes] = []
    for row in range(len(part)):
        with open(part.paths[part.files[row]], "rb") as file:
            file.seek(part.offsets[row])
            data = file.read(part.sizes[row])
        image = Image.open(io.BytesIO(data))
        if image.format == "JPEG" and image.mode == "RGB":
            found.append(data)
        if len(found) == count:
            break
    return found


def methods(side: int) -> dict[str, Method]:
    """Every way from a file to an (R, R, 3) uint8 square, the centre cropped."""

    def pillow(data: bytes) -> np.ndarray:
        return to_square(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), side, "crop")

    def draft(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (2 * side, 2 * side))
        return to_square(np.asarray(image.convert("RGB")), side, "crop")

    def opencv(flag: int) -> Method:
        def method(data: bytes) -> np.ndarray:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
            return to_square(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), side, "crop")

        return method

    def ours(data: bytes) -> np.ndarray:
        return decode_image(data, "", 3, side, "crop").pixels

    found: dict[str, Method] = {
        "prepare": ours,
        "Pillow, full": pillow,
        "Pillow, draft": draft,
        "OpenCV, full": opencv(cv2.IMREAD_COLOR),
        "OpenCV, reduced by 2": opencv(cv2.IMREAD_REDUCED_COLOR_2),
        "OpenCV, reduced by 4": opencv(cv2.IMREAD_REDUCED_COLOR_4),
        "simplejpeg, reduced": lambda data: to_square(
            simplejpeg.decode_jpeg(data, "RGB", min_height=2 * side, min_width=2 * side),
            side,
            "crop",
        ),
        # Too coarse for use: a lower bound on the time of any decoder.
        "simplejpeg, an eighth": lambda data: cv2.resize(
            simplejpeg.decode_jpeg(data, "RGB", min_height=1, min_width=1), (side, side)
        ),
    }
    try:
        found["TensorFlow, full"] = tensorflow_method(side)
    except ImportError:
        print("TensorFlow is not installed")
    return found


def tensorflow_method(side: int) -> Method:
    """`tf.io.decode_jpeg` and area averaging, compiled once, in one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def method(data: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(data, channels=3)
        shape = tf.shape(image)
        small = tf.minimum(shape[0], shape[1])
        top, left = (shape[0] - small) // 2, (shape[1] - small) // 2
        square = image[top : top + small, left : left + small]
        resized = tf.image.resize(square[None], [side, side], method="area")[0]
        return tf.cast(tf.round(resized), tf.uint8)

    return lambda data: np.asarray(method(data))


def pixels_or_nothing(data: bytes) -> bytes:
    """The result of `prepare` for a file; empty if it refuses the file."""
    try:
        return decode_image(data, "", None, None, "crop").pixels.tobytes()
    except decode.UnreadableImage:
        return b""


def damaged(images: list[bytes], count: int) -> str:
    """How often the fast decoder and Pillow differ on the images and on damaged copies."""
    rng = np.random.default_rng(0)
    files = list(images)
    for _ in range(count):
        data = bytearray(images[rng.integers(len(images))])
        size, at = int(rng.integers(1, 4)), int(rng.integers(2, len(data) - 4))
        noise = rng.integers(0, 256, size).astype(np.uint8).tobytes()
        match rng.integers(3):
            case 0:
                data[at : at + size] = noise
            case 1:
                del data[at : at + size]
            case _:
                data[at:at] = noise
        files.append(bytes(data))
    fast = [pixels_or_nothing(data) for data in files]
    with mock.patch.object(decode, "_jpeg", lambda *arguments: None):
        slow = [pixels_or_nothing(data) for data in files]
    differ = sum(a != b for a, b in zip(fast, slow, strict=True))
    return (
        f"{len(images)} photographs and {count} damaged copies: {slow.count(b'')} refused,"
        f" {differ} otherwise by the fast decoder than by Pillow"
    )


def main() -> None:
    """Prints one line per method."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--damaged", type=int, default=0, help="also so many damaged copies")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    images = read_jpegs(options.source, options.images)
    found = methods(options.resolution)
    best = {name: np.full(len(images), np.inf) for name in found}
    pixels: dict[str, np.ndarray] = {}
    for _ in range(options.rounds):
        for name, method in found.items():
            squares = []
            for row, data in enumerate(images):
                began = time.process_time()
                squares.append(method(data))
                best[name][row] = min(best[name][row], time.process_time() - began)
            pixels[name] = np.stack(squares).astype(int)
    seconds = {name: float(times.sum()) for name, times in best.items()}
    full, reference = seconds["prepare"], pixels["Pillow, full"]
    print(f"{len(images)} images to {options.resolution} px   images/s/core  of full  difference")
    for name in found:
        difference = np.abs(pixels[name] - reference).mean()
        rate, ratio = len(images) / seconds[name], full / seconds[name]
        print(f"{name:28} {rate:13.0f} {ratio:8.2f} {difference:11.2f}")
    if "TensorFlow, full" in found:
        ratio = seconds["TensorFlow, full"] / seconds["prepare"]
        met = "met" if ratio >= LEAST else "missed"
        print(f"prepare is {ratio:.2f} times as fast as TensorFlow (bar {LEAST:g}: {met})")
    if options.damaged:
        print(damaged(images, options.damaged))


if __name__ == "__main__":
    main()
