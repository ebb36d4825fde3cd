"""How the processes of one run find each other, agree, and end.

A launcher says in the environment of each process which one it is:

  FREPO_COORDINATOR  host:port of process 0, the same for all
  FREPO_PROCESSES    how many there are
  FREPO_PROCESS      which one this is, from 0
  FREPO_CLUSTER      "auto" instead of the three: JAX finds out (TPU pods, Slurm, Kubernetes)
  FREPO_HEARTBEAT    seconds until a process that died ends the others, 100 unless set

Without them there is one process and nothing is started. On CPUs JAX's gloo prints lines of its own
on standard output: what several processes print there is never JSON alone.

JAX is imported late: the command line answers --help without it.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from frepo_scale.core.errors import InputError

COORDINATOR, PROCESSES, PROCESS = "FREPO_COORDINATOR", "FREPO_PROCESSES", "FREPO_PROCESS"
CLUSTER, HEARTBEAT = "FREPO_CLUSTER", "FREPO_HEARTBEAT"

PREEMPTED_EXIT = 42  # started again, the run goes on
_DEFAULT_HEARTBEAT, _LEAST_HEARTBEAT = 100, 5  # seconds
_GRACE = 3.0  # seconds
_LONGEST_END = 10.0  # seconds
_MESSAGE = 64  # bytes
# How transports say that another process is gone: gloo (CPU), NCCL (GPU), gRPC. A status word comes
# first; JAX raises some of these as ValueError.
_LOST_PEER = re.compile(
    r"[A-Z_]{5,}: .*(Gloo [\w ]+ failed|(closed|reset) by peer|remote process exited)"
    r"|(UNAVAILABLE|DEADLINE_EXCEEDED): "
    r"|.*(Barrier (failed because|timed out)|heartbeat timeout|[Cc]oordination service agent)",
    re.DOTALL,
)

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Cluster:
    """What the environment says.

    Attributes:
      coordinator: host:port of process 0; None leaves everything but the heartbeat to JAX.
      processes: how many there are; 0 with JAX in charge.
      process: which one this is.
      heartbeat: seconds until a dead process ends the others.
    """

    coordinator: str | None
    processes: int
    process: int
    heartbeat: int


def read_environment(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster this process belongs to, or None where it is alone.

    Raises:
      InputError: a variable is missing or wrong.
    """
    heartbeat = _DEFAULT_HEARTBEAT
    if HEARTBEAT in environment:
        heartbeat = _integer(environment, HEARTBEAT, _LEAST_HEARTBEAT, 86_400)
    three = (COORDINATOR, PROCESSES, PROCESS)
    there = [name for name in three if name in environment]
    if CLUSTER in environment:
        if environment[CLUSTER] != "auto":
            raise InputError(
                f"{CLUSTER}={environment[CLUSTER]}", "auto", "or unset it for a single process"
            )
        if there:
            raise InputError(f"{CLUSTER} with {there[0]}", "one or the other", f"unset {there[0]}")
        return Cluster(None, 0, 0, heartbeat)
    if not there:
        return None
    for name in three:
        if name not in there:
            raise InputError(
                f"{there[0]} without {name}",
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
    """Finds the other processes the environment speaks of, and all devices; before any use of them.

    Waits up to five minutes for them. JAX then aborts the process (exit code 134): whoever
    supervises it starts it again.

    Raises:
      InputError: the environment is wrong, or the coordinator's port is in use.
    """
    cluster = read_environment(os.environ)
    if cluster is None or cluster.processes == 1:
        return
    import jax

    # A dead peer must end the others within this time: a collective waits for it without end.
    heartbeat = cluster.heartbeat
    if cluster.coordinator is None:
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
    else:
        if cluster.process == 0:
            _check_free(cluster.coordinator)
        print(
            f"frepo-scale: process {cluster.process} of {cluster.processes} looks for the others"
            f" at {cluster.coordinator}",
            file=sys.stderr,
            flush=True,
        )
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            heartbeat_timeout_seconds=heartbeat,
        )
    # The processes tell each other of their devices at the first question about any. Asked here,
    # where all of them are, no later one waits for a process that is gone.
    jax.process_index()
    # What other packages warn of goes to standard error as well, with whose it is.
    logging.captureWarnings(True)
    logging.basicConfig(format=f"frepo-scale: {label()}%(message)s")


