"""launch/tpu_pod.sh runs a program on the machines of a pod, with preemptions and failures.

The fake program can be replaced by the real one: make `bench.program` a wrapper that runs it, set
FAKE_COORDINATOR=127.0.0.1:<port>, by which the workers then find each other, and give a --workdir
that is a folder.
"""

import os
import signal
from pathlib import Path

import pytest
from launch.tpu_cloud import WORKDIR, quick


@pytest.mark.slow
def test_creates_runs_and_deletes(cloud, nasty):
    result = cloud.run(
        *quick("digits_ipc1", "--create", "--delete-when-done", "--data-dir", "gs://b/my data"),
        *("--", *nasty),
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
    process = cloud.start(*quick("digits_ipc1.gin", "--gin.HOLD=0:7,1:7"))
    helpers.wait_for(cloud.running)
    pids = cloud.bench.pids()
    # A maintenance event: SIGTERM to the program everywhere, the machines stay.
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    result = cloud.bench.end(process)
    assert result.code == 0, result
    assert "attempt 1: code 42, saved step" in result.err
    assert "attempt 2: code 0, saved step 20" in result.err
    assert len(cloud.program(0)) == len(cloud.program(1)) == 2
    assert len(cloud.calls("scp")) == 1  # the code is there already
    assert cloud.exists and "stays and costs money" in result.err


@pytest.mark.slow
def test_one_worker_killed_stops_and_restarts_all(cloud, helpers):
    cloud.make()
    result = cloud.run(
        *quick("--grace", "2", "digits_ipc1", "--gin.HOLD=0:10", "--gin.DIE=1:7:139")
    )
    assert result.code == 0 and "a worker ended: stopping the other" in result.err, result
    assert "attempt 1: code 42" in result.err and len(cloud.program(0)) == 2


@pytest.mark.slow
def test_a_preempted_pod_is_recreated_and_the_run_resumes(cloud, helpers):
    process = cloud.start(
        *quick("--recreate", "--delete-when-done", "digits_ipc1", "--gin.HOLD=0:7,1:7")
    )
    helpers.wait_for(cloud.running)
    cloud.preempt()
    saved = cloud.bench.steps(cloud.workdir)[-1]
    result = cloud.bench.end(process)
    assert result.code == 0, result
    assert "(now PREEMPTED)" in result.err
    assert f"attempt 1: code 143, saved step {saved}" in result.err
    assert "attempt 2: code 0, saved step 20" in result.err
    assert f"process 0 starts at {saved}" in result.out
    assert len(cloud.calls("queued-resources", "create")) == 2 and len(cloud.calls("scp")) == 2
    assert not cloud.exists


@pytest.mark.slow
def test_without_recreate_a_preempted_pod_ends_it_with_42(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=100000"))
    helpers.wait_for(cloud.running)
    cloud.preempt()
    result = cloud.bench.end(process)
    assert result.code == 42 and "--recreate" in result.err, result


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
                              "--gin.STEPS=5"), "--gin.SAVE_EVERY=100", "--gin.CUTS=1")  # fmt: skip
    assert result.code == 42 and "giving up: 3 " in result.err, result
    assert len(cloud.program(0)) == 4  # the first one was ended by a stranger
    assert "attempt 1: ended by another program " in result.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gs", "shared folder"])
def test_a_finished_net_of_the_final_evaluation_is_progress(cloud, kind):
    cloud.make(workers=1)
    workdir = WORKDIR if kind == "gs" else str(cloud.bench.top / kind)
    arguments = ["--workdir", workdir, "digits_ipc1", "--gin.STEPS=5", "--gin.NETS=4"]
    result = cloud.run(*quick("--poll", "0", *arguments))
    assert result.code == 0 and "attempt 5: code 0, saved step 5\n" in result.err, result


