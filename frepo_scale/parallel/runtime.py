"""The processes of one run: how they connect and agree.

A launcher sets these variables in the environment of each process:

  FREPO_COORDINATOR  host:port of process 0, the same for all
  FREPO_PROCESSES    how many there are
  FREPO_PROCESS      which one this is, from 0
  FREPO_CLUSTER      "auto" instead of the three: JAX detects them (TPU pods, Slurm, Kubernetes)
  FREPO_HEARTBEAT    seconds until a process that died ends the others, 100 unless set

Without them there is one process, and nothing is started. With several processes on CPUs, gloo
prints lines on standard output: do not parse that output as JSON.

JAX is imported inside the functions, because `--help` must not need it.
"""

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from frepo_scale.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

COORDINATOR, PROCESSES, PROCESS = "FREPO_COORDINATOR", "FREPO_PROCESSES", "FREPO_PROCESS"
CLUSTER, HEARTBEAT = "FREPO_CLUSTER", "FREPO_HEARTBEAT"

_DEFAULT_HEARTBEAT, _LEAST_HEARTBEAT = 100, 5  # seconds
_MESSAGE = 64  # bytes
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Cluster:
    """The cluster as the environment describes it.

    Attributes:
      coordinator: host:port of process 0; None: JAX detects everything but the heartbeat.
      processes: number of processes; 0 if JAX detects it.
      process: index of this process.
      heartbeat: seconds until a dead process ends the others.
    """

    coordinator: str | None
    processes: int
    process: int
    heartbeat: int


def read_environment(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster of this process, or None for a single process.

    Raises:
      InputError: a variable is missing or wrong.
    """
    heartbeat = _DEFAULT_HEARTBEAT
    if HEARTBEAT in environment:
        heartbeat = _integer(environment, HEARTBEAT, _LEAST_HEARTBEAT, 86_400)
    three = (COORDINATOR, PROCESSES, PROCESS)
    given = [name for name in three if name in environment]
    if CLUSTER in environment:
        if environment[CLUSTER] != "auto":
            raise InputError(
                f"{CLUSTER}={environment[CLUSTER]}", "auto", "or unset it for a single process"
            )
        if given:
            raise InputError(f"{CLUSTER} with {given[0]}", "one or the other", f"unset {given[0]}")
        return Cluster(None, 0, 0, heartbeat)
    if not given:
        return None
    for name in three:
        if name not in given:
            raise InputError(
                f"{given[0]} without {name}",
                f"all of {', '.join(three)} or none of them",
                f"set {name} for each process",
            )
    address = environment[COORDINATOR]
    port = re.fullmatch(r"(?:\[[^\[\]\s]+\]|[^\[\]\s:/]+):(\d{1,5})", address)
    if port is None or not 0 < int(port[1]) < 65_536:
        raise InputError(
            f"{COORDINATOR}={address}", "host:port of process 0, the same for all processes"
        )
    processes = _integer(environment, PROCESSES, 1, 1_000_000)
    process = _integer(environment, PROCESS, 0, processes - 1)
    return Cluster(address, processes, process, heartbeat)


def _integer(environment: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = environment[name]
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise InputError(f"{name}={text}", f"a whole number of at least {low} and at most {high}")
    return int(text)


def initialize() -> None:
    """Connects to the other processes of the environment; call it before any use of devices.

    Waits up to five minutes for them. Then JAX aborts the process (exit code 134), and its launcher
    starts it again.

    Raises:
      InputError: the environment is wrong, or the coordinator's port is in use.
    """
    cluster = read_environment(os.environ)
    if cluster is None or cluster.processes == 1 or connected():
        return
    import jax

    _check_services()
    # A collective waits for a dead process forever: the heartbeat ends this process instead.
    heartbeat = cluster.heartbeat
    if cluster.coordinator is None:
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
        except ValueError as error:  # no launcher that JAX knows
            raise InputError(
                f"{CLUSTER}=auto, but JAX detects no cluster ({error})",
                "a TPU pod, Slurm or Kubernetes",
                f"unset {CLUSTER} for a single process, or set {COORDINATOR}, {PROCESSES} and"
                f" {PROCESS} for each process",
            ) from error
    else:
        if cluster.process == 0:
            _check_free(cluster.coordinator)
        print(
            f"frepo-scale: process {cluster.process} of {cluster.processes} connects to the"
            f" others at {cluster.coordinator}",
            file=sys.stderr,
            flush=True,
        )
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            heartbeat_timeout_seconds=heartbeat,
            # The service has no password: on one machine only that machine may connect to it.
            coordinator_bind_address=_bind_address(cluster.coordinator),
        )
    # The processes exchange their lists of devices when one of them first asks for a device. All
    # do so here, so that none waits later for a process that has died.
    jax.process_index()
    # Warnings of other packages go to standard error, with the number of the process.
    logging.captureWarnings(True)
    logging.basicConfig(format=f"frepo-scale: {label()}%(message)s")


def _bind_address(coordinator: str) -> str | None:
    """The address at which process 0 listens; None: JAX's default, all interfaces."""
    host = coordinator.rpartition(":")[0]
    return coordinator if host in ("localhost", "[::1]") or host.startswith("127.") else None


def _check_services() -> None:
    """Raises InputError for options of JAX with which several processes cannot stop together."""
    import jax

    for name, needed in (("preemption_service", True), ("recoverability", False)):
        option = f"jax_enable_{name}"
        if jax.config.values.get(option, needed) != needed:
            raise InputError(
                f"{option} = {not needed} with several processes",
                f"{needed}: otherwise they do not notice a stop, or that one of them has ended",
                f"unset {option.upper()}",
            )


def _check_free(address: str) -> None:
    """Raises InputError if the port is in use: JAX would crash without a message."""
    try:
        socket.create_server(("", int(address.rpartition(":")[2]))).close()
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on the port of {COORDINATOR}={address} ({error.strerror})",
            "a free port",
            "choose another for all processes",
        ) from error