def _check_free(address: str) -> None:
    """JAX crashes without a word where the port is taken."""
    try:
        socket.create_server(("", int(address.rpartition(":")[2]))).close()
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on the port of {COORDINATOR}={address} ({error.strerror})",
            "a free port",
            "choose another for all processes",
        ) from error


def _connected() -> bool:
    """Whether `jax.distributed` runs; never imports JAX or starts a backend."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def process_count() -> int:
    """Processes of this run; asks for no devices where it is alone."""
    if not _connected():
        return 1
    import jax

    return jax.process_count()


def label() -> str:
    """Which of several processes this is, before what it says; alone, nothing."""
    if process_count() == 1:
        return ""
    import jax

    return f"process {jax.process_index()}: "


def is_first() -> bool:
    """Whether this is process 0, which writes what is written once; like `process_count`."""
    if not _connected():
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

    # As text: JAX would make an int32 or a float32 of the number.
    text = json.dumps(value).encode()
    if len(text) > _MESSAGE:
        raise OverflowError(f"{value} has too many digits")
    own = np.frombuffer(text.ljust(_MESSAGE), np.uint8)
    shared: _Number = json.loads(
        np.asarray(multihost_utils.broadcast_one_to_all(own)).astype(np.uint8).tobytes()
    )
    return shared


def all_true(value: bool) -> bool:
    """Whether `value` is true on every process; collective like `agree`."""
    if process_count() == 1:
        return bool(value)
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(value, np.int32))))


def run_and_leave(main: Callable[[], int]) -> NoReturn:
    """Runs `main` and ends the process with the exit code it returns.

    Alone that is all, and exceptions go their usual way; but the end of a failure, either kind,
    takes ten seconds at most, whatever threads of others still wait for. Of several processes:

    Codes 0 and 42 are ends all of them come to. They wait for each other, five minutes at most: the
    end of process 0 aborts the others.

    Any other code, or an exception, is a failure of perhaps this process alone. Python's usual exit
    would wait for the others all the same and then lose the code; this one ends, and the others
    within the heartbeat. An exception is printed and means 1; 130 if it is a Ctrl-C; 42 if it says
    that another process is gone, which is no fault of this one: started again, all go on.
    """
    try:
        code = main()
    except BaseException as error:
        if not _connected():
            _end_in_time(_code_of(error))
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        _end_now(_code_of(error))
    if not _connected():
        if code not in (0, PREEMPTED_EXIT):
            _end_in_time(code)
        sys.exit(code)
    if code not in (0, PREEMPTED_EXIT):
        _end_now(code)
    import jax

    try:
        jax.distributed.shutdown()
    except Exception:  # whatever became of the others, this one is done
        traceback.print_exc()
        _end_now(code)
    sys.exit(code)


def _code_of(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return PREEMPTED_EXIT if lost_peer(error) else 1


def lost_peer(error: BaseException) -> bool:
    """Whether an error of one of several processes, or what caused it, is that another is gone."""
    found: BaseException | None = error
    while found is not None and _connected():
        if _LOST_PEER.match(str(found)):
            return True
        found = found.__cause__ or found.__context__
    return False


def _end_in_time(code: int) -> None:
    """Lets Python's usual exit take its time, but not for long.

    It joins all threads. One of Orbax's waits ten minutes for a folder that another failed to make.
    """

    def end() -> None:
        threading.main_thread().join()  # that exit has begun
        time.sleep(_LONGEST_END)
        for child in multiprocessing.active_children():
            child.terminate()
        os._exit(code)

    threading.Thread(target=end, name="end", daemon=True).start()


def _end_now(code: int) -> NoReturn:
    """Ends this process without waiting for the others."""
    try:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
                stream.flush()
        # What failed here often fails elsewhere a moment later, and the end of process 0 aborts
        # the others: they get the time to say so and to end with their own code.
        if is_first():
            time.sleep(_GRACE)
    finally:
        os._exit(code)
