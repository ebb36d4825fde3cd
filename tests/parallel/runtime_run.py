"""One of several processes that agree, meet and end in some way; the environment says which.

Argument: how process 1 ends: "well", "raises", "refuses", "killed", "left"
(killed while process 0 is in a collective) or "follows" (refuses a second after process 0 did).
"""

import os
import signal
import sys
import time

import jax

from frepo_scale.parallel import ending, runtime


def agreements():
    """Checks every collective call; values differ by process."""
    own = jax.process_index()
    assert runtime.process_count() == 2 and runtime.is_first() == (own == 0)
    for value in (7, -(2**62), 1.7e9 + 1e-6, 0.1, float("inf"), True):
        shared = runtime.agree(value if own == 0 else type(value)(1))
        assert shared == value and type(shared) is type(value), (shared, value)
    assert runtime.exchange(own + 0.1) == [0.1, 1.1]
    assert runtime.all_true(True) is True
    for liar in (0, 1):
        assert runtime.all_true(own != liar) is False
    assert runtime.all_true(False) is False
    before = time.monotonic()
    if own == 1:
        time.sleep(1.0)
    runtime.barrier("slow")
    if own == 0:
        assert time.monotonic() - before > 0.8


def main():
    how = sys.argv[1]
    runtime.initialize()
    agreements()
    print("MET", flush=True)
    if how != "well" and not runtime.is_first():
        if how == "raises":
            raise ValueError("the bug of process 1")
        if how == "left":
            time.sleep(2.0)
        if how == "follows":
            time.sleep(1.0)
        if how in ("killed", "left"):
            os.kill(os.getpid(), signal.SIGKILL)
        return 2
    if how == "follows":
        return 2
    if how == "left":
        runtime.barrier("never met")
    if how != "well":
        time.sleep(120)  # ended by the heartbeat, not by a collective
    if runtime.is_first():
        time.sleep(1.0)  # the other one waits
    return 42


ending.run_and_leave(main)
