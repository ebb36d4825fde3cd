"""launch/tpu_pod.sh against a fake gcloud whose workers are folders and local processes.

The fake program can be replaced by the real one: make `bench.program` a wrapper that runs it, set
FAKE_COORDINATOR=127.0.0.1:<port>, by which the workers then find each other, and give a --workdir
that is a folder.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETTINGS = {"TPU_NAME": "my-tpu", "ZONE": "us-west4-a", "PROJECT": "my-project"}
WORKDIR = "gs://bucket/runs/a"


class Cloud:
    """What the fake gcloud keeps, and what can happen to it."""

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
        """Machines that are there already."""
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
        """Whether the program runs on both workers, for so many times now, and has saved."""
        return (
            len(self.program(0)) >= started
            and len(self.program(1)) >= started
            and bool(self.bench.steps(self.workdir))
        )

    def preempt(self, grace: float = 5) -> None:
        """SIGTERM to all, SIGKILL after a while, no machines any more."""
        groups = [
            int(p.read_text().split()[0]) for p in self.pod.glob("*/frepo_scale/run/pid")
        ]  # fmt: skip
        for group in groups:
            os.killpg(group, signal.SIGTERM)
        end = time.monotonic() + grace
        while time.monotonic() < end and any(map(self.helpers.alive, self.bench.pids())):
            time.sleep(0.05)
        (self.pod / "state").write_text("PREEMPTED")
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        (self.top / "queued" / "my-tpu").write_text("SUSPENDED")


@pytest.fixture
def cloud(bench, helpers):
    made = Cloud(bench, helpers.here, helpers)
    yield made
    for file in made.top.glob("vms/*/*/frepo_scale/run/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)


def quick(*args):
    """Arguments of `run` with short waits."""
    return ["run", "--poll", "1", "--grace", "20", *args]


@pytest.mark.slow
def test_creates_runs_and_deletes(cloud, nasty):
    result = cloud.run(
        *quick("--create", "--delete-when-done", "--data-dir", "gs://b/my data", "digits_ipc1"),
        *nasty,
    )
    assert result.code == 0, result
    assert "process 0 starts at 0" in result.out and "process 0 is done" in result.out
    assert "process 1" not in result.out
    for process in (0, 1):
        [call] = cloud.program(process)
        assert call["arguments"] == [
            "distill", "digits_ipc1.gin", "--workdir", WORKDIR, "--gin.DATA_DIR=gs://b/my data",
            *nasty,
        ]  # fmt: skip
        assert call["environment"]["FREPO_CLUSTER"] == "auto"
        assert call["folder"] == str(cloud.pod / str(process) / "frepo_scale" / "code")
    [create] = cloud.calls("queued-resources", "create")
    for flag in ("--node-id=my-tpu", "--accelerator-type=v5litepod-16", "--spot",
                 "--runtime-version=v2-alpha-tpuv5-lite", "--zone=us-west4-a",
                 "--project=my-project", "--valid-until-duration=6h"):  # fmt: skip
        assert flag in create
    assert not cloud.exists and "my-tpu is deleted" in result.err
    logs = sorted(p.relative_to(cloud.workdir / "logs") for p in cloud.workdir.glob("logs/*/*"))
    assert [p.name for p in logs] == ["worker-0.exit", "worker-0.log", "worker-1.exit",
                                      "worker-1.log"]  # fmt: skip
    assert not (Path("/tmp") / "should-not-be-there").exists()


@pytest.mark.slow
def test_preempted_once_then_all_start_again_and_finish(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1.gin", "--gin.STEPS=200"))
    helpers.wait_for(cloud.running)
    pids = cloud.bench.pids()
    # A maintenance event: SIGTERM to the program everywhere, the machines stay.
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    result = cloud.bench.end(process)
    assert result.code == 0, result
    assert "attempt 1: code 42, saved step" in result.err
    assert "attempt 2: code 0, saved step 200" in result.err
    assert len(cloud.program(0)) == len(cloud.program(1)) == 2
    assert len(cloud.calls("scp")) == 1  # the code is there already
    assert cloud.exists and "stays and costs money" in result.err


@pytest.mark.slow
def test_one_worker_killed_stops_and_restarts_all(cloud, helpers):
    cloud.make()
    result = cloud.run(
        *quick("--grace", "2", "digits_ipc1", "--gin.STEPS=600", "--gin.DIE=1:30:139")
    )
    assert result.code == 0 and "a worker ended: stopping the others" in result.err, result
    assert "attempt 1: code 42" in result.err and len(cloud.program(0)) == 2


@pytest.mark.slow
def test_a_preempted_pod_is_made_again_and_goes_on(cloud, helpers):
    process = cloud.start(
        *quick("--recreate", "--delete-when-done", "digits_ipc1", "--gin.STEPS=250")
    )
    helpers.wait_for(cloud.running)
    cloud.preempt()
    saved = cloud.bench.steps(cloud.workdir)[-1]
    result = cloud.bench.end(process)
    assert result.code == 0, result
    assert "my-tpu was taken away (now PREEMPTED)" in result.err
    assert f"attempt 1: code 143, saved step {saved}" in result.err
    assert "attempt 2: code 0, saved step 250" in result.err
    assert f"process 0 starts at {saved}" in result.out
    assert len(cloud.calls("queued-resources", "create")) == 2 and len(cloud.calls("scp")) == 2
    assert not cloud.exists


@pytest.mark.slow
def test_without_recreate_a_preempted_pod_ends_it_with_42(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=5000"))
    helpers.wait_for(cloud.running)
    cloud.preempt()
    result = cloud.bench.end(process)
    assert result.code == 42 and "--recreate asks for new machines" in result.err, result


@pytest.mark.slow
@pytest.mark.parametrize("code", [1, 2])
def test_a_failure_on_one_worker_stops_all_at_once(cloud, code, helpers):
    result = cloud.run(
        *quick("--create", "--grace", "600", "--delete-when-done"),
        *("digits_ipc1", "--gin.STEPS=5000", f"--gin.DIE=1:20:{code}"),
    )
    assert result.code == code, result
    assert f"worker 1 ended with {code}; the end of its log:" in result.err
    assert f"process 1 dies with {code} at 20" in result.err
    assert len(cloud.program(0)) == 1 and not cloud.exists
    assert not any(map(helpers.alive, cloud.bench.pids()))


@pytest.mark.slow
def test_gives_up_after_three_attempts_without_progress(cloud):
    cloud.make()
    result = cloud.run(*quick("digits_ipc1", "--gin.DIE=0:1:42,0:2:42,0:3:42,0:4:42",
                              "--gin.STEPS=5"), "--gin.SAVE_EVERY=100")  # fmt: skip
    assert result.code == 42 and "giving up: 3 ends in a row" in result.err, result
    assert len(cloud.program(0)) == 3


@pytest.mark.slow
def test_ctrl_c_leaves_the_program_and_stop_saves_it(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=100000"))
    helpers.wait_for(cloud.running)
    process.send_signal(signal.SIGINT)
    result = cloud.bench.end(process, 15)
    assert result.code == 130 and "the program goes on" in result.err, result
    assert "stays and costs money" in result.err
    assert all(map(helpers.alive, cloud.bench.pids()))

    status = cloud.run("status")
    assert status.code == 0, status
    assert "queued-resources my-tpu: ACTIVE\ntpu-vm my-tpu: READY\n" in status.out
    assert "worker 0: running\nworker 1: running\n" in status.out
    assert f"{WORKDIR}: saved step " in status.out

    busy = cloud.run(*quick("--delete-when-done", "digits_ipc1"))
    assert busy.code == 2 and "a run is under way" in busy.err, busy
    assert all(map(helpers.alive, cloud.bench.pids())) and cloud.exists

    logs = cloud.start("logs", "--poll", "1", "--worker", "1")
    stopped = cloud.run("stop", "--grace", "20")
    assert stopped.code == 0 and "worker 0: 42" in stopped.err and "worker 1: 42" in stopped.err
    shown = cloud.bench.end(logs, 20)
    assert shown.code == 0 and "process 1 saved" in shown.out and "worker 1: 42" in shown.err
    assert not any(map(helpers.alive, cloud.bench.pids()))
    assert "worker 0: 42\nworker 1: 42\n" in cloud.run("status").out
    # stop of what has ended changes nothing
    assert "worker 0: 42" in cloud.run("stop", "--grace", "5").err


@pytest.mark.slow
def test_ctrl_c_with_delete_when_done_saves_and_deletes(cloud, helpers):
    process = cloud.start(
        *quick("--create", "--delete-when-done", "digits_ipc1", "--gin.STEPS=100000")
    )
    helpers.wait_for(cloud.running)
    process.send_signal(signal.SIGINT)
    result = cloud.bench.end(process, 60)
    assert result.code == 130 and "worker 1: 42" in result.err, result
    assert not cloud.exists and not any(map(helpers.alive, cloud.bench.pids()))


@pytest.mark.slow
def test_max_hours_saves_stops_and_deletes(cloud, helpers):
    result = cloud.run(*quick("--create", "--delete-when-done", "--max-hours", "0.002",
                              "digits_ipc1", "--gin.STEPS=100000"))  # fmt: skip
    assert result.code == 42 and "--max-hours are over" in result.err, result
    assert not cloud.exists and not any(map(helpers.alive, cloud.bench.pids()))


@pytest.mark.slow
def test_a_worker_deaf_to_sigterm_is_killed_in_the_end(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=100000", "--gin.DEAF=1"))
    helpers.wait_for(cloud.running)
    process.send_signal(signal.SIGTERM)
    assert cloud.bench.end(process, 15).code == 143
    result = cloud.run("stop", "--grace", "1")
    assert "worker 0: 137" in result.err and "worker 1: 137" in result.err, result
    assert not any(map(helpers.alive, cloud.bench.pids()))


@pytest.mark.slow
def test_a_shared_folder_is_a_workdir_too(cloud):
    cloud.make()
    shared = cloud.bench.top / "shared by all"
    result = cloud.run(*quick("--workdir", str(shared), "digits_ipc1", "--gin.DIE=0:7:42"))
    assert result.code == 0, result
    assert "attempt 1: code 42, saved step 5" in result.err
    assert (shared / "DONE").exists() and list(shared.glob("logs/*/worker-1.log"))
    again = cloud.run(*quick("--workdir", str(shared), "digits_ipc1"))
    assert again.code == 0 and again.out == "already done\n", again


@pytest.mark.slow
def test_a_recipe_of_ones_own_is_shipped(cloud):
    cloud.make(workers=1)
    (cloud.bench.cwd / "my $own recipe.gin").write_text("# mine\n")
    result = cloud.run(*quick("my $own recipe.gin"))
    assert result.code == 0, result
    [call] = cloud.program()
    shipped = Path(call["folder"]) / call["arguments"][1]
    assert shipped.name == "my $own recipe.gin" and shipped.read_text() == "# mine\n"


def test_dry_run_prints_commands_that_can_be_pasted_and_calls_nothing(cloud, nasty):
    result = cloud.run(
        *quick("--dry-run", "--recreate", "--delete-when-done", "digits_ipc1"), *nasty
    )
    assert result.code == 0 and not cloud.calls(), result
    pasted = cloud.bench.top / "pasted"
    cloud.bench.fake(
        "gcloud", f'#!/bin/sh\nprintf "%s\\0" "$@" >>{pasted}; printf "\\n\\0" >>{pasted}\n'
    )
    cloud.bench.fake("tar", "#!/bin/sh\nexit 0\n")
    subprocess.run(["bash", "-c", result.out], env=cloud.bench.environment, check=True)
    calls = [c.strip("\0").split("\0") for c in pasted.read_text().split("\0\n\0") if c]
    verbs = [" ".join(c[2:4]) if c[0] == "compute" else c[0] for c in calls]
    assert verbs[0] == "tpu-vm describe" and "queued-resources create" in verbs
    assert verbs.index("tpu-vm scp") < len(verbs) - 1 - verbs[::-1].index("tpu-vm ssh")
    assert "queued-resources delete" in verbs
    [start] = [c for c in calls if any("tpu_worker.sh start" in word for word in c)]
    [command] = [word for word in start if word.startswith("--command=")]
    sent = subprocess.run(
        ["bash", "-c", "bash() { printf '%s\\0' \"$@\"; }\n" + command.removeprefix("--command=")],
        capture_output=True, check=True,
    ).stdout.decode().split("\0")[:-1]  # fmt: skip
    assert sent[-len(nasty) :] == nasty


@pytest.mark.parametrize("verb", ["create", "status", "logs", "stop", "delete"])
def test_dry_run_of_the_other_commands(cloud, verb):
    result = cloud.run(verb, "--dry-run")
    assert result.code == 0 and result.out.startswith("gcloud compute tpus "), result
    assert not cloud.calls()


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["digits_ipc1"], {"TPU_NAME": ""}, "TPU_NAME is not set: name it in the environment, or"),
        (["digits_ipc1"], {"ZONE": ""}, "ZONE is not set"),
        (["digits_ipc1"], {"PROJECT": ""}, "PROJECT is not set"),
        (["digits_ipc1"], {"WORKDIR": ""}, "WORKDIR is not set"),
        (["digits_ipc1"], {"WORKDIR": "runs/a"}, "WORKDIR is 'runs/a'"),
        (["digits_ipc1"], {"TPU_NAME": "--all; rm"}, "TPU_NAME is '--all; rm'"),
        (["digits_ipc1"], {"ACCELERATOR_TYPE": "V5 lite"}, "ACCELERATOR_TYPE is 'V5 lite'"),
        (["no_such"], {}, "recipe 'no_such' is not there: expected a .gin file"),
        ([], {}, "no RECIPE"),
        (["--frobnicate", "1", "digits_ipc1"], {}, "option '--frobnicate' is unknown"),
        (["--zone"], {}, "--zone is unknown or has no value"),
        (["--max-hours", "soon", "digits_ipc1"], {}, "--max-hours 'soon'"),
        (["--poll", "x", "digits_ipc1"], {}, "--poll 'x'"),
        (["--provision", "flex-start", "digits_ipc1"], {}, "needs --max-hours"),
        (["--provision", "free", "digits_ipc1"], {}, "--provision 'free'"),
        (["digits_ipc1", "--workdir", "x"], {}, "--workdir after RECIPE"),
        (["status", "digits_ipc1"], {}, "'digits_ipc1' is too much"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_before_anything_is_asked(cloud, arguments, environment, words):
    result = cloud.run("--create", *arguments, **environment) if arguments[:1] != ["status"] \
        else cloud.run(*arguments, **environment)  # fmt: skip
    assert result.code == 2 and result.err.count("\n") == 1 and words in result.err, result
    assert not cloud.calls()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "failures"), [("tpu-vm describe", 3), ("tpu-vm scp", 1), ("tpu-vm ssh", 4)]
)
def test_a_service_that_fails_for_a_while_ends_no_run(cloud, verb, failures):
    cloud.make()
    (cloud.top / f"flaky {verb}").write_text(str(failures))
    result = cloud.run(*quick("--poll", "0", "digits_ipc1"))
    assert result.code == 0 and "attempt 1: code 0" in result.err, result
    assert (cloud.top / f"flaky {verb}").read_text() == "0"


@pytest.mark.slow
def test_a_restart_waits_for_a_service_that_does_not_answer(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=250"))
    helpers.wait_for(cloud.running)
    (cloud.top / "flaky tpu-vm describe").write_text("3")
    for pid in cloud.bench.pids():
        os.kill(pid, signal.SIGTERM)
    result = cloud.bench.end(process)
    assert result.code == 0 and "gcloud does not answer: asking again" in result.err, result
    assert "attempt 2: code 0, saved step 250" in result.err


@pytest.mark.slow
def test_machines_under_repair_are_waited_for(cloud):
    cloud.make("REPAIRING")
    result = cloud.run(*quick("digits_ipc1"))
    assert result.code == 0 and "my-tpu: REPAIRING" in result.err, result


@pytest.mark.slow
def test_a_pod_with_anothers_run_is_not_deleted_and_that_is_said(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=100000"))
    helpers.wait_for(cloud.running)
    other = cloud.run(*quick("--delete-when-done", "digits_ipc1"))
    assert other.code == 2 and "stays and costs money" in other.err and cloud.exists, other
    process.send_signal(signal.SIGTERM)
    cloud.bench.end(process)


def test_without_machines_it_says_how_to_get_some(cloud):
    result = cloud.run(*quick("digits_ipc1"))
    assert result.code == 1 and "--create" in result.err and not cloud.calls("create"), result


def test_a_request_that_fails_is_deleted_again(cloud):
    (cloud.top / "sold out").touch()
    result = cloud.run(*quick("--create", "--delete-when-done", "digits_ipc1"))
    assert result.code == 1 and "was not given (now FAILED)" in result.err, result
    assert not cloud.exists and not cloud.calls("ssh")


def test_flex_start_has_the_clouds_own_limit(cloud):
    result = cloud.run("create", "--dry-run", "--provision", "flex-start", "--max-hours", "2")
    assert result.out.startswith("gcloud alpha compute tpus queued-resources create")
    assert "--provisioning-model=flex-start --max-run-duration=7200s" in result.out
    assert "--spot" not in result.out


def test_who_does_not_wait_for_machines_is_told_of_the_request(cloud, helpers):
    process = cloud.start("create", "--poll", "60")
    helpers.wait_for(lambda: cloud.calls("queued-resources", "describe"))
    process.send_signal(signal.SIGINT)
    result = cloud.bench.end(process, 15)
    assert result.code == 130 and "the request for my-tpu stays open" in result.err, result
    assert cloud.exists


def test_delete_takes_request_and_machines(cloud):
    cloud.make()
    result = cloud.run("delete", "--poll", "0")
    assert result.code == 0 and not cloud.exists, result
    assert cloud.run("delete", "--poll", "0").code == 0  # nothing there: nothing to pay for


@pytest.mark.parametrize("broken", ["queued-resources describe", "tpu-vm describe"])
def test_a_pod_that_may_be_left_is_said_loudly(cloud, broken):
    cloud.make()
    result = cloud.run("delete", "--poll", "0", FAKE_BROKEN=broken)
    assert result.code == 1 and "COULD NOT BE DELETED and costs money" in result.err, result


@pytest.mark.slow
def test_a_failed_deletion_fails_the_run(cloud):
    cloud.make(workers=1)
    result = cloud.run(
        *quick("--poll", "0", "--delete-when-done", "digits_ipc1"),
        FAKE_BROKEN="queued-resources describe",
    )
    assert "process 0 is done" in result.out
    assert result.code == 1 and "COULD NOT BE DELETED" in result.err, result


def test_without_gcloud_it_says_so(cloud):
    tools = cloud.bench.top / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "tr", "cat", "env"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    result = cloud.run("status", PATH=str(tools))
    assert result.code == 2 and result.err.count("\n") == 1, result
    assert "gcloud is not there: install" in result.err


def test_status_of_nothing(cloud):
    result = cloud.run("status")
    assert result.code == 0
    assert result.out == (
        f"queued-resources my-tpu: MISSING\ntpu-vm my-tpu: MISSING\n{WORKDIR}: nothing saved\n"
    )


@pytest.mark.parametrize("held", [True, False])
def test_a_lock_goes_only_where_no_process_holds_the_tpu(bench, held):
    lock, device = bench.top / "libtpu_lockfile", bench.top / "accel0"
    lock.touch()
    device.touch()
    bench.fake("sudo", "#!/bin/sh\nexit 1\n")
    bench.fake("fuser", f"#!/bin/sh\n[ {int(held)} = 1 ] && echo ' 123m'\nexit 0\n")
    result = bench.run("tpu_worker.sh", "unlock", str(lock), str(device))
    assert result.code == 0 and lock.exists() == held, result
    assert ("in use by process" if held else "removed the stale") in result.err


def test_a_lock_stays_where_nobody_can_tell(bench):
    lock, device = bench.top / "libtpu_lockfile", bench.top / "accel0"
    lock.touch()
    result = bench.run("tpu_worker.sh", "unlock", str(lock), str(device))
    assert lock.exists() and "no TPU device" in result.err, result
    device.touch()
    for tool in ("bash", "dirname", "sed", "rm", "cat"):
        (bench.bin / tool).symlink_to(f"/usr/bin/{tool}")
    result = bench.run("tpu_worker.sh", "unlock", str(lock), str(device), PATH=str(bench.bin))
    assert lock.exists() and "neither fuser nor lsof" in result.err, result


FAKE_312 = r"""#!/bin/sh
case "$*" in
  *version_info*) echo 3.12 ;;
  *ensurepip*) echo "$0" ;;
  "-I -c import pip") ;;
  "-I -m venv "*) mkdir -p "$4/bin" && cat "$0" >"$4/bin/python" && chmod +x "$4/bin/python" ;;
  "-I -m pip install "*)
    echo "$*" >>"$LOG"
    echo >"${0%/*}/frepo-scale"
    chmod +x "${0%/*}/frepo-scale" ;;
  *) exec "$REAL" "$@" ;;
