"""launch/supervise.sh: restarts, giving up, signals, and processes left behind."""

import os
import signal
import subprocess
import sys

import pytest


def distill(bench, *settings, options=(), **more):
    return bench.run(
        "supervise.sh", "--pause", "0", *options, "--",
        str(bench.program), "distill", "digits_ipc1.gin", "--workdir", str(bench.workdir),
        *settings, **more,
    )  # fmt: skip


def attempts(result):
    return [line for line in result.err.splitlines() if line.startswith("frepo_scale: attempt")]


def test_every_exit_code(bench):
    each = "for c in {0..255}; do if restartable $c; then echo $c; fi; done"
    command = ["bash", "-c", f'. "{bench.repo}/launch/policy.sh"; {each}']
    again = set(map(int, subprocess.check_output(command).split()))
    assert again == {42, *range(128, 256)} - {130}


@pytest.mark.parametrize("code", [42, 128, 137, 143])
def test_restarts_until_it_is_done(bench, code):
    result = distill(bench, f"--gin.DIE=0:7:{code},0:13:{code}")
    assert result.code == 0, result
    assert attempts(result) == [
        f"frepo_scale: attempt 1: code {code}, saved step 5",
        f"frepo_scale: attempt 2: code {code}, saved step 10",
        "frepo_scale: attempt 3: code 0, saved step 20",
    ]
    assert bench.steps() == [5, 10, 15, 20]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_other_exit_codes_are_not_restarted(bench, code):
    result = distill(bench, f"--gin.DIE=0:7:{code}")
    assert result.code == code and len(attempts(result)) == 1, result


def test_gives_up_after_three_ends_in_a_row_without_a_new_checkpoint(bench):
    deaths = ",".join(f"0:{step}:{code}" for step, code in
                      [(6, 134), (7, 42), (8, 42), (9, 139)])  # fmt: skip
    result = distill(bench, f"--gin.DIE={deaths}")
    codes = [line.split("code ")[1] for line in attempts(result)]
    assert len(codes) == 4 and all(code.endswith("saved step 5") for code in codes), result
    assert result.code == 139
    assert result.err.endswith(
        "giving up: 3 attempts in a row without progress (saved step 5); last code 139\n"
    )


def test_ends_by_a_stranger_are_counted_too_and_apart(bench):
    script = (
        f'say() {{ echo "$@"; }}; . "{bench.repo}/launch/policy.sh"; for n in {{1..12}}; do'
        ' note_progress "5/0/0 no saved step 5" $CUT_OFF; given_up 3 42 && exit $n; done; exit 0'
    )
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert result.returncode == 10 and "coordinator" in result.stdout, result


def test_a_new_checkpoint_starts_the_count_again(bench):
    deaths = ",".join(f"0:{step}:42" for step in (1, 2, 6, 7, 11, 12, 16))
    result = distill(bench, f"--gin.DIE={deaths}")
    assert result.code == 0 and len(attempts(result)) == 8, result


def test_what_an_earlier_run_saved_is_no_progress(bench):
    distill(bench, "--gin.DIE=0:7:1")
    result = distill(bench, "--gin.DIE=0:6:42,0:8:42,0:9:42")
    assert result.code == 42 and len(attempts(result)) == 3 and "giving up" in result.err


def test_a_finished_net_of_the_final_evaluation_starts_the_count_again(bench):
    result = distill(bench, "--gin.NETS=5")
    assert result.code == 0 and len(attempts(result)) == 6, result
    assert all(line.endswith(", saved step 20") for line in attempts(result))


def test_finished_nets_of_an_earlier_run_are_no_progress(bench):
    distill(bench, "--gin.NETS=2", options=["--attempts", "1"])
    prog = ["--pause", "0", "--saved-in", str(bench.workdir), "--", "bash", "-c", "exit 42"]
    result = bench.run("supervise.sh", *prog)
    assert result.code == 42 and len(attempts(result)) == 3 and "giving up" in result.err, result


