"""One of two processes that look at the flag in several loops; prints where it became true.

Arguments: "work" (looks as fast as they come) or "busy" (each look after 1.5 s without any).
"""

import itertools
import sys
import time

from frepo_scale.ops.preemption import Preempted, Preemption
from frepo_scale.parallel import ending, runtime

LOOKS = 7  # of each short loop between the long ones


def main():
    runtime.initialize()
    preemption = Preemption()
    preemption.install()
    runtime.barrier("ready")
    print("READY", flush=True)
    looks = 0
    for turn in itertools.count():
        assert turn < 10**7, "the signal was lost"
        for _ in range(LOOKS):  # an inner loop, like a probe's
            looks += 1
            try:
                preemption.check()
            except Preempted:
                assert preemption.requested
                late = Preemption()  # another one of the same process, as of a second command
                late.install()
                assert late.requested and late.exit_code == preemption.exit_code
                print("STOPPED", looks, flush=True)
                runtime.barrier("saved")
                return preemption.exit_code
        if sys.argv[1] == "busy":
            print("BUSY", flush=True)
            time.sleep(1.5)


ending.run_and_leave(main)
