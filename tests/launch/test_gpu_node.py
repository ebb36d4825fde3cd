"""launch/processes.sh and gpu_node.sh: a group of processes that starts and ends as one."""

import os
import shutil
import signal
import subprocess

import pytest


def group(bench, count, *settings, options=(), **environment):
    return bench.start(
        "processes.sh", *options, str(count), "--", str(bench.program), "distill", "r",
        "--workdir", str(bench.workdir), *settings, **environment,
    )  # fmt: skip


def node(bench, *arguments, **environment):
    return bench.run("gpu_node.sh", "--pause", "0", *arguments, **environment)


def fake_gpus(bench, count):
    lines = "".join(f"echo 'GPU {n}: NVIDIA H200 (UUID: GPU-{n})'\n" for n in range(count))
    bench.fake("nvidia-smi", f'#!/bin/sh\n[ "$*" = "-L" ] || exit 9\n{lines}')


def test_every_process_gets_the_environment_of_the_run(bench, nasty):
    result = bench.end(group(bench, 3, *nasty, options=["--gpu-each"]))
    assert result.code == 0, result
    calls = [bench.calls(p) for p in range(3)]
    assert [len(c) for c in calls] == [1, 1, 1]
    environments = [c[0]["environment"] for c in calls]
    assert [e["FREPO_PROCESS"] for e in environments] == ["0", "1", "2"]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["0", "1", "2"]
    assert {e["FREPO_PROCESSES"] for e in environments} == {"3"}
    [address] = {e["FREPO_COORDINATOR"] for e in environments}
    assert address.startswith("127.0.0.1:") and int(address.split(":")[1]) > 1024
    assert all(c[0]["arguments"][4:] == nasty for c in calls)


def test_logs_are_separate_and_process_0_is_shown(bench):
    logs = bench.top / "the logs"
    result = bench.end(group(bench, 2, options=["--logs", str(logs)]))
    assert result.out == "process 0 starts at 0\nprocess 0 is done\n", result
    assert (logs / "process-0.log").read_text() == result.out
    assert (logs / "process-1.log").read_text() == result.out.replace(
        "0 starts", "1 starts"
    ).replace("process 0 is", "process 1 is")


def test_logs_go_on_without_a_reader_of_the_output(bench):
    logs = bench.top / "logs"
    process = group(bench, 2, "--gin.SECONDS=0.05", options=["--logs", str(logs)])
    process.stdout.close()
    process.stderr.close()
    assert process.wait(240) == 0
    assert (logs / "process-0.log").read_text().endswith("process 0 is done\n")


def test_the_given_gpus_are_assigned(bench):
    bench.end(group(bench, 2, options=["--gpu-each"], CUDA_VISIBLE_DEVICES="6,4"))
    assert [bench.calls(p)[0]["environment"]["CUDA_VISIBLE_DEVICES"] for p in (0, 1)] == ["6", "4"]
    result = bench.end(group(bench, 3, options=["--gpu-each"], CUDA_VISIBLE_DEVICES="6,4"))
    assert result.code == 2 and "names 2 GPUs for 3 processes" in result.err


@pytest.mark.parametrize(
    ("die", "code"),
    [
        ("1:7:1", 1),
        ("0:7:2", 2),
        ("1:7:139", 42),
        ("0:7:42", 42),
        ("0:7:130", 130),
        ("1:7:127", 127),
    ],
)
def test_one_end_ends_all_and_the_worst_code_counts(bench, helpers, die, code):
    result = bench.end(group(bench, 3, "--gin.STEPS=100000", f"--gin.DIE={die}"))
    assert result.code == code and "stopping the other" in result.err, result
    assert "did not end in time" not in result.err  # they do not wait for the grace period
    assert len(bench.pids()) == 3 and not any(map(helpers.alive, bench.pids()))


def test_the_worst_code_counts_though_another_came_first(bench, helpers):
    # It ignores SIGTERM: otherwise a busy machine might stop process 0 before its end.
    die = "--gin.DIE=1:7:42,0:8:1"
    result = bench.end(group(bench, 2, "--gin.STEPS=100000", "--gin.DEAF=1", die))
    assert result.code == 1 and "stopping the other" in result.err, result
    assert "process 1 ended with 42" in result.err, result
    assert not any(map(helpers.alive, bench.pids()))


def test_a_process_that_does_not_stop_is_killed_after_the_grace_period(bench, helpers):
    result = bench.end(
        group(bench, 2, "--gin.STEPS=100000", "--gin.DEAF=1", "--gin.DIE=1:7:1",
              options=["--grace=1"])
    )  # fmt: skip
    assert result.code == 1 and "process 0 did not end in time" in result.err, result
    assert not any(map(helpers.alive, bench.pids()))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 42), (signal.SIGINT, 130)])
