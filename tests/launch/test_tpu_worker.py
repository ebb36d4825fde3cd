"""launch/tpu_worker.sh, which runs on each machine of a pod."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


@pytest.mark.parametrize("held", [True, False])
def test_a_lock_is_removed_only_if_no_process_holds_the_tpu(bench, held):
    lock, device = bench.top / "libtpu_lockfile", bench.top / "accel0"
    lock.touch()
    device.touch()
    bench.fake("sudo", "#!/bin/sh\nexit 1\n")
    bench.fake("fuser", f"#!/bin/sh\n[ {int(held)} = 1 ] && echo ' 123m'\nexit 0\n")
    result = bench.run("tpu_worker.sh", "unlock", str(lock), str(device))
    assert result.code == 0 and lock.exists() == held, result
    assert ("in use by process" if held else "removed the stale") in result.err


def test_a_lock_stays_if_the_use_of_the_tpu_is_unknown(bench):
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


def test_what_it_installs_is_enough_for_a_workdir_on_a_store():
    """`check_checkpoints` refuses gs:// without google-cloud-storage."""
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    extras = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    wanted, seen = ["frepo-scale[tpu]"], set()
    while wanted:
        name, _, extra = wanted.pop().partition("[")
        seen.add(name.partition(">")[0])
        if name == "frepo-scale":
            wanted += extras[extra.rstrip("]")]
    assert {"jax", "google-cloud-storage", "google-cloud-storage-control"} <= seen


def test_a_program_that_lacked_memory_is_reported_as_that(bench, helpers):
    counts = bench.top / "counts"
    (bench.top / "run").mkdir()
    (bench.top / "run" / "id").write_text("a-1\n")
    bench.fake("curl", "#!/bin/sh\necho 3\n")
    helpers.write_program(bench.program, f'#!/bin/sh\necho oom_kill 1 >"{counts}"; kill -9 $$\n')
    result = bench.run(
        "tpu_worker.sh", "attempt", str(bench.workdir), "r", FREPO_OOM_COUNTS=str(counts)
    )
    assert result.code == 0, result
    assert (bench.top / "run" / "worker-3.exit").read_text() == "202\n"
    assert bench.run("tpu_worker.sh", "report").out == "frepo-worker 3 202\n"
