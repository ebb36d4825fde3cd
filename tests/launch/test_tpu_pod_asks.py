"""launch/tpu_pod.sh before and around a run: dry runs, wrong input, checks, machines, status."""

import subprocess

import pytest
from launch.tpu_cloud import WORKDIR, quick


def test_dry_run_prints_commands_that_can_be_pasted_and_calls_nothing(cloud, nasty):
    result = cloud.run(
        *quick("digits_ipc1", "--dry-run", "--recreate", "--delete-when-done"), "--", *nasty
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
        (["digits_ipc1"], {"TPU_NAME": ""}, "not set: TPU_NAME;"),
        ([], dict.fromkeys(["TPU_NAME", "ZONE", "PROJECT", "WORKDIR"], ""),
         "RECIPE (a .gin file, or the name of one in gin/), TPU_NAME, ZONE, PROJECT, WORKDIR ("),
        (["digits_ipc1"], {"WORKDIR": "runs/a"}, "WORKDIR is 'runs/a'"),
        (["digits_ipc1"], {"TPU_NAME": "--all; rm"}, "TPU_NAME is '--all; rm'"),
        (["digits_ipc1"], {"ACCELERATOR_TYPE": "V5 lite"}, "ACCELERATOR_TYPE is 'V5 lite'"),
        (["no_such"], {}, "recipe 'no_such'"),
        (["v5e", "--accelerator-type", "v5e-16"], {}, "v5litepod-16"),
        (["digits_ipc1", "--accelerator-type", "v9-16"], {}, "RUNTIME_VERSION, too"),
        (["digits_ipc1", "--accelerator-type=v4-32"], {"RUNTIME_VERSION": "v2-alpha-tpuv5"},
         "expected tpu-ubuntu2204-base"),
        (["digits_ipc1", "--gin.WRONG=1"], {}, "--gin.WRONG=1 with --devices=v5litepod-16"),
        (["digits_ipc1", "--recreat"], {}, "did you mean --create or --recreate?"),
        (["--frobnicate", "1", "digits_ipc1"], {}, "option '--frobnicate'"),
        (["digits_ipc1", "--zone"], {}, "--zone has no value"),
        (["--zone", "--dry-run", "digits_ipc1"], {}, "--zone has no value"),
        (["--max-hours", "soon", "digits_ipc1"], {}, "--max-hours 'soon'"),
        (["--max-hours", "0.0", "digits_ipc1"], {}, "--max-hours '0.0'"),
        (["digits_ipc1"], {"FREPO_CALL_SECONDS": "5m"}, "FREPO_CALL_SECONDS '5m'"),
        (["--dry-run", "status"], {"WORKDIR": ""}, "launch/tpu_pod.sh status [options]"),
        (["--poll", "x", "digits_ipc1"], {}, "--poll 'x'"),
        (["--provision", "flex-start", "digits_ipc1"], {}, "needs --max-hours"),
        (["--setup", "no_such.sh", "digits_ipc1"], {}, "--setup 'no_such.sh'"),
        (["--setup", ".", "digits_ipc1"], {}, "--setup '.'"),
        (["--setup", __file__, "digits_ipc1"], {}, "is not a bash script: "),
        (["--env", "JAX CACHE=1", "digits_ipc1"], {}, "--env 'JAX CACHE=1'"),
        (["--env", "PATH", "digits_ipc1"], {}, "--env 'PATH'"),
        (["status", "--env", "A=1"], {}, "status does not take --env"),
        (["status", "--delete-when-done"], {}, "status does not take --delete-when-done"),
        (["digits_ipc1", "--worker", "1"], {}, "run does not take --worker"),
        (["staus"], {}, "did you mean status?"),
        (["digits_ipc1", "--accelerator-type", "v5p-1"], {}, "for example v5p-8"),
        (["--provision", "free", "digits_ipc1"], {}, "--provision 'free'"),
        (["status", "digits_ipc1"], {}, "'digits_ipc1'"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_before_anything_is_asked(cloud, arguments, environment, words):
    result = cloud.run("--create", *arguments, **environment) if arguments[:1] != ["status"] \
        else cloud.run(*arguments, **environment)  # fmt: skip
    assert result.code == 2 and result.err.count("\n") == 1 and words in result.err, result
    assert not cloud.calls("compute")


@pytest.mark.parametrize(
    ("type_", "runtime"),
    [("v2-8", "tpu-ubuntu2204-base"), ("v4-32", "tpu-ubuntu2204-base"), ("v5p-8", "v2-alpha-tpuv5"),
     ("v6e-16", "v2-alpha-tpuv6e")],
)  # fmt: skip
def test_the_runtime_version_is_that_of_the_type(cloud, type_, runtime):
    result = cloud.run("create", "--dry-run", "--accelerator-type", type_)
    assert result.code == 0 and f"--runtime-version={runtime} " in result.out, result


def test_network_and_service_account_are_passed_on(cloud):
    options = ["--network", "n", "--subnetwork=s", "--service-account", "a@b", "--internal-ips"]
    result = cloud.run("create", *options, "--dry-run")
    assert "--network=n --subnetwork=s --service-account=a@b --internal-ips --async" in result.out
    result = cloud.run("stop", "--dry-run", "--internal-ips")
    assert " tpu-vm ssh my-tpu " in result.out and result.out.endswith(" --internal-ip\n"), result
    result = cloud.run("stop", "--dry-run", "--internal-ips", "--iap")
    assert result.out.startswith("gcloud alpha compute tpus tpu-vm ssh"), result
    assert "--ssh-flag=-oServerAliveInterval=15" in result.out
    assert result.out.endswith(" --tunnel-through-iap\n")


KEYGEN = '#!/bin/sh\ncase "$*" in -l*) echo "2048 SHA256:mine me (RSA)" ;; *) exit 1 ;; esac\n'


@pytest.mark.parametrize(
    ("key", "held", "words"),
    [
        (True, "2048 SHA256:other", "ssh-add "),
        (False, "2048 SHA256:other", "ssh-keygen -t rsa"),
        (True, None, "has a passphrase"),
        (True, "2048 SHA256:mine", None),
        (False, None, None),
    ],
)
def test_an_ssh_key_that_will_not_work_is_found_before_the_queue(cloud, key, held, words):
    home = cloud.bench.top / "home"
    (home / ".ssh").mkdir(parents=True)
    if key:
        (home / ".ssh" / "google_compute_engine").touch()
    cloud.bench.fake("ssh-keygen", KEYGEN)
    cloud.bench.fake("ssh-add", f"#!/bin/sh\necho '{held}'\n" if held else "#!/bin/sh\nexit 2\n")
    (cloud.top / "sold out").touch()
    result = cloud.run(*quick("digits_ipc1", "--create", "--poll", "0"), HOME=str(home))
    if words is None:
        assert result.code == 1 and cloud.calls("create"), result
    else:
        assert result.code == 2 and words in result.err and not cloud.calls("compute"), result
        assert result.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["status"], ["digits_ipc1", "--create"]])
