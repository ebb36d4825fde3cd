"""Runs `frepo-scale` as it is, but a run that starts from nothing takes its time for each step.

So there is a middle in which it can be disturbed; $FAKE_PACE says how many seconds. A run that
resumes goes at its own pace. $FAKE_STARTS is a folder: each start leaves a file there, named after
its process number and pid.
"""

import os
import sys
import time
from pathlib import Path

from frepo_scale.jobs.distillation import Distillation
from frepo_scale.main import entry

names = ("FREPO_PROCESS", "SLURM_PROCID")
number = next(os.environ[name] for name in names if name in os.environ)
Path(os.environ["FAKE_STARTS"], f"{number}-{os.getpid()}").touch()

pace = float(os.environ.get("FAKE_PACE", "0"))
workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
if pace and not list(workdir.glob("checkpoints/*")):
    after_step = Distillation.after_step

    def slowly(self: Distillation, step: int) -> None:
        time.sleep(pace)
        after_step(self, step)

    Distillation.after_step = slowly

entry()
