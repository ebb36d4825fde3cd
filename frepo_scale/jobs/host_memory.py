"""The memory of this machine: what is available, and what a run will certainly need of it.

A process that uses more is ended by the kernel, without a message and after hours, perhaps.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import FailedElsewhere, InputError
from frepo_scale.jobs.run import Run
from frepo_scale.parallel.runtime import exchange, is_first, process_count
from frepo_scale.plan.overview import state_bytes

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_V2 = ("memory.max", "memory.current", "inactive_file")  # limit, use, a line of memory.stat
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def check_host_memory(run: Run) -> None:
    """Refuses a run that does not fit into the memory that is available now; collective.

    Counted is what is certain: the state, whitened images, and target batches. With several
    processes each counts its share; processes of one machine are not added up.

    Raises:
      InputError: the run cannot fit; on process 0.
      FailedElsewhere: on the others.
    """
    room = available()
    needed = needed_bytes(run)
    missing = exchange(max(needed - room, 0.0) if room else 0.0)
    if not any(missing):
        return
    if not is_first():
        raise FailedElsewhere(2)
    worst = max(range(len(missing)), key=missing.__getitem__)
    where = f" of process {worst}" if process_count() > 1 else ""
    raise InputError(
        f"{run.recipe.name} needs {needed / 1e9:.1f} GB or more of a machine's memory;"
        f" {missing[worst] / 1e9:.1f} GB are missing on the machine{where}",
        "a run that fits",
        "use a machine with more memory, or end other programs on it; lower POOL_SIZE (now"
        f" {run.config.pool.size}) or WIDTH (now {run.config.net.width}); a large set that"
        " frepo-scale prepare has converted is read from disk",
    )


def needed_bytes(run: Run) -> float:
    """Bytes that a process of the run allocates in the memory of its machine after the data."""
    dataset, mesh = run.dataset, run.mesh
    share = len(mesh.local_devices) / mesh.size
    state = state_bytes(run.algorithm, dataset) * share
    # A save copies the state first; on CPUs it is in this memory already.
    copies = 2 if mesh.local_devices[0].platform == "cpu" else 1
    pixels = float(np.prod(dataset.image_shape))
    images = 0.0
    if dataset.placement == "memory" and dataset.whitened:
        parts = (dataset.train, dataset.held_out, dataset.test)
        images = 4.0 * pixels * sum(map(len, parts))
    return copies * state + images + 4.0 * pixels * run.algorithm.batch_size * share


def available(proc: Path = _PROC, cgroup: Path = _CGROUP) -> float:
    """Bytes that a program may still allocate here; 0 if the system does not say.

    Args:
      proc: the folder of the kernel's files about memory and this process.
      cgroup: the folder of the control groups, whose limits count: of a container or a Slurm job.
    """
    rooms = [1024.0 * value for value in _values(proc / "meminfo", "MemAvailable:")]
    for folder, (limit, used, cache) in _groups(proc, cgroup):
        found = (_number(folder / limit), _number(folder / used))
        if found[0] is not None and found[1] is not None:
            # The kernel gives file caches back before it ends a program.
            rooms.append(found[0] - found[1] + sum(_values(folder / "memory.stat", cache)))
    return max(min(rooms), 1.0) if rooms else 0.0


def _groups(proc: Path, cgroup: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The control groups of this process, with the names of their files."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = cgroup / "memory" if kinds else cgroup
        own = top / path.strip("/")
        for folder in (own, *own.parents):
            yield folder, _V1 if kinds else _V2
            if folder == top:
                break


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None


def _values(path: Path, name: str) -> list[float]:
    """The numbers behind a name at the begin of a line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [float(line.split()[1]) for line in lines if line.split()[:1] == [name]]
