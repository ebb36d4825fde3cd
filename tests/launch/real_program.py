"""Runs `frepo-scale`; a run that does not resume sleeps $FAKE_PACE seconds in every step.

So it can be disturbed between its start and its end. A run that resumes does not sleep. Each start
writes a file into the folder $FAKE_STARTS, named after its process number and process ID. Other
commands, and the check of a recipe for a pod, run as they are.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from frepo_scale.jobs import distill
from frepo_scale.main import entry

if sys.argv[1] != "distill" or "--dry-run" in sys.argv:
    entry()

names = ("FREPO_PROCESS", "SLURM_PROCID")
number = next(os.environ[name] for name in names if name in os.environ)
Path(os.environ["FAKE_STARTS"], f"{number}-{os.getpid()}").touch()

pace = float(os.environ.get("FAKE_PACE", "0"))
workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
if pace and not list(workdir.glob("checkpoints/*")):
    train = distill.train

    def slowly(state, step, batches, hooks, calls, **named):
        actions = (lambda _: time.sleep(pace), *hooks.after_step)
        return train(state, step, batches, replace(hooks, after_step=actions), calls, **named)

    distill.train = slowly

entry()
