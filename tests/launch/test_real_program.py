"""The launchers run the real program: two JAX processes on this machine, disturbed once.

Each run resumes and must give the same bits as an undisturbed run. The package is imported as the
launchers find or copy it, from the copied repository.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from processes import free_address

from frepo_scale.main import main

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]
STEPS, SAVE_EVERY = 12, 3
SETTINGS = {
    "RESOLUTION": 8,
    "DEPTH": 1,
    "WIDTH": 4,
    "POOL_SIZE": 1,
    "BATCH": 16,
    "STEPS": STEPS,
    "SAVE_EVERY": SAVE_EVERY,
    "PROBE_EVERY": STEPS,
    "PROFILE_AT": 0,
}
PACE = 0.7  # seconds a step takes until the run is disturbed


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a prepared set of 1000 classes at 8 px."""
    top = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    np.savez(
        top / "made.npz",
        x_train=rng.integers(0, 256, (2000, 8, 8, 3)).astype(np.uint8),
        y_train=np.arange(2000) % 1000,
        x_test=rng.integers(0, 256, (50, 8, 8, 3)).astype(np.uint8),
        y_test=np.arange(50),
    )
    given = ["--source", str(top / "made.npz"), "--out", str(top / "set"), "--resolution", "8"]
    assert main(["prepare", *given]) == 0
    return top


def put_real_program(bench):
    """The repository's copy holds the whole package, and its .venv runs it."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("frepo_scale", "gin"):
        shutil.copytree(REPO / name, bench.repo / name, dirs_exist_ok=True, ignore=ignored)
    starts = bench.top / "starts"
    starts.mkdir()
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "XLA_FLAGS": "",  # compiled as for users, not as in the tests
        "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "FREPO_HEARTBEAT": "10",
        "FAKE_STARTS": str(starts),
    }
    exports = "".join(f"export {name}='{value}'\n" for name, value in settings.items())
    # The code is that around whichever .venv it is: each worker of a pod has its own.
    bench.program.write_text(
        f'#!/bin/sh\n{exports}code=$(cd "$(dirname "$0")/../.." && pwd)\n'
        f'PYTHONPATH=$code exec "{sys.executable}" "{REPO}/tests/launch/real_program.py" "$@"\n'
    )

    def pids(process=None):
        """Process IDs of all started programs, or of those with this process number."""
        found = [path.name.split("-") for path in starts.iterdir()]
        return [int(pid) for number, pid in found if process in (None, int(number))]

    bench.pids = pids  # the end of the test ends those that are left
    return bench


@pytest.fixture
def real(bench):
    return put_real_program(bench)


def settings(shared, **changes):
    settings = SETTINGS | {"DATA_DIR": shared / "set"} | changes
    return [f"--gin.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def undisturbed(shared, make_bench):
    """The workdir of an undisturbed run of two processes."""
    bench = put_real_program(make_bench("undisturbed"))
    result = bench.run(
        "processes.sh", "2", "--", str(bench.program), "distill", "imagenet1k_smoke.gin",
        "--workdir", str(bench.workdir), *settings(shared), seconds=300,
    )  # fmt: skip
    assert result.code == 0, result
    return bench.workdir


def rows(workdir):
    """Of the training: what does not depend on how fast it was."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["target_accuracy"]) for row in lines if "loss" in row]


def attempts(workdir):
    found = [json.loads(p.read_text()) for p in sorted((workdir / "attempts").iterdir())]
    return [(a["process_count"], a["first_step"], a["reason"]) for a in found]


def check_the_same(workdir, undisturbed, resumed_at):
    assert 0 < resumed_at < STEPS
    assert (workdir / "DONE").exists()
    assert [row[0] for row in rows(workdir)] == list(range(1, STEPS + 1))
    assert rows(workdir) == rows(undisturbed)
    assert (workdir / "distilled.npz").read_bytes() == (undisturbed / "distilled.npz").read_bytes()
    first, last = attempts(workdir)
    assert first[:2] == (2, 0) and last == (2, resumed_at, "finished")
    assert not (workdir / "lock.json").exists()


def started(bench):
    """How often each of the two processes was started."""
    return [len(bench.pids(process)) for process in (0, 1)]


