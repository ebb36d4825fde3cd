"""Processes find each other, agree and end; a wrong environment is one clear line."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.errors import JaxRuntimeError
from processes import free_address, start

from frepo_scale.core.errors import InputError
from frepo_scale.parallel import ending, runtime
from frepo_scale.parallel.runtime import Cluster, read_environment

PROGRAM = Path(__file__).with_name("runtime_run.py")
WHOLE = {"FREPO_COORDINATOR": "node-0:1234", "FREPO_PROCESSES": "4", "FREPO_PROCESS": "3"}


def test_without_variables_there_is_one_process():
    assert read_environment({}) is None
    assert read_environment({"FREPO_HEARTBEAT": "30"}) is None


def test_the_environment_says_all():
    assert read_environment(WHOLE) == Cluster("node-0:1234", 4, 3, 100)
    auto = {"FREPO_CLUSTER": "auto", "FREPO_HEARTBEAT": "5"}
    assert read_environment(auto) == Cluster(None, 0, 0, 5)


@pytest.mark.parametrize("address", ["10.0.0.1:80", "[::1]:65535", "a.b-c.d:1"])
def test_addresses(address):
    found = read_environment(WHOLE | {"FREPO_COORDINATOR": address})
    assert found is not None and found.coordinator == address


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("FREPO_COORDINATOR", t) for t in ("", "node", "node:", ":1", "node:0", "node:65536")],
        *[("FREPO_COORDINATOR", t) for t in ("a b:1", "http://node:1", "::1:1", "node:1x")],
        *[("FREPO_PROCESSES", t) for t in ("", "0", "-1", "four", "4.0", "²", "1e3")],
        *[("FREPO_PROCESS", t) for t in ("", "4", "-1", "first")],
        *[("FREPO_HEARTBEAT", t) for t in ("", "4", "10s", "0.5")],
        ("FREPO_CLUSTER", ""),
        ("FREPO_CLUSTER", "slurm"),
        ("FREPO_CLUSTER", "auto"),  # beside the three
    ],
)
def test_a_wrong_variable_is_named(name, text):
    with pytest.raises(InputError) as caught:
        read_environment(WHOLE | {name: text})
    assert name in str(caught.value)


@given(st.sets(st.sampled_from(sorted(WHOLE)), min_size=1, max_size=2))
def test_a_missing_variable_is_named(there):
    with pytest.raises(InputError) as caught:
        read_environment({name: WHOLE[name] for name in there})
    missing = set(WHOLE) - there
    assert any(f"set {name} for each" in str(caught.value) for name in missing)


@given(st.integers(1, 10_000), st.data())
def test_every_process_of_a_cluster_is_accepted(processes, data):
    own = data.draw(st.integers(0, processes - 1))
    sizes = {"FREPO_PROCESSES": str(processes), "FREPO_PROCESS": str(own)}
    assert read_environment(WHOLE | sizes) == Cluster("node-0:1234", processes, own, 100)


def test_one_process_agrees_with_itself(monkeypatch):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    runtime.initialize()
    runtime.barrier("alone")
    assert runtime.process_count() == 1 and runtime.is_first()
    assert runtime.agree(2**70) == 2**70 and runtime.agree(0.1) == 0.1
    assert runtime.all_true(True) and not runtime.all_true(False)


def test_a_run_of_one_process_initializes(monkeypatch):
    for name, text in (WHOLE | {"FREPO_PROCESSES": "1", "FREPO_PROCESS": "0"}).items():
        monkeypatch.setenv(name, text)
    runtime.initialize()
    assert runtime.process_count() == 1


def test_a_port_in_use_is_refused(monkeypatch):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        for name, text in (WHOLE | {"FREPO_PROCESS": "0"}).items():
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("FREPO_COORDINATOR", f"localhost:{port}")
        with pytest.raises(InputError, match=f"cannot listen .*localhost:{port}"):
            runtime.initialize()


@pytest.mark.parametrize(
    ("option", "value"),
    [("jax_enable_preemption_service", False), ("jax_enable_recoverability", True)],
)
def test_several_processes_need_what_stops_them_together(option, value, monkeypatch):
    for name, text in (WHOLE | {"FREPO_PROCESS": "1"}).items():
        monkeypatch.setenv(name, text)
    before = jax.config.values[option]
    jax.config.update(option, value)
    try:
        with pytest.raises(InputError) as refused:
            runtime.initialize()
        monkeypatch.setenv("FREPO_PROCESSES", "1")
        monkeypatch.setenv("FREPO_PROCESS", "0")
        runtime.initialize()  # one process needs neither
    finally:
        jax.config.update(option, before)
    assert option in refused.value.what
    assert refused.value.fix == f"unset {option.upper()}"


def test_a_cluster_that_jax_does_not_detect(monkeypatch):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FREPO_CLUSTER", "auto")
    program = (
        "from frepo_scale.core.errors import InputError\n"
        "from frepo_scale.parallel.runtime import initialize\n"
        "try:\n    initialize()\n"
        "except InputError as error:\n    print(error.what, '|', error.fix)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    what, _, fix = done.stdout.partition("|")
    assert "FREPO_CLUSTER=auto" in what and "unset FREPO_CLUSTER" in fix, done.stderr


@pytest.mark.parametrize("code", [0, 2])
def test_alone_the_exit_code_is_what_main_returns(code, monkeypatch):
    limited = []  # the real one would end this process with the code
    monkeypatch.setattr(ending, "_end_in_time", limited.append)
    monkeypatch.setattr(ending, "_alone", False)
    with pytest.raises(SystemExit) as caught:
        ending.run_and_leave(lambda: code)
    assert caught.value.code == code and limited == [code] * bool(code)


@pytest.mark.parametrize(("main", "code"), [("2", 2), ("1 / 0", 1), ("42", 42), ("130", 130)])
def test_a_failure_or_stop_of_one_process_does_not_wait_for_threads_forever(main, code):
    program = (
        "import threading\nfrom frepo_scale.parallel import ending\n"
        "ending._LONGEST_END = 0.5\nprint('stopped')\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        f"ending.run_and_leave(lambda: {main})"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert done.returncode == code and done.stdout == b"stopped\n"
    assert (b"Traceback" in done.stderr) == (code == 1)


def test_jax_is_not_imported_before_it_is_needed():
    program = (
        "import sys\nfrom frepo_scale.parallel import ending, runtime\n"
        "runtime.initialize()\nassert runtime.is_first() and runtime.process_count() == 1\n"
        "ending.run_and_leave(lambda: 'jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("Connection closed by peer"), 1),
        (ValueError("UNKNOWN: Gloo AllGather failed: [x.cc:5] Connection closed by peer"), 42),
        (JaxRuntimeError("UNKNOWN: Gloo context initialization failed: timed out"), 42),
        (JaxRuntimeError("INTERNAL: NCCL failed:\nremote process exited or network error"), 42),
        (JaxRuntimeError("UNAVAILABLE: socket closed"), 42),
        (JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out. Id: x::0."), 42),
        (JaxRuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out with key: a"), 42),
        (JaxRuntimeError("ABORTED: 1 unexpectedly tried to connect with a different incar..."), 42),
        (JaxRuntimeError("FAILED_PRECONDITION: Coordination service agent is in ERROR"), 42),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), 1),
        (KeyboardInterrupt(), 130),
        (SystemExit(3), 3),
        (SystemExit(), 0),
        (SystemExit("words"), 1),
    ],
)
def test_what_an_exception_means_to_several_processes(error, code, monkeypatch):
    monkeypatch.setattr(ending, "connected", lambda: True)
    assert ending.exit_code(error) == code


def test_a_lost_peer_is_found_as_the_cause_of_an_error(monkeypatch):
    error = RuntimeError("could not save")
    error.__cause__ = ValueError("INTERNAL: Barrier failed because: task is set to ERROR")
    assert not ending.lost_peer(error)  # alone there is none
    monkeypatch.setattr(ending, "connected", lambda: True)
    assert ending.lost_peer(error)
    assert not ending.lost_peer(RuntimeError("could not save"))


@pytest.fixture
def pair(monkeypatch):
    """Starts both processes of the program; they are gone when the test is."""
    started = []

    def begin(how):
        monkeypatch.setenv("FREPO_COORDINATOR", free_address())
        monkeypatch.setenv("FREPO_PROCESSES", "2")
        monkeypatch.setenv("FREPO_HEARTBEAT", "10")
        for own in "01":
            monkeypatch.setenv("FREPO_PROCESS", own)
            started.append(start(PROGRAM, how, devices=1 + (how == "well")))
        return started

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_processes_agree_and_end_in_order(pair):
    for process in pair("well"):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 42, err[-3000:]
        assert "MET" in out and "connects to the others" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code"), [("raises", 1), ("refuses", 2), ("killed", -9), ("left", -9)]
)
def test_a_failure_keeps_its_code_and_ends_the_other(pair, how, code):
    first, second = pair(how)
    for process in (first, second):
        for line in process.stdout:
            if line == "MET\n":
                break
    met = time.monotonic()
    _, err = second.communicate(timeout=20)
    assert second.returncode == code and time.monotonic() - met < 10
    assert ("the bug of process 1" in err) == (how == "raises")
    first.communicate(timeout=40)
    # JAX aborts it, or its collective fails; both mean "start me again".
    assert first.returncode < 0 or first.returncode == 42
    assert time.monotonic() - met < 30


@pytest.mark.slow
def test_an_error_of_all_processes_keeps_its_exit_code_in_all(pair):
    """The end of process 0 would abort the other, which says the same a little later."""
    for process in pair("follows"):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2, err[-3000:]