def test_signals_reach_every_process(bench, helpers, number, code):
    process = group(bench, 3, "--gin.STEPS=100000")
    helpers.wait_for(lambda: all(bench.calls(p) for p in range(3)) and bench.steps())
    process.send_signal(number)
    result = bench.end(process)
    assert result.code == code and "stopping the other" not in result.err, result
    assert not any(map(helpers.alive, bench.pids()))


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
def test_killed_itself_it_leaves_no_process(bench, helpers):
    logs = bench.top / "logs"
    process = group(bench, 2, "--gin.STEPS=100000", "--gin.DEAF=1", options=["--logs", str(logs)])
    helpers.wait_for(lambda: bench.calls(0) and bench.calls(1))
    process.kill()
    helpers.wait_for(lambda: not any(map(helpers.alive, bench.pids())))
    assert bench.end(process).code == -signal.SIGKILL


def test_without_a_working_setpriv_the_processes_still_run(bench):
    bench.fake("setpriv", "#!/bin/sh\necho \"unrecognized option '--pdeathsig'\" >&2; exit 1\n")
    result = bench.end(group(bench, 2))
    assert result.code == 0 and result.err == "", result
    assert len(bench.pids()) == 2


def test_group_codes(bench):
    def code(*codes):
        text = f'. "{bench.repo}/launch/policy.sh"; group_code {" ".join(map(str, codes))}'
        return int(subprocess.run(["bash", "-c", text], capture_output=True, check=True).stdout)

    assert code(0, 0) == 0
    assert code(0, 42) == code(134, 0) == code(42, 139) == code(128) == 42
    assert code(42, 1, 134) == 1 and code(42, 2, 134) == 2 and code(1, 2) == 2
    assert code(42, 201, 134) == 201 and code(201, 1) == 1 and code(130, 201) == 130
    assert code(130, 42) == 130 and code(130, 134, 1) == 1 and code(0, 0, 127) == 127


def test_the_code_of_a_process_that_a_stranger_ended(bench):
    log = bench.top / "log"
    log.write_text("before\nABORTED: 1 unexpectedly tried to connect\n" + "x\n" * 500_000)

    def code(*given):
        script = f'set -eo pipefail; . "{bench.repo}/launch/policy.sh"; trap "" PIPE; code_of "$@"'
        return int(subprocess.check_output(["bash", "-c", script, "x", *map(str, given)]))

    assert code(134, log, 1) == code(42, log, 8) == 201
    assert code(134, log, 60) == 134  # of an earlier attempt
    assert code(1, log, 1) == 1 and code(134, bench.top / "none", 1) == 134


def test_dry_run_can_be_pasted(bench, nasty):
    result = bench.run("processes.sh", "--dry-run", "2", "--", "printf", "<%s>", *nasty)
    assert result.out.count(" &\n") == 2 and result.out.endswith("wait\n")
    first = result.out.split(" &\n")[0]
    pasted = subprocess.run(["bash", "-c", first], capture_output=True, check=True).stdout
    assert pasted.decode() == "".join(f"<{word}>" for word in nasty)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "true"], "no number of processes"),
        (["2"], "no command"),
        (["x", "--", "true"], "N 'x'"),
        (["0", "--", "true"], "N '0'"),
        (["2", "3", "--", "true"], "'3'"),
        (["--grace=-1", "2", "--", "true"], "--grace '-1'"),
        (["010", "--", "true"], "N '010'"),
        (["--logs=", "2", "--", "true"], "--logs"),
        (["--frob", "2", "--", "true"], "'--frob'"),
    ],
)
def test_wrong_input_of_processes_is_one_line(bench, arguments, words):
    result = bench.run("processes.sh", *arguments)
    assert result.code == 2 and result.err.count("\n") == 1 and words in result.err, result


def test_one_process_has_all_gpus_and_is_supervised(bench, nasty):
    fake_gpus(bench, 4)
    result = node(bench, "digits_ipc1.gin", "--workdir", str(bench.workdir), "--gin.DIE=0:7:134",
                  "--", *nasty)  # fmt: skip
    assert result.code == 0 and "attempt 1: code 134, saved step 5" in result.err, result
    call = bench.calls()[1]
    assert call["arguments"] == [
        "distill", "digits_ipc1.gin", "--workdir", str(bench.workdir), "--gin.DIE=0:7:134", *nasty
    ]  # fmt: skip
    assert call["environment"] == {"JAX_PLATFORMS": "cuda,cpu"}