@pytest.fixture
def pod(real, helpers):
    """A fake cloud whose workers find each other here."""
    top = real.top / "cloud"
    (top / "buckets").mkdir(parents=True)
    gcloud = f'exec "{sys.executable}" -S "{helpers.here}/fake_gcloud.py" "$@"'
    real.fake("gcloud", f"#!/bin/sh\n{gcloud}\n")
    real.fake("curl", '#!/bin/sh\nprintf %s "$FAKE_WORKER"\n')
    environment = {
        "TPU_NAME": "my-tpu",
        "ZONE": "us-west4-a",
        "PROJECT": "my-project",
        "WORKDIR": str(real.workdir),
        "FAKE_CLOUD": str(top),
        "FAKE_REPO": str(real.repo),
        "FAKE_COORDINATOR": free_address(),
        "FAKE_PACE": str(PACE),
    }
    machines = top / "vms" / "my-tpu"

    def groups():
        files = machines.glob("*/frepo_scale/run/pid")
        return [int(file.read_text().split()[0]) for file in files]

    yield SimpleNamespace(top=top, machines=machines, environment=environment, groups=groups)
    for group in groups():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def test_a_preempted_tpu_pod_is_made_again_and_ends_with_the_same_bits(
    real, pod, shared, undisturbed, helpers
):
    process = real.start(
        "tpu_pod.sh", "run", "--poll", "1", "--grace", "40", "--recreate", "--delete-when-done",
        "imagenet1k_smoke", *settings(shared), **pod.environment,
    )  # fmt: skip
    helpers.wait_for(lambda: real.steps() or process.poll() is not None, 180)
    assert process.poll() is None, real.end(process)
    # As the cloud does it: SIGTERM, half a minute, then the machines are gone, the disks too.
    process.send_signal(signal.SIGSTOP)  # or it may start them again in between
    for group in pod.groups():
        os.killpg(group, signal.SIGTERM)
    helpers.wait_for(lambda: len([*pod.machines.glob("*/frepo_scale/run/*.exit")]) == 2)
    assert not any(map(helpers.alive, real.pids()))
    saved = real.steps()[-1]
    (pod.machines / "state").write_text("PREEMPTED")
    (pod.top / "queued" / "my-tpu").write_text("SUSPENDED")
    process.send_signal(signal.SIGCONT)
    result = real.end(process, 300)
    assert result.code == 0, result
    # The folder is asked through the machines.
    assert "attempt 1: code 143, nothing saved before; now unknown\n" in result.err
    assert f"attempt 2: code 0, saved step {STEPS}\n" in result.err
    assert f"resuming {real.workdir} at step {saved}" in result.out
    assert started(real) == [2, 2] and not pod.machines.exists()
    check_the_same(real.workdir, undisturbed, saved)
    codes = [path.read_text().strip() for path in sorted(real.workdir.glob("logs/*/worker-*.exit"))]
    assert codes == ["42", "42", "0", "0"]
    assert attempts(real.workdir)[0][2] == "preempted"


def test_a_slurm_job_out_of_time_is_requeued_and_ends_with_the_same_bits(
    real, shared, undisturbed, helpers
):
    """JAX itself finds the processes in Slurm's variables."""
    state, script = real.top / "slurm", real.top / "spool" / "slurm_script"
    state.mkdir()
    script.parent.mkdir()
    script.write_bytes((real.repo / "launch" / "slurm.sbatch").read_bytes())
    for name in ("srun", "scontrol"):
        fake = f'exec "{sys.executable}" -S "{helpers.here}/fake_slurm.py" {name} "$@"'
        real.fake(name, f"#!/bin/sh\n{fake}\n")
    environment = {
        "FAKE_SLURM": str(state),
        "FAKE_NODELIST": "localhost",
        "FAKE_PACE": str(PACE),
        "SLURM_JOB_ID": str(10_000 + os.getpid()),  # of which JAX makes the port
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_SUBMIT_DIR": str(real.repo),
    }
    path = os.path.relpath(script, real.repo / "launch")
    given = [path, "imagenet1k_smoke.gin", "--workdir", str(real.workdir), *settings(shared)]
    process = real.start(*given, **environment)
    helpers.wait_for(lambda: real.steps() or process.poll() is not None, 180)
    assert process.poll() is None, real.end(process)
    for task in (state / "tasks").read_text().split():
        os.killpg(int(task), signal.SIGTERM)  # every process of every task
    result = real.end(process)
    saved = real.steps()[-1]
    assert result.code == 0 and "requeued" in result.err, result
    assert f"attempt 1: code 42, saved step {saved}\n" in result.err
    assert (state / "requeued").exists() and not any(map(helpers.alive, real.pids()))
    result = real.end(real.start(*given, SLURM_RESTART_COUNT="1", **environment), 300)
    assert result.code == 0 and f"attempt 2: code 0, saved step {STEPS}" in result.err, result
    assert started(real) == [2, 2]
    check_the_same(real.workdir, undisturbed, saved)
    assert attempts(real.workdir)[0][2] == "preempted"


def test_one_of_two_gpu_processes_killed_restarts_both_and_ends_with_the_same_bits(
    real, shared, undisturbed, helpers
):
    gpus = "".join(f"echo 'GPU {n}: a GPU (UUID: GPU-{n})'\n" for n in range(2))
    real.fake("nvidia-smi", f"#!/bin/sh\n{gpus}")
    process = real.start(
        "gpu_node.sh", "--per-gpu", "--pause", "0", "--grace", "40", "imagenet1k_smoke.gin",
        "--workdir", str(real.workdir), *settings(shared),
        JAX_PLATFORMS="cpu", FAKE_PACE=str(PACE),
    )  # fmt: skip
    helpers.wait_for(lambda: real.steps() or process.poll() is not None, 180)
    assert process.poll() is None, real.end(process)
    [victim] = real.pids(1)
    os.kill(victim, signal.SIGKILL)
    result = real.end(process, 300)
    assert result.code == 0, result
    assert "process 1 ended with 137" in result.err and "attempt 1: code 42" in result.err
    assert f"attempt 2: code 0, saved step {STEPS}" in result.err
    assert started(real) == [2, 2] and not any(map(helpers.alive, real.pids()))
    check_the_same(real.workdir, undisturbed, attempts(real.workdir)[1][1])
