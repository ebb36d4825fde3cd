"""One of two processes that poll the flag in several loops; prints the poll at which it is true.

Argument: "work" (polls without pauses), "busy" (pauses of 1.5 s between loops of polls) or
"compiling" (one long call, in which there is nothing to save).
"""

import hashlib
import itertools
import sys
import time

from frepo_scale.jobs.surroundings import leaving_at_once
from frepo_scale.ops.preemption import Preempted, Preemption
from frepo_scale.parallel import ending, runtime

POLLS = 7  # of each inner loop


def main():
    runtime.initialize()
    preemption = Preemption()
    preemption.install()
    runtime.barrier("ready")
    if sys.argv[1] == "compiling":
        with leaving_at_once(preemption, lambda: print("LEFT", flush=True)):
            print("READY", flush=True)
            # A call that no signal interrupts and that lets other threads run, for many minutes.
            hashlib.pbkdf2_hmac("sha256", b"a password", b"salt", 10**9)
    print("READY", flush=True)
    polls = 0
    for turn in itertools.count():
        assert turn < 10**7, "the signal was lost"
        for _ in range(POLLS):  # an inner loop, like a probe's
            polls += 1
            try:
                preemption.check()
            except Preempted:
                assert preemption.requested
                late = Preemption()  # another flag of the same process, as for a second command
                late.install()
                assert late.requested and late.exit_code == preemption.exit_code
                print("STOPPED", polls, flush=True)
                runtime.barrier("saved")
                return preemption.exit_code
        if sys.argv[1] == "busy":
            print("BUSY", flush=True)
            time.sleep(1.5)


ending.run_and_leave(main)