@pytest.mark.slow
def test_ctrl_c_leaves_the_program_and_stop_saves_it(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=100000"))
    helpers.wait_for(cloud.running)
    cloud.bench.interrupt(process)
    result = cloud.bench.end(process)
    assert result.code == 130 and "the program continues" in result.err, result
    assert "stays and costs money" in result.err
    assert all(map(helpers.alive, cloud.bench.pids()))

    status = cloud.run("status")
    assert status.code == 0, status
    assert "queued-resources my-tpu: ACTIVE\ntpu-vm my-tpu: READY\n" in status.out
    assert "worker 0: running\nworker 1: running\n" in status.out
    assert f"{WORKDIR}: saved step " in status.out

    busy = cloud.run(*quick("--delete-when-done", "digits_ipc1"))
    assert busy.code == 2 and "a run is in progress" in busy.err, busy
    assert all(map(helpers.alive, cloud.bench.pids())) and cloud.exists

    logs = cloud.start("logs", "--poll", "1", "--worker", "1")
    stopped = cloud.run("stop", "--grace", "20")
    assert stopped.code == 0 and "worker 0: 42" in stopped.err and "worker 1: 42" in stopped.err
    shown = cloud.bench.end(logs)
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
    cloud.bench.interrupt(process)
    result = cloud.bench.end(process)
    assert result.code == 130 and "worker 1: 42" in result.err, result
    assert not cloud.exists and not any(map(helpers.alive, cloud.bench.pids()))


@pytest.mark.slow
def test_a_closed_output_does_not_end_the_run(cloud, helpers):
    """As with `2>&1 | tee FILE` and Ctrl-C, which tee gets too."""
    process = cloud.start(
        *quick("--create", "--delete-when-done", "digits_ipc1", "--gin.STEPS=100000")
    )
    helpers.wait_for(cloud.running)
    process.stdout.close()
    process.stderr.close()
    cloud.bench.interrupt(process)
    assert process.returncode == 130
    assert not cloud.exists and not any(map(helpers.alive, cloud.bench.pids()))


@pytest.mark.slow
def test_max_hours_saves_stops_and_deletes(cloud, helpers):
    result = cloud.run(*quick("--create", "--delete-when-done", "--max-hours", "0.002",
                              "digits_ipc1", "--gin.STEPS=100000"))  # fmt: skip
    assert result.code == 42 and "--max-hours" in result.err, result
    assert not cloud.exists and not any(map(helpers.alive, cloud.bench.pids()))


@pytest.mark.slow
def test_a_worker_that_ignores_sigterm_is_killed(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=100000", "--gin.DEAF=1"))
    helpers.wait_for(cloud.running)
    process.send_signal(signal.SIGTERM)
    assert cloud.bench.end(process).code == 143
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
def test_a_recipe_outside_the_repository_is_copied(cloud):
    cloud.make(workers=1)
    (cloud.bench.cwd / "my $own recipe.gin").write_text("# mine\n")
    result = cloud.run(*quick("my $own recipe.gin"))
    assert result.code == 0, result
    [call] = cloud.program()
    shipped = Path(call["folder"]) / call["arguments"][1]
    assert shipped.name == "my $own recipe.gin" and shipped.read_text() == "# mine\n"


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
    # With --poll 1 it asks for half a minute.
    process = cloud.start(*quick("digits_ipc1", "--gin.HOLD=0:7,1:7", "--poll", "1"))
    helpers.wait_for(cloud.running)
    silent = cloud.top / "silent tpu-vm describe"
    silent.touch()
    for pid in cloud.bench.pids():
        os.kill(pid, signal.SIGTERM)
    line = "\n"
    while line and "gcloud does not answer" not in line:
        line = process.stderr.readline()
    silent.unlink()
    result = cloud.bench.end(process)
    assert line and result.code == 0, result
    assert "attempt 2: code 0, saved step 20" in result.err


@pytest.mark.slow
def test_machines_under_repair_are_waited_for(cloud):
    cloud.make("REPAIRING")
    result = cloud.run(*quick("digits_ipc1"))
    assert result.code == 0 and "my-tpu: REPAIRING" in result.err, result


@pytest.mark.slow
def test_a_pod_with_another_run_is_not_deleted_but_reported(cloud, helpers):
    cloud.make()
    process = cloud.start(*quick("digits_ipc1", "--gin.STEPS=100000"))
    helpers.wait_for(cloud.running)
    other = cloud.run(*quick("--delete-when-done", "digits_ipc1"))
    assert other.code == 2 and "stays and costs money" in other.err and cloud.exists, other
    process.send_signal(signal.SIGTERM)
    cloud.bench.end(process)


@pytest.mark.slow
def test_a_failed_deletion_fails_the_run(cloud):
    cloud.make(workers=1)
    result = cloud.run(
        *quick("--poll", "0", "--delete-when-done", "digits_ipc1"),
        FAKE_BROKEN="queued-resources delete",
    )
    assert "process 0 is done" in result.out
    assert result.code == 1 and "COULD NOT BE DELETED" in result.err, result