@pytest.mark.parametrize("out", [["--out", "a set"], ["--out=a set"]])
def test_a_finished_shard_of_prepare_starts_the_count_again(bench, out):
    bench.fake(
        "prog",
        '#!/bin/sh\ncd "a set/.unfinished" || exit 9\necho >>calls\nn=$(wc -l <calls)\n'
        '[ "$n" -gt 5 ] || touch "train-0000$n-of-00005.array_record.json"\nexit 42\n',
    )
    (bench.cwd / "a set" / ".unfinished").mkdir(parents=True)
    prepare = ["prog", "prepare", "--source", "x", *out]
    result = bench.run("supervise.sh", "--pause", "0", "--", *prepare)
    assert result.code == 42 and len(attempts(result)) == 8, result
    assert attempts(result)[3].endswith("code 42, 4 parts finished"), result
    assert "progress is unknown" not in result.err


def test_attempts_can_be_set(bench):
    result = distill(bench, "--gin.DIE=0:1:42,0:2:42", options=["--attempts=7", "--attempts=1"])
    assert result.code == 42 and len(attempts(result)) == 1 and "giving up: 1 " in result.err


def test_saved_in_takes_precedence_over_the_arguments(bench):
    (bench.workdir / "checkpoints" / "9000").mkdir(parents=True)
    other = bench.top / "other"
    other.mkdir()
    result = distill(bench, "--gin.DIE=0:7:1", options=["--saved-in", str(other)])
    assert "code 0, nothing saved" in result.err


@pytest.mark.parametrize(
    ("given", "step"),
    [
        (["--workdir", "w"], 12),
        (["--workdir=w"], 12),
        (["--workdir", "elsewhere", "--workdir=w"], 12),
        ([], 3),
    ],
)
def test_the_workdir_is_taken_from_the_arguments(bench, given, step):
    for folder in ("w/checkpoints/12", "w/checkpoints/12.tmp-9", "runs/x/checkpoints/3",
                   "w/checkpoints/007", "w/checkpoints/metrics"):  # fmt: skip
        (bench.cwd / folder).mkdir(parents=True)
    (bench.cwd / "w/checkpoints/99").touch()  # a file is no checkpoint
    bench.fake("prog", "#!/bin/sh\nexit 3\n")
    result = bench.run("supervise.sh", "--", "prog", "distill", "gin/x.gin", *given)
    assert result.code == 3 and f"attempt 1: code 3, saved step {step}\n" in result.err, result


def test_a_tilde_in_the_workdir_is_the_home(bench):
    (bench.cwd / "home/w/checkpoints/12").mkdir(parents=True)
    result = bench.run(
        "supervise.sh", "--", "true", "distill", "x", "--workdir=~/w", HOME=str(bench.cwd / "home")
    )
    assert "saved step 12" in result.err, result


def test_without_a_workdir_it_says_so_and_still_ends(bench):
    result = bench.run("supervise.sh", "--pause", "0", "--", "bash", "-c", "exit 42")
    assert result.code == 42 and len(attempts(result)) == 3
    assert "progress is unknown" in result.err


def test_a_workdir_that_cannot_be_read_is_not_called_empty(bench):
    bench.workdir.mkdir()
    (bench.workdir / "unreadable").touch()
    result = distill(bench, "--gin.DIE=0:1:42,0:2:42,0:3:42")
    assert result.code == 42 and len(attempts(result)) == 3, result
    assert all(line.endswith("what is saved is not known") for line in attempts(result))
    assert "nothing saved" not in result.err and "the store does not answer" in result.err


