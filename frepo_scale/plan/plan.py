"""One plan: a recipe on hardware with a mesh. Memory, time, and whether it fits."""

from collections.abc import Mapping
from typing import NamedTuple

from frepo_scale.core.errors import InputError
from frepo_scale.data.placement import Room, choose_placement
from frepo_scale.distill.algorithm import Algorithm
from frepo_scale.distill.frepo import FRePo
from frepo_scale.plan.hardware import Hardware
from frepo_scale.plan.memory import Beside, HostMemory, Memory, beside, estimate, host_memory
from frepo_scale.plan.phase import Phase
from frepo_scale.plan.roofline import PhaseTime, measured_seconds, phase_times, step_seconds
from frepo_scale.plan.sizes import sizes_of
from frepo_scale.plan.subject import Subject, abstract_mesh
from frepo_scale.plan.work import phases

# Records of 64 px (12 288 bytes) that one core reads per second: docs/measurements.md, "Reading
# records".
CORE_RECORDS = 61_000
_RECORD_BYTES = 12_288
ESTIMATED_SHARE = 0.9  # of the memory of a device, which an estimate may take


class Input(NamedTuple):
    """What a run reads.

    Attributes:
      records: real images per second and process, at the predicted speed.
      cores: of a process that reading records would need at the measured rate; None unless the
        images are streamed.
      set_bytes: of all images as uint8; None where their number is not known.
      placement: where the real images are stored: memory | device | stream.
    """

    records: float
    cores: float | None
    set_bytes: float | None
    placement: str


class Plan(NamedTuple):
    """A recipe on hardware.

    Attributes:
      subject: the recipe.
      hardware: the devices.
      pool: size of the mesh axis "pool".
      data: size of the mesh axis "data".
      chunk: images whose activations a device holds.
      dtype: of the nets that compute features.
      members: M.
      pool_size: P.
      phases: the work of one device.
      times: of the phases.
      memory: of one device.
      beside: memory of a device, and of disk, for other parts of the run.
      host: memory of one host.
      input: what is read.
      iterations: assumed for each solve of the regression in float32; None in float64.
    """

    subject: Subject
    hardware: Hardware
    pool: int
    data: int
    chunk: int
    dtype: str
    members: int
    pool_size: int
    phases: list[Phase]
    times: list[PhaseTime]
    memory: Memory
    beside: Beside
    host: HostMemory
    input: Input
    iterations: int | None

    @property
    def fits(self) -> bool:
        """Whether the run fits into the memory of a device: its steps and its evaluations."""
        return self.step_excess <= 0 and self.evaluation_excess <= 0

    @property
    def step_excess(self) -> float:
        """Bytes that a step, beside the real images that a device holds, needs beyond its room; an
        estimate keeps a tenth of a device free."""
        share = 1.0 if self.memory.compiled else ESTIMATED_SHARE
        return self.memory.total + self.beside.images - share * self.hardware.chip.memory

    @property
    def evaluation(self) -> float:
        """Bytes of a device during an evaluation: state and real images stay there, and a step's
        arrays do not."""
        return self.memory.state + self.beside.images + self.beside.evaluation

    @property
    def evaluation_excess(self) -> float:
        """The same as `step_excess` for an evaluation, which is always estimated."""
        return self.evaluation - ESTIMATED_SHARE * self.hardware.chip.memory

    @property
    def seconds(self) -> float:
        """Of an outer step: at the measured rates, or the lower bound without a measurement."""
        return measured_seconds(self.times) or step_seconds(self.times)

    @property
    def ideal_seconds(self) -> float:
        """The lower bound."""
        return step_seconds(self.times)

    @property
    def hours(self) -> float:
        """Of all outer steps, without probes and evaluations."""
        return self.subject.steps * self.seconds / 3600

    @property
    def device_hours(self) -> float:
        """Hours times devices."""
        return self.hours * self.hardware.devices


def make_plan(
    subject: Subject,
    hardware: Hardware,
    pool: int,
    data: int,
    measured: Mapping[str, float] | None = None,
) -> Plan:
    """A plan from shapes; nothing is compiled.

    Args:
      subject: the recipe.
      hardware: the devices.
      pool: size of the mesh axis "pool".
      data: size of the mesh axis "data".
      measured: rates of phases that were measured on this hardware.

    Raises:
      InputError: members or batch do not divide over the mesh.
    """
    algorithm = subject.build(abstract_mesh(pool, data))
    problem = algorithm.problem
    placement = placement_of(subject, hardware)
    work = phases(subject, algorithm, hardware.chip, placement != "memory")
    times = phase_times(work, hardware, pool, data, measured)
    sizes = None
    if isinstance(algorithm, FRePo):
        sizes = sizes_of(subject, algorithm, hardware.chip)
    seconds = measured_seconds(times) or step_seconds(times)
    return Plan(
        subject=subject,
        hardware=hardware,
        pool=pool,
        data=data,
        chunk=problem.config.chunk,
        dtype=problem.config.feature_dtype,
        members=problem.pool.members,
        pool_size=problem.pool.size,
        phases=work,
        times=times,
        memory=estimate(subject, algorithm, sizes, hardware.chip.platform),
        beside=beside(subject, algorithm, placement),
        host=host_memory(subject, algorithm, placement, hardware.hosts),
        input=_input(subject, algorithm, hardware, placement, seconds),
        iterations=None if sizes is None or sizes.float64 else sizes.iterations,
    )


def placement_of(subject: Subject, hardware: Hardware) -> str:
    """Where a run keeps the real images: memory | device | stream."""
    room = Room(hardware.chip.platform, int(hardware.devices * hardware.chip.memory))
    pixels = (subject.images or 0) * subject.pixels
    return choose_placement(subject.placement, pixels, subject.prepared, room)


def meshes(subject: Subject, devices: int) -> list[tuple[int, int]]:
    """All meshes (pool, data) of that many devices over which members and batch divide."""
    problem = subject.problem
    members, batch = problem.pool.members, problem.batch
    return [
        (pool, devices // pool)
        for pool in range(1, min(members, devices) + 1)
        if devices % pool == 0 and members % pool == 0 and batch % (devices // pool) == 0
    ]


def best_mesh(
    subject: Subject, hardware: Hardware, measured: Mapping[str, float] | None = None
) -> Plan:
    """The fastest plan of all meshes; of those that fit if any does.

    Raises:
      InputError: no mesh of these devices suits the recipe.
    """
    found = [
        make_plan(subject, hardware, *mesh, measured) for mesh in meshes(subject, hardware.devices)
    ]
    if not found:
        problem = subject.problem
        raise InputError(
            f"--on {hardware.name}: MEMBERS = {problem.pool.members} and BATCH = {problem.batch}"
            f" on {hardware.devices} devices",
            "a mesh pool x data of all devices, pool a divisor of MEMBERS, data one of BATCH",
            "use another number of devices, or set --gin.BATCH to a multiple of it",
        )
    return min(found, key=lambda plan: (not plan.fits, plan.seconds))


def _input(
    subject: Subject, algorithm: Algorithm, hardware: Hardware, placement: str, seconds: float
) -> Input:
    records = algorithm.batch_size / hardware.hosts / seconds if seconds else float("nan")
    cores = None
    if placement == "stream":
        cores = records / CORE_RECORDS * max(1.0, subject.pixels / _RECORD_BYTES)
    size = None if subject.images is None else float(subject.images * subject.pixels)
    return Input(records, cores, size, placement)
