"""The time of an outer step from the peak rates of a device: a lower bound.

A phase takes the longer of operations / rate and bytes / bandwidth, and then its communication, as
nothing overlaps with it here. Phases follow one another. Launches, small arrays that do not fill a
device and layers with few channels, which leave most of a matrix unit idle, are not counted.

Where the speed of a phase was measured on the device (`Rates.measured`), the time by that rate is
given too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from frepo_scale.parallel.mesh import DATA, POOL
from frepo_scale.plan.hardware import Hardware
from frepo_scale.plan.phase import Phase


class PhaseTime(NamedTuple):
    """Seconds of a phase on one device.

    Attributes:
      name: of the phase.
      compute: operations / rate.
      memory: bytes / bandwidth.
      communication: of its collectives, one after the other.
      measured: seconds at the rate that was measured for this phase, communication included; None
        without a measurement.
    """

    name: str
    compute: float
    memory: float
    communication: float
    measured: float | None

    @property
    def seconds(self) -> float:
        """The lower bound; the measured time where that is shorter, as for arrays that stay in the
        caches of a CPU."""
        bound = max(self.compute, self.memory) + self.communication
        return bound if self.measured is None else min(bound, self.measured)

    @property
    def bound(self) -> str:
        """What takes longest: "compute", "memory" or "communication"."""
        times = {
            "compute": self.compute,
            "memory": self.memory,
            "communication": self.communication,
        }
        return max(times, key=lambda name: times[name])


def phase_times(
    phases: Sequence[Phase],
    hardware: Hardware,
    pool: int,
    data: int,
    measured: Mapping[str, float] | None = None,
) -> list[PhaseTime]:
    """The times of the phases.

    Args:
      phases: of one device.
      hardware: the devices.
      pool: size of the mesh axis "pool".
      data: size of the mesh axis "data", whose devices are neighbours.
      measured: operations per second by the name of a phase (bytes per second for phases without
        operations).
    """
    chip = hardware.chip
    axes = {DATA: (data, 1), POOL: (pool, data)}
    found = []
    for phase in phases:
        communication = 0.0
        for exchange in phase.exchanges:
            size, stride = axes[exchange.axis]
            if size > 1:
                communication += exchange.sent(size) / hardware.axis_rate(size, stride)
        rate = chip.rates[phase.precision]
        # NaN of an algorithm that does not state its operations stays NaN.
        compute = phase.operations / rate if rate else math.inf
        speed = (measured or {}).get(phase.name)
        slow = None
        if speed is not None:
            slow = (phase.operations or phase.bytes) / speed + communication
        found.append(
            PhaseTime(phase.name, compute, phase.bytes / chip.bandwidth, communication, slow)
        )
    return found


def step_seconds(times: Sequence[PhaseTime]) -> float:
    """The lower bound of the step."""
    return sum(time.seconds for time in times)


def measured_seconds(times: Sequence[PhaseTime]) -> float | None:
    """The step at the measured rates; phases without one at the peak rate; None if none has one."""
    if all(time.measured is None for time in times):
        return None
    return sum(time.seconds if time.measured is None else time.measured for time in times)