def test_the_run_outlives_the_reader_of_its_output(bench):
    """As in `launch/supervise.sh ... | head`, or in a terminal that is closed."""
    process = bench.start(
        "supervise.sh", "--pause", "0", "--", str(bench.program), "distill", "r", "--workdir",
        str(bench.workdir), "--gin.DIE=0:7:42", "--gin.SECONDS=0.1",
    )  # fmt: skip
    process.stdout.close()
    process.stderr.close()
    assert process.wait(240) == 0
    assert bench.steps() == [5, 10, 15, 20]
    assert len(bench.calls()) == 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 42), (signal.SIGINT, 130), (signal.SIGHUP, 42)]
)
def test_signals_are_forwarded_and_it_ends_with_the_childs_code(bench, helpers, number, code):
    process = bench.start(
        "supervise.sh", "--", str(bench.program), "distill", "r", "--workdir", str(bench.workdir),
        "--gin.STEPS=10000",
    )  # fmt: skip
    call = helpers.wait_for(bench.calls)[0]
    helpers.wait_for(bench.steps)
    os.kill(process.pid, number)
    result = bench.end(process)
    assert result.code == code and len(attempts(result)) == 1, result
    assert f"code {code}, saved step {bench.steps()[-1]}" in result.err
    assert not helpers.alive(call["pid"])


def test_ctrl_c_reaches_the_program_once_and_not_ignored(bench):
    """In a terminal the whole foreground group gets it; twice would stop the program at once."""
    bench.fake(
        "prog",
        f"#!{sys.executable}\nimport os, signal, time\nseen = []\n"
        "print(os.getpgrp(), signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
        "signal.signal(signal.SIGINT, lambda *a: seen.append(1))\n"
        "print('ready', flush=True)\nwhile not seen: time.sleep(.02)\n"
        "time.sleep(1.5)\nraise SystemExit(10 + len(seen))\n",
    )
    process = bench.start("supervise.sh", "--", "prog")
    group, noticed = process.stdout.readline().split()
    assert int(group) != process.pid and noticed == "True"
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert bench.end(process).code == 11


def test_a_signal_in_the_pause_ends_it_with_the_last_code(bench, helpers):
    process = bench.start(
        "supervise.sh", "--pause", "600", "--", "bash", "-c", f"echo $$ >> {bench.top}/p; exit 42"
    )
    helpers.wait_for((bench.top / "p").exists)
    assert "attempt 1" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert bench.end(process).code == 42
    assert len((bench.top / "p").read_text().split()) == 1


def test_processes_left_by_the_child_are_killed_before_the_restart(bench, helpers):
    note = bench.top / "pids"
    script = f"sleep 500 & echo $! >> {note}; kill -9 $$"
    result = bench.run("supervise.sh", "--pause", "0", "--", "bash", "-c", script)
    pids = [int(x) for x in note.read_text().split()]
    assert result.code == 137 and len(pids) == 3
    assert not any(map(helpers.alive, pids))


def test_every_argument_arrives(bench, nasty):
    result = distill(bench, *nasty)
    assert result.code == 0, result
    assert bench.calls()[0]["arguments"][4:] == nasty


def test_dry_run_prints_what_a_shell_reads_back_and_runs_nothing(bench, nasty):
    result = bench.run("supervise.sh", "--dry-run", "--", "printf", "<%s>", *nasty)
    pasted = subprocess.run(["bash", "-c", result.out], capture_output=True, check=True).stdout
    assert pasted.decode() == "".join(f"<{word}>" for word in nasty)
    assert result.err == "" and not bench.workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no command"),
        (["--"], "no command"),
        (["--attempts"], "--attempts has no value"),
        (["--attempts", "0", "--", "true"], "--attempts '0'"),
        (["--attempts", "x$(id)", "--", "true"], "--attempts 'x$(id)'"),
        (["--attempts=08", "--", "true"], "--attempts '08'"),  # bash takes it for octal
        (["--pause=", "--", "true"], "--pause ''"),
        (["--pause", "-1", "--", "true"], "--pause '-1'"),
        (["true"], "argument 'true'"),
        (["--attempt", "3", "--", "true"], "did you mean --attempts?"),
    ],
)
def test_wrong_input_is_one_line(bench, arguments, words):
    result = bench.run("supervise.sh", *arguments)
    assert result.code == 2 and result.err.count("\n") == 1 and words in result.err, result