def test_without_a_login_it_says_so_at_once(cloud, arguments):
    (cloud.top / "logged out").touch()
    (cloud.bench.repo / ".venv" / "installed-base").write_text(
        "old\n"
    )  # nothing is installed first
    (cloud.bench.repo / ".venv" / "installed-dev").unlink()
    (cloud.bench.repo / ".venv" / "installed-tpu").unlink()
    result = cloud.run(*arguments)
    assert result.code == 2 and "gcloud auth login" in result.err, result
    assert result.err.count("\n") == 1 and not cloud.calls("tpu-vm")


def test_a_missing_permission_is_not_waited_for(cloud):
    result = cloud.run("digits_ipc1", "--create", "--poll", "600", FAKE_BROKEN="tpu-vm describe")
    assert result.code == 1 and "PERMISSION_DENIED" in result.err, result


def test_a_dry_run_checks_the_recipe_and_its_output_is_only_commands(cloud):
    result = cloud.run("digits_ipc1", "--dry-run", "--gin.WRONG=1")
    assert result.code == 2 and result.out == "", result
    result = cloud.run("digits_ipc1", "--dry-run")
    assert result.code == 0 and "must not contain" not in result.out, result
    assert "NOT CHECKED" not in result.err


@pytest.mark.parametrize("workdir", [WORKDIR, "shared"])
def test_a_workdir_of_another_run_is_found_before_the_queue(cloud, workdir):
    folder = cloud.workdir if workdir == WORKDIR else cloud.bench.top / workdir
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text("another run")
    workdir = WORKDIR if workdir == WORKDIR else str(folder)
    result = cloud.run("digits_ipc1", "--create", "--poll", "0", WORKDIR=workdir)
    assert result.code == 2 and not cloud.calls("compute"), result
    assert result.err == f"frepo-scale: workdir {workdir} belongs to another run\n"