@pytest.mark.slow
def test_per_gpu_one_crash_restarts_all_together(bench, helpers):
    fake_gpus(bench, 3)
    result = node(bench, "digits_ipc1", "--per-gpu", "--grace", "2",
                  "--workdir", str(bench.workdir),
                  "--gin.STEPS=60", "--gin.DIE=1:12:139,2:30:137")  # fmt: skip
    assert result.code == 0, result
    assert "attempt 1: code 42, saved step" in result.err
    assert "attempt 3: code 0, saved step 60" in result.err
    assert [len(bench.calls(p)) for p in range(3)] == [3, 3, 3]
    log = (bench.workdir / "logs" / "process-1.log").read_text()
    assert log.count("process 1 starts") == 3 and "process 1 dies with 139" in log
    assert "[1] process 1 dies with 139 at 12" in result.err
    assert not any(map(helpers.alive, bench.pids()))


def test_ends_by_a_stranger_are_not_attempts_without_progress(bench):
    options = ["--per-gpu", "--gpus", "2", "--attempts", "1"]
    result = node(bench, *options, "r", "--workdir", str(bench.workdir), "--gin.CUTS=2")
    assert result.code == 0 and len(bench.calls(0)) == 3, result
    assert result.err.count(": ended by another program") == 2


@pytest.mark.slow
def test_sigterm_saves_and_stops_every_process(bench, helpers):
    process = bench.start("gpu_node.sh", "--per-gpu", "--gpus", "2", "digits_ipc1",
                          "--gin.STEPS=100000")  # fmt: skip
    workdir = bench.cwd / "runs" / "digits_ipc1"
    helpers.wait_for(lambda: bench.calls(1, workdir) and bench.steps(workdir))
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does
    result = bench.end(process)
    assert result.code == 42 and result.err.count("attempt ") == 1, result
    assert not any(map(helpers.alive, bench.pids()))


def test_gpus_are_counted(bench):
    fake_gpus(bench, 3)
    out = bench.run("gpu_node.sh", "--per-gpu", "--dry-run", "r").out
    assert " 3 -- " in out and out.count("\n") == 1
    out = bench.run("gpu_node.sh", "--per-gpu", "--dry-run", "r", CUDA_VISIBLE_DEVICES="0,2").out
    assert " 2 -- " in out
    assert " 8 -- " in bench.run("gpu_node.sh", "r", "--per-gpu", "--gpus", "8", "--dry-run").out
    assert not bench.pids()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["r"], "no GPU"),
        (["r", "--per-gpu", "--dry-run"], "--gpus N"),
        (["--per-gpu", "--gpus", "2"], "no RECIPE"),
        (["r", "--gpus", "2"], "--gpus without --per-gpu"),
        (["r", "--grace", "2"], "--grace without --per-gpu"),
        (["--gpus", "many", "r"], "--gpus 'many'"),
        (["--frob", "r"], "'--frob'"),
    ],
)
def test_wrong_input_of_gpu_node_is_one_line(bench, arguments, words):
    bench.fake("nvidia-smi", "#!/bin/sh\necho 'No devices found.'\nexit 6\n")
    result = bench.run("gpu_node.sh", *arguments)
    assert result.code == 2 and result.err.count("\n") == 1 and words in result.err, result


def test_a_dry_run_needs_no_gpu(bench):
    bench.fake("nvidia-smi", "#!/bin/sh\nexit 6\n")
    result = bench.run("gpu_node.sh", "r", "--dry-run")
    assert result.code == 0 and " distill r" in result.out and result.err == "", result
    assert not bench.pids()


def test_tensorboard_listens_here_only(bench):
    bench.fake("unused", "#!/bin/sh\n")
    board = bench.program.with_name("tensorboard")
    board.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    board.chmod(0o755)
    folder = bench.cwd / "a $run"
    folder.mkdir()
    result = bench.run("tensorboard.sh", "a $run", "--port", "7007")
    expected = "<--logdir><a $run/tensorboard><--host><localhost><--port><7007>"
    assert result.code == 0 and result.out == expected, result
    dry = bench.run("tensorboard.sh", "--dry-run", "a $run/")
    assert subprocess.run(["bash", "-c", dry.out], cwd=bench.cwd, capture_output=True).stdout \
        .decode() == expected.replace("7007", "6006")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no WORKDIR"),
        (["nowhere"], "WORKDIR 'nowhere'"),
        (["--port", "x", "."], "--port 'x'"),
        ([".", ".."], "'..'"),
        (["--bind_all", "."], "'--bind_all'"),
    ],
)
def test_wrong_input_of_tensorboard_is_one_line(bench, arguments, words):
    result = bench.run("tensorboard.sh", *arguments)
    assert result.code == 2 and result.err.count("\n") == 1 and words in result.err, result
