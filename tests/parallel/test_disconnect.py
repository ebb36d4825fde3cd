"""The end of a process that JAX's coordination service has given up."""

import threading

import pytest

from frepo_scale.parallel import disconnect

# As jaxlib 0.10.2 says it.
STRANGER = (
    "ABORTED: /job:jax_worker/replica:0/task:1 unexpectedly tried to connect with a different"
    " incarnation. It has likely restarted."
)
LOST = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats): task:1"


@pytest.fixture
def ended(monkeypatch):
    """The exit codes with which the process would have ended."""
    codes = []
    monkeypatch.setattr(disconnect.os, "_exit", codes.append)
    yield codes
    disconnect.record_with(None)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()


@pytest.mark.parametrize(("status", "recorded"), [(STRANGER, 1), (LOST, 0)])
def test_only_a_stranger_is_recorded_and_both_end_with_42(ended, capsys, status, recorded):
    reasons = []
    disconnect.record_with(reasons.append)
    disconnect._end(status)
    assert ended == [42] and len(reasons) == recorded
    assert all("process 1 " in reason for reason in reasons)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_record_that_fails_does_not_keep_the_process(ended):
    def fail(reason):
        raise OSError("the disk is full")

    disconnect.record_with(fail)
    disconnect._end(STRANGER)
    assert ended == [42]


def test_jax_takes_the_callback():
    from jax._src.lib import _jax

    made = _jax.get_distributed_runtime_client
    with disconnect.ends_in_one_line():
        assert _jax.get_distributed_runtime_client is not made
    assert _jax.get_distributed_runtime_client is made
