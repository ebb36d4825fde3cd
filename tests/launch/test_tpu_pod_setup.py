"""launch/tpu_pod.sh --setup and --env: the script and variables of each worker."""

import pytest
from launch.tpu_cloud import quick

# Records how often the program was started on this worker before, and the variables.
SETUP = """calls=$FAKE_BUCKETS/bucket/runs/a/called-$FAKE_WORKER.jsonl
printf '%s:%s:%s\\n' "$(cat "$calls" 2>/dev/null | wc -l)" "$DATA_DIR" "$FREPO_NOTE" \\
  >>"$FAKE_CLOUD/setup-$FAKE_WORKER"
"""
# On worker 1, after worker 0 has saved: a program that is stopped before starts from 0 again.
FAILS_ONCE = """[ "$FAKE_WORKER" = 0 ] || [ -e "$FAKE_CLOUD/failed" ] || {
  until [ -e "$FAKE_BUCKETS/bucket/runs/a/checkpoints/5" ]; do sleep 0.1; done
  touch "$FAKE_CLOUD/failed"; echo "no mount here"; exit CODE; }
"""


@pytest.fixture
def setup(cloud):
    """Makes a script for --setup of the text, with a name that wants quoting."""

    def make(text: str = SETUP) -> list[str]:
        (cloud.bench.cwd / "it's my setup.sh").write_text(text)
        return ["--setup", "it's my setup.sh"]

    return make


def ran(cloud) -> list[list[str]]:
    return [(cloud.top / f"setup-{n}").read_text().splitlines() for n in (0, 1)]


@pytest.mark.slow
def test_setup_runs_on_every_worker_before_the_program_and_on_new_machines_again(
    cloud, helpers, setup
):
    process = cloud.start(
        *quick("--recreate", "--delete-when-done", "--data-dir", "/mnt/my data", *setup()),
        *("--env", "FREPO_NOTE=a  note", "digits_ipc1", "--gin.HOLD=0:7,1:7"),
    )
    helpers.wait_for(cloud.running)
    assert ran(cloud) == [["0:/mnt/my data:a  note"]] * 2
    cloud.preempt()
    result = cloud.bench.end(process)
    assert result.code == 0 and "attempt 2: code 0, saved step 20" in result.err, result
    assert ran(cloud) == [["0:/mnt/my data:a  note", "1:/mnt/my data:a  note"]] * 2
    assert len(cloud.calls("scp")) == 2


@pytest.mark.slow
def test_setup_runs_in_every_attempt_on_machines_that_stay_and_only_if_asked_for(cloud, setup):
    cloud.make()
    (cloud.bench.repo / ".git").mkdir()
    cloud.bench.fake("git", "#!/bin/sh\necho 0123456789ab\n")
    result = cloud.run(*quick(*setup(), "digits_ipc1", "--gin.DIE=0:7:42", "--gin.STEPS=10"))
    assert result.code == 0 and "attempt 2: code 0" in result.err, result
    assert ran(cloud) == [["0::", "1::"]] * 2
    commits = [(cloud.pod / f"{n}/frepo_scale/code/COMMIT").read_text() for n in (0, 1)]
    assert commits == ["0123456789ab\n"] * 2
    without = cloud.run(*quick("digits_ipc1"))
    assert without.code == 0 and without.out == "already done\n", without
    assert ran(cloud) == [["0::", "1::"]] * 2


@pytest.mark.slow
def test_a_setup_that_fails_once_is_tried_again(cloud, setup):
    cloud.make()
    script = setup(FAILS_ONCE.replace("CODE", "1"))
    result = cloud.run(*quick("--grace", "600", *script, "digits_ipc1", "--gin.HOLD=0:7"))
    assert result.code == 0 and "attempt 1: code 42" in result.err, result
    assert "worker 1 ended with 200; the end of its log:\nno mount here\n" in result.err
    assert "the setup script failed with 1" in result.err
    assert "a worker ended: stopping the other" in result.err  # long before --grace
    assert "attempt 2: code 0" in result.err and len(cloud.program(1)) == 1


@pytest.mark.slow
def test_a_setup_that_ends_with_2_stops_all(cloud, setup):
    cloud.make()
    script = setup(FAILS_ONCE.replace("CODE", "2"))
    result = cloud.run(*quick("--grace", "600", *script, "digits_ipc1", "--gin.STEPS=5000"))
    assert result.code == 2 and "attempt 1: code 2" in result.err, result
    assert "worker 1 ended with 2; the end of its log:\nno mount here\n" in result.err
    assert not cloud.program(1) and "attempt 2" not in result.err


@pytest.mark.slow
def test_stop_during_the_setup_starts_no_program(cloud, helpers, setup):
    cloud.make()
    # It ignores the signal and ends without an error.
    script = setup('trap : TERM\ntouch "$FAKE_CLOUD/begun-$FAKE_WORKER"\nsleep 600 || true\n')
    process = cloud.start(*quick(*script, "digits_ipc1"))
    helpers.wait_for(lambda: len(list(cloud.top.glob("begun-*"))) == 2)
    process.terminate()
    assert cloud.bench.end(process).code == 143
    stopped = cloud.run("stop", "--grace", "20")
    assert "worker 0: 143" in stopped.err and "worker 1: 143" in stopped.err, stopped
    assert not cloud.program(0) and not cloud.program(1)


def test_variables_arrive_on_every_worker_as_they_were_typed(cloud, nasty):
    cloud.make()
    given = {f"FREPO_T{n}": value for n, value in enumerate(nasty)}
    given["JAX_COMPILATION_CACHE_DIR"] = "gs://bucket/a cache"
    options = [word for n, value in given.items() for word in ("--env", f"{n}={value}")]
    result = cloud.run(*quick(*options, "digits_ipc1"))
    assert result.code == 0, result
    for process in (0, 1):
        [call] = cloud.program(process)
        assert {n: call["environment"].get(n) for n in given} == given
    # What installs gets them, too: a proxy, or another package index.
    [prepare] = cloud.calls("tpu_worker.sh prepare")
    assert any(word.startswith("--command=env FREPO_T0=") for word in prepare)


@pytest.mark.slow
def test_a_worker_that_lacks_memory_is_not_started_again(cloud, helpers):
    counts, real = cloud.bench.top / "counts", cloud.bench.program.with_name("real")
    cloud.bench.program.rename(real)
    helpers.write_program(
        cloud.bench.program,
        f'#!/bin/sh\ncase "$*" in status* | *--dry-run*) exec "{real}" "$@" ;; esac\n'
        f'echo oom_kill 1 >"{counts}"; kill -9 $$\n',
    )
    cloud.make(workers=1)
    result = cloud.run(*quick("digits_ipc1", "--env", f"FREPO_OOM_COUNTS={counts}"))
    assert result.code == 1 and "worker 0 ended with 202" in result.err, result
    assert "DATA_PLACEMENT=stream" in result.err