def connected() -> bool:
    """Whether `jax.distributed` runs; never imports JAX or starts a backend."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def process_count() -> int:
    """Processes of this run; a single process starts no backend for this."""
    if not connected():
        return 1
    import jax

    return jax.process_count()


def label() -> str:
    """A prefix for messages that names the process; empty for a single process."""
    if process_count() == 1:
        return ""
    import jax

    return f"process {jax.process_index()}: "


def is_first() -> bool:
    """Whether this is process 0, which writes what is written once; like `process_count`."""
    if not connected():
        return True
    import jax

    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns once every process is in the barrier of this name.

    Raises:
      AssertionError: another process is in the barrier of another name.
    """
    if process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def agree(value: _Number) -> _Number:
    """Process 0's value on every process, exactly and of its type.

    It is collective: every process calls it, in the same order among other collectives. All
    collectives here need the same number of devices at every process.
    """
    if process_count() == 1:
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    shared: _Number = json.loads(
        np.asarray(multihost_utils.broadcast_one_to_all(_message(value))).astype(np.uint8).tobytes()
    )
    return shared


def exchange(value: _Number) -> list[_Number]:
    """The values of all processes, exactly and in their order; collective like `agree`."""
    if process_count() == 1:
        return [value]
    import numpy as np
    from jax.experimental import multihost_utils

    rows = np.asarray(multihost_utils.process_allgather(_message(value))).astype(np.uint8)
    return [json.loads(row.tobytes()) for row in rows]


def _message(value: int | float) -> "np.ndarray":
    """A number as text of a fixed length: JAX would make an int32 or a float32 of it."""
    import numpy as np

    text = json.dumps(value).encode()
    if len(text) > _MESSAGE:
        raise OverflowError(f"{value} has too many digits")
    return np.frombuffer(text.ljust(_MESSAGE), np.uint8)


def all_true(value: bool) -> bool:
    """Whether `value` is true on every process; collective like `agree`."""
    if process_count() == 1:
        return bool(value)
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(value, np.int32))))
