"""The time a roofline predicts for each phase of the outer step, to set beside the measured one.

Each phase takes the longer of operations / rate and bytes / bandwidth, and phases follow one
another. Nothing is counted for launches, for small arrays that fill no device, or for workspaces:
it is a lower bound on the time.

Per image and layer, with `in` and `out` the elements of a convolution's input and output (`out / 4`
after pooling) and s bytes per element:
  F   operations of a forward pass: 2 * channels in * channels out * taps, of which a 3 x 3 kernel
      has (3 side - 2)^2 inside a padded image
  A   bytes of a forward pass: s (in + 2 out + out / 4): the convolution reads `in` and writes `out`
      (bias and ReLU fused), pooling reads it and writes a quarter
  G   bytes of a backward pass to the images: s (out / 4 + 3 out + in): the gradient of the pooled
      map is spread over `out` under ReLU's mask, and the convolution turns it into that of `in`

  target features     B F operations, B A bytes
  synthetic forward   R F operations, R A bytes
  synthetic backward  2 R F operations and R (A + G) bytes: activations are computed again
  regression          n = min(R, d): 2 R d n (Gram matrix) + n^3 / 3 + 4 n^2 K (factorisation and
                      two solves) + 10 R d K (five products with features) at the float64 rate,
                      8 (4 R d + 4 n^2) bytes
  optimiser           28 bytes for each element of the distilled set: value, gradient and two
                      moments read, value and moments written
  online step         3 b (F + 2 d K) operations, b (2 A + 2 G) bytes (BatchNorm's passes among
                      them), and 28 bytes for each parameter

Legend: B target batch, R rows of the regression, b online minibatch, d features, K classes.
"""

from typing import Any, NamedTuple

from gpu_parts.step_case import PHASES, Shape, dim

# Datasheet rates (dense), used where the part "facts" has not measured any.
DATASHEETS = {
    "H100": {
        "bfloat16": 989e12,
        "float32_default": 495e12,
        "float64": 67e12,
        "bytes_per_second": 3.35e12,
    },
    "H200": {
        "bfloat16": 989e12,
        "float32_default": 495e12,
        "float64": 67e12,
        "bytes_per_second": 4.8e12,
    },
}


class Work(NamedTuple):
    """Operations of a phase, the key of the rate they run at, and bytes moved."""

    operations: float
    rate: str
    bytes: float


class Layer(NamedTuple):
    """A convolution on one image: operations, and elements of its input, output and kernel."""

    operations: float
    into: int
    out: int
    kernel: int


def layers(shape: Shape) -> list[Layer]:
    """The convolutions of the ConvNet at a shape."""
    found, channels, side = [], shape.channels, shape.side
    for number in range(shape.depth):
        width = shape.width * 2**number
        operations = 2.0 * channels * width * (3 * side - 2) ** 2
        found.append(Layer(operations, side**2 * channels, side**2 * width, 9 * channels * width))
        channels, side = width, side // 2
    return found


def work(shape: Shape, dtype: str) -> dict[str, Work]:
    """What each phase has to do, by name."""
    convolutions = layers(shape)
    operations = sum(layer.operations for layer in convolutions)
    forward = sum(layer.into + 2.25 * layer.out for layer in convolutions)
    backward = sum(layer.into + 3.25 * layer.out for layer in convolutions)
    parameters = sum(layer.kernel for layer in convolutions)
    parameters += dim(shape) * shape.classes
    size, rate = (2, "bfloat16") if dtype == "bfloat16" else (4, "float32_default")
    unknowns = min(shape.rows, dim(shape))
    products = shape.rows * dim(shape) * (2.0 * unknowns + 10.0 * shape.classes)
    solves = unknowns**3 / 3 + 4.0 * unknowns**2 * shape.classes
    elements = shape.size * (shape.side**2 * shape.channels + shape.classes)
    return {
        "target features": Work(shape.batch * operations, rate, size * shape.batch * forward),
        "synthetic forward": Work(shape.rows * operations, rate, size * shape.rows * forward),
        "synthetic backward": Work(
            2 * shape.rows * operations, rate, size * shape.rows * (forward + backward)
        ),
        "regression": Work(
            products + solves, "float64", 8.0 * (4 * shape.rows * dim(shape) + 4 * unknowns**2)
        ),
        "optimiser": Work(0.0, rate, 28.0 * elements),
        "online step": Work(
            3 * shape.online * (operations + 2.0 * dim(shape) * shape.classes),
            rate,
            size * shape.online * 2 * (forward + backward) + 28.0 * parameters,
        ),
    }


def predicted(shape: Shape, dtype: str, rates: dict[str, float]) -> dict[str, float]:
    """Seconds of each phase and of the "step", their sum.

    Args:
      shape: of the step.
      dtype: of the networks.
      rates: operations per second by precision, and "bytes_per_second".
    """
    seconds = {
        name: max(part.operations / rates[part.rate], part.bytes / rates["bytes_per_second"])
        for name, part in work(shape, dtype).items()
    }
    return {name: seconds[name] for name in PHASES} | {"step": sum(seconds.values())}


def rates_of(facts: dict[str, Any], device: str) -> tuple[dict[str, float], str] | None:
    """Rates to predict with and where they are from: measured ones, else a datasheet's; else None.

    Args:
      facts: results of the part "facts", which may be incomplete.
      device: the device's kind.
    """
    measured = dict(facts.get("rates", {}), bytes_per_second=facts.get("bytes_per_second"))
    needed = ("bfloat16", "float32_default", "float64", "bytes_per_second")
    if all(measured.get(name) for name in needed):
        return {name: measured[name] for name in needed}, "measured"
    for name, sheet in DATASHEETS.items():
        if name in device:
            return dict(sheet), f"datasheet of {name}"
    return None
