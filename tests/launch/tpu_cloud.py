"""A cloud of one TPU pod: a fake gcloud whose workers are folders and local processes."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

SETTINGS = {"TPU_NAME": "my-tpu", "ZONE": "us-west4-a", "PROJECT": "my-project"}
WORKDIR = "gs://bucket/runs/a"


class Cloud:
    """The state of the fake gcloud, and events that change it."""

    def __init__(self, bench, here, helpers) -> None:
        self.bench, self.top, self.helpers = bench, bench.top / "cloud", helpers
        (self.top / "buckets").mkdir(parents=True)
        bench.fake(
            "gcloud", f'#!/bin/sh\nexec "{sys.executable}" -S "{here}/fake_gcloud.py" "$@"\n'
        )
        bench.fake(
            "curl",
            '#!/bin/sh\ncase "$*" in *metadata.google.internal*/agent-worker-number)'
            ' printf %s "$FAKE_WORKER" ;; *) exit 6 ;; esac\n',
        )
        self.workdir = self.top / "buckets" / WORKDIR.removeprefix("gs://")
        self.environment = SETTINGS | {
            "WORKDIR": WORKDIR,
            "FAKE_CLOUD": str(self.top),
            "FAKE_BUCKETS": str(self.top / "buckets"),
            "FAKE_REPO": str(bench.repo),
        }

    def start(self, *args, **environment):
        return self.bench.start("tpu_pod.sh", *args, **(self.environment | environment))

    def run(self, *args, **environment):
        return self.bench.end(self.start(*args, **environment))

    def make(self, state: str = "READY", workers: int = 2) -> None:
        """Creates the machines."""
        result = self.run("create", "--poll", "0", FAKE_WORKERS=str(workers))
        assert result.code == 0, result
        (self.pod / "state").write_text(state)

    @property
    def pod(self) -> Path:
        return self.top / "vms" / "my-tpu"

    @property
    def exists(self) -> bool:
        return self.pod.exists() or (self.top / "queued" / "my-tpu").exists()

    def calls(self, *words: str) -> list[list[str]]:
        log = self.top / "calls"
        calls = [json.loads(x) for x in log.read_text().splitlines()] if log.exists() else []
        return [call for call in calls if all(any(w in x for x in call) for w in words)]

    def program(self, process: int = 0) -> list[dict]:
        return self.bench.calls(process, self.workdir)

    def running(self, started: int = 1) -> bool:
        """Whether both workers have started the program this many times, and it has saved."""
        return (
            len(self.program(0)) >= started
            and len(self.program(1)) >= started
            and bool(self.bench.steps(self.workdir))
        )

    def preempt(self, saves: bool = True) -> None:
        """SIGTERM to the programs, which save, and SIGKILL to all; then the machines are gone.

        Meanwhile the workers' scripts are suspended: otherwise a quick launcher would see the exit
        codes and start again on machines that are not gone yet.
        """
        groups = [
            int(p.read_text().split()[0]) for p in self.pod.glob("*/frepo_scale/run/pid")
        ]  # fmt: skip
        for group in groups:
            os.kill(group, signal.SIGSTOP)
        pids = list(filter(self.helpers.alive, self.bench.pids()))
        if saves:
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
            self.helpers.wait_for(lambda: not any(map(self.helpers.alive, pids)))
        (self.pod / "state").write_text("PREEMPTED")
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        (self.top / "queued" / "my-tpu").write_text("SUSPENDED")


def quick(*args):
    """Arguments of `run` with short waits."""
    return ["run", "--poll", "0", "--grace", "20", *args]