def test_what_does_not_fit_is_refused_unless_it_is_not_planned(cloud):
    """Only of the accelerator type the program knows the memory."""
    recipe = ["digits_ipc1", "--dry-run", "--accelerator-type=v4-32"]
    assert "--devices=v4-32" in cloud.run(*recipe, "--gin.WRONG=1").err
    assert "--devices=16" in cloud.run(*recipe, "--gin.WRONG=1", "--no-plan").err


@pytest.mark.parametrize("there", [True, False])
def test_a_dry_run_without_an_installation_says_what_it_could_not_check(cloud, there):
    """The program of an older installation still checks the recipe."""
    for kind in ("base", "dev", "tpu"):
        (cloud.bench.repo / ".venv" / f"installed-{kind}").unlink()
    if not there:
        cloud.bench.program.unlink()
    result = cloud.run("digits_ipc1", "--dry-run", "--gin.WRONG=1")
    assert not cloud.calls() and " -m pip install " in result.out, result
    if there:
        assert result.code == 2 and "--gin.WRONG=1" in result.err
    else:
        line = result.err.splitlines()[0]
        assert result.code == 0 and "THE RECIPE WAS NOT CHECKED" in line
        assert line.endswith("--dry-run --devices=v5litepod-16 --gin.WRONG=1")


@pytest.mark.parametrize("lack", ["read-only", "no description"])
def test_machines_that_cannot_use_the_bucket_are_found_before_the_installation(cloud, lack):
    cloud.make(workers=1)
    (cloud.top / lack).touch()
    result = cloud.run(*quick("digits_ipc1", "--poll", "0"))
    assert result.code == 2 and "roles/storage" in result.err and "403" in result.err, result
    assert not cloud.calls("tpu_worker.sh prepare")


def test_a_preemption_during_the_installation_is_noticed(cloud, helpers):
    slow = cloud.top / "slow installation"
    slow.touch()
    process = cloud.start(
        *quick("digits_ipc1", "--recreate", "--delete-when-done", "--poll", "1", "--gin.STEPS=3")
    )
    helpers.wait_for(lambda: cloud.calls("tpu_worker.sh prepare"))
    slow.unlink()
    (cloud.pod / "state").write_text("PREEMPTED")
    (cloud.top / "queued" / "my-tpu").write_text("SUSPENDED")
    result = cloud.bench.end(process)  # long before the installation's end
    assert result.code == 0 and "(now PREEMPTED)" in result.err, result
    assert "attempt 2: code 0" in result.err


def test_given_up_after_preemptions_it_can_be_started_again(cloud, helpers):
    process = cloud.start(
        *quick("digits_ipc1", "--recreate", "--attempts", "1", "--gin.DEAF=1", "--poll", "1"),
        *("--gin.STEPS=100000", "--gin.SAVE_EVERY=100000"),
    )
    helpers.wait_for(lambda: cloud.program(0) and cloud.program(1))
    cloud.preempt(saves=False)
    result = cloud.bench.end(process)
    assert result.code == 42 and "giving up: 1 " in result.err, result


def test_a_call_without_an_answer_is_ended(cloud):
    cloud.bench.fake("gcloud", '#!/bin/sh\nsleep 500 &\necho $! >>"$FAKE_CLOUD/children"; wait\n')
    result = cloud.run("status", FREPO_CALL_SECONDS="2")
    assert result.out.startswith("queued-resources my-tpu: UNKNOWN\ntpu-vm my-tpu: UNKNOWN\n")
    children = [int(x) for x in (cloud.top / "children").read_text().split()]
    assert children and not any(map(cloud.helpers.alive, children))


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
    cloud.bench.interrupt(process)
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
    for arguments in (["status"], ["digits_ipc1", "--create"]):
        result = cloud.run(*arguments, PATH=str(tools))
        assert result.code == 2 and result.err.count("\n") == 1, result
        assert "gcloud is not installed" in result.err


def test_status_of_nothing(cloud):
    result = cloud.run("status")
    assert result.code == 0
    assert result.out == (
        f"queued-resources my-tpu: MISSING\ntpu-vm my-tpu: MISSING\n{WORKDIR}: nothing saved\n"
    )
