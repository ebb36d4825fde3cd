"""A phase of the outer step on one device, with its collectives."""

from typing import NamedTuple

GATHER, REDUCE, SCATTER = "all-gather", "all-reduce", "reduce-scatter"


class Exchange(NamedTuple):
    """A collective operation.

    Attributes:
      kind: "all-gather", "all-reduce" or "reduce-scatter".
      axis: the mesh axis.
      bytes: of the whole array: the result of a gather, the input of a scatter.
    """

    kind: str
    axis: str
    bytes: float

    def sent(self, devices: int) -> float:
        """Bytes that each of the devices of the axis sends on a ring."""
        share = (devices - 1) / devices * self.bytes
        return 2 * share if self.kind == REDUCE else share


class Phase(NamedTuple):
    """A part of the outer step.

    Attributes:
      name: of the phase.
      counted: operations of the algorithm over all devices, as `Algorithm.flops` counts them.
      operations: executed by one device.
      precision: a key of `Chip.rates`.
      bytes: moved by one device between its memory and its units.
      exchanges: collective operations.
    """

    name: str
    counted: float
    operations: float
    precision: str
    bytes: float
    exchanges: tuple[Exchange, ...] = ()