def test_a_missing_command_is_not_repeated(bench):
    result = bench.run("supervise.sh", "--", "no-such-program")
    assert result.code == 127 and len(attempts(result)) == 1


@pytest.mark.parametrize(("counts", "code", "runs"), [("1", 1, 1), ("0", 137, 3)])
def test_a_lack_of_memory_is_not_tried_again(bench, counts, code, runs):
    """Killed by the kernel without progress: once. By somebody else: as usual."""
    file = bench.top / "counts"
    file.write_text("oom 0\noom_kill 0\n")
    program = f"echo x >> {bench.top}/runs; printf 'oom_kill {counts}\\n' > {file}; exit 137"
    result = bench.run(
        "supervise.sh", "--pause", "0", "--", "bash", "-c", program, FREPO_OOM_COUNTS=str(file)
    )
    assert result.code == code, result
    assert len((bench.top / "runs").read_text().split()) == runs
    assert ("DATA_PLACEMENT=stream" in result.err) == (counts == "1")


def test_a_lack_of_memory_of_one_process_of_several_is_not_tried_again(bench):
    """What the kernel killed in a group is the group's end, whatever the others end with."""
    counts = bench.top / "counts"
    counts.write_text("oom_kill 3\n")
    program = (
        f"echo x >> {bench.top}/runs; [ $FREPO_PROCESS = 1 ] || exec sleep 600;"
        f" until [ $(wc -l <{bench.top}/runs) = 2 ]; do sleep 0.05; done;"
        f" echo oom_kill 4 >{counts}; kill -9 $$"
    )
    group = [str(bench.repo / "launch" / "processes.sh"), "2", "--", "bash", "-c", program]
    result = bench.run("supervise.sh", "--pause", "0", "--", *group, FREPO_OOM_COUNTS=str(counts))
    assert result.code == 1 and len((bench.top / "runs").read_text().split()) == 2, result
    assert "process 1 ended with 137" in result.err and "DATA_PLACEMENT=stream" in result.err


def test_a_failed_allocation_is_seen_in_a_file_with_the_output(bench):
    program = f'echo x >> {bench.top}/runs; echo "what():  std::bad_alloc" >&2; kill -ABRT $$'
    supervise = ["bash", str(bench.repo / "launch" / "supervise.sh"), "--pause", "0", "--"]
    with open(bench.top / "log", "a") as log:
        done = subprocess.run(
            [*supervise, "bash", "-c", program],
            cwd=bench.cwd, env=bench.environment, stdout=log, stderr=log,
        )  # fmt: skip
    assert done.returncode == 1 and (bench.top / "runs").read_text() == "x\n"


STRANGER, NO_MEMORY = "1 unexpectedly tried to connect with a", "what():  std::bad_alloc"
SLURM = "slurmstepd: error: Detected 2 oom_kill events in StepId=7.0. Some of the step tasks have"


@pytest.mark.parametrize(
    ("code", "log", "begin", "expected"),
    [
        (134, NO_MEMORY, 1, 202),
        (42, SLURM, 1, 202),
        (134, STRANGER, 1, 201),
        (202, STRANGER, 1, 202),
        (1, NO_MEMORY, 1, 1),
        (134, NO_MEMORY, 90, 134),
    ],
)
def test_what_a_log_says_of_an_end(bench, code, log, begin, expected):
    (bench.top / "log").write_text(f"{log}\n")
    assert policy(bench, f'code_of {code} "{bench.top}/log" {begin}') == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("group_code 134 202 201 42", 202),
        ("group_code 202 201 0", 202),
        ("group_code 202 2", 2),
        ("end_code 202 yes", 1),
        ("end_code 202", 137),
        ("end_code 201 yes", 42),
        ("end_code 139 yes", 139),
    ],
)
def test_codes_of_groups_and_launchers(bench, call, expected):
    assert policy(bench, call) == expected


def policy(bench, call):
    return int(
        subprocess.check_output(["bash", "-c", f'. "{bench.repo}/launch/policy.sh"; {call}'])
    )