esac
"""


def test_prepare_fetches_a_python_where_there_is_none_and_installs_for_tpus(bench, helpers):
    """TPU VMs come with Python 3.10."""
    tools, log, python = bench.top / "tools", bench.top / "log", bench.top / "uv" / "python3.12"
    tools.mkdir()
    for tool in ("bash", "dirname", "cat", "env", "mkdir", "rm", "find", "chmod", "flock", "sh"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    helpers.write_program(python, FAKE_312)
    helpers.write_program(
        tools / "python3",
        '#!/bin/sh\ncase "$*" in *version_info*) echo 3.10 ;;\n'
        f'"-m uv python find 3.12") echo {python} ;; *) echo "$*" >>"$LOG" ;; esac\n',
    )
    helpers.write_program(tools / "curl", "#!/bin/sh\nexit 6\n")
    helpers.write_program(tools / "uname", "#!/bin/sh\necho t1v-n-0a1b-w-3.c.internal\n")
    (tools / "sed").symlink_to("/usr/bin/sed")
    subprocess.run(["rm", "-rf", str(bench.repo / ".venv")], check=True)
    environment = {"PATH": str(tools), "LOG": str(log), "REAL": sys.executable}
    result = bench.run("tpu_worker.sh", "prepare", **environment)
    assert result.code == 0 and result.out == "frepo-worker 3 ready\n", result
    assert log.read_text().splitlines() == [
        "-m pip install --quiet --user uv",
        "-m uv python install --quiet 3.12",
        "-I -m pip install --quiet --disable-pip-version-check -e .[tpu]",
    ]
    again = bench.run("tpu_worker.sh", "prepare", **environment)
    assert again.code == 0 and len(log.read_text().splitlines()) == 3, again
