"""launch/tpu_pod.sh without a run: dry runs, wrong input, making and deleting machines, status."""

import signal
import subprocess

import pytest
from launch.tpu_cloud import WORKDIR, quick


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
        (["digits_ipc1"], {"TPU_NAME": ""}, "TPU_NAME is not set"),
        (["digits_ipc1"], {"ZONE": ""}, "ZONE is not set"),
        (["digits_ipc1"], {"PROJECT": ""}, "PROJECT is not set"),
        (["digits_ipc1"], {"WORKDIR": ""}, "WORKDIR is not set"),
        (["digits_ipc1"], {"WORKDIR": "runs/a"}, "WORKDIR is 'runs/a'"),
        (["digits_ipc1"], {"TPU_NAME": "--all; rm"}, "TPU_NAME is '--all; rm'"),
        (["digits_ipc1"], {"ACCELERATOR_TYPE": "V5 lite"}, "ACCELERATOR_TYPE is 'V5 lite'"),
        (["no_such"], {}, "recipe 'no_such'"),
        ([], {}, "no RECIPE"),
        (["--frobnicate", "1", "digits_ipc1"], {}, "option '--frobnicate'"),
        (["--zone"], {}, "'--zone'"),
        (["--max-hours", "soon", "digits_ipc1"], {}, "--max-hours 'soon'"),
        (["--poll", "x", "digits_ipc1"], {}, "--poll 'x'"),
        (["--provision", "flex-start", "digits_ipc1"], {}, "needs --max-hours"),
        (["--setup", "no_such.sh", "digits_ipc1"], {}, "--setup 'no_such.sh'"),
        (["--setup", ".", "digits_ipc1"], {}, "--setup '.'"),
        (["--env", "JAX CACHE=1", "digits_ipc1"], {}, "--env 'JAX CACHE=1'"),
        (["--env", "PATH", "digits_ipc1"], {}, "--env 'PATH'"),
        (["status", "--env", "A=1"], {}, "status does not take --setup or --env"),
        (["--provision", "free", "digits_ipc1"], {}, "--provision 'free'"),
        (["digits_ipc1", "--workdir", "x"], {}, "--workdir after RECIPE"),
        (["status", "digits_ipc1"], {}, "'digits_ipc1'"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_before_anything_is_asked(cloud, arguments, environment, words):
    result = cloud.run("--create", *arguments, **environment) if arguments[:1] != ["status"] \
        else cloud.run(*arguments, **environment)  # fmt: skip
    assert result.code == 2 and result.err.count("\n") == 1 and words in result.err, result
    assert not cloud.calls()


@pytest.mark.slow
def test_without_machines_it_says_how_to_get_some(cloud):
    result = cloud.run(*quick("digits_ipc1"))
    assert result.code == 1 and "--create" in result.err and not cloud.calls("create"), result


def test_a_request_that_fails_is_deleted_again(cloud):
    (cloud.top / "sold out").touch()
    result = cloud.run(*quick("--create", "--delete-when-done", "digits_ipc1"))
    assert result.code == 1 and "(now FAILED)" in result.err, result
    assert not cloud.exists and not cloud.calls("ssh")


def test_flex_start_has_the_clouds_own_limit(cloud):
    result = cloud.run("create", "--dry-run", "--provision", "flex-start", "--max-hours", "2")
    assert result.out.startswith("gcloud alpha compute tpus queued-resources create")
    assert "--provisioning-model=flex-start --max-run-duration=7200s" in result.out
    assert "--spot" not in result.out


def test_without_waiting_the_open_request_is_reported(cloud, helpers):
    process = cloud.start("create", "--poll", "60")
    helpers.wait_for(lambda: cloud.calls("queued-resources", "describe"))
    process.send_signal(signal.SIGINT)
    result = cloud.bench.end(process)
    assert result.code == 130 and "the request for my-tpu stays open" in result.err, result
    assert cloud.exists


def test_delete_removes_request_and_machines(cloud):
    cloud.make()
    result = cloud.run("delete", "--poll", "0")
    assert result.code == 0 and not cloud.exists, result
    assert cloud.run("delete", "--poll", "0").code == 0  # no machines, no cost


@pytest.mark.parametrize("broken", ["queued-resources describe", "tpu-vm describe"])
def test_a_pod_that_may_remain_is_reported(cloud, broken):
    cloud.make()
    result = cloud.run("delete", "--poll", "0", FAKE_BROKEN=broken)
    assert result.code == 1 and "COULD NOT BE DELETED and costs money" in result.err, result


def test_without_gcloud_it_says_so(cloud):
    tools = cloud.bench.top / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "tr", "cat", "env"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    result = cloud.run("status", PATH=str(tools))
    assert result.code == 2 and result.err.count("\n") == 1, result
    assert "gcloud is not installed" in result.err


def test_status_of_nothing(cloud):
    result = cloud.run("status")
    assert result.code == 0
    assert result.out == (
        f"queued-resources my-tpu: MISSING\ntpu-vm my-tpu: MISSING\n{WORKDIR}: nothing saved\n"
    )
