"""A run outlives the readers of its output, and SIGHUP stops it as SIGTERM does."""

import os
import signal
import subprocess
import sys

import pytest

START = "import os, sys\nfrom frepo_scale.ops.output import outlive_readers\noutlive_readers()\n"


def run(text, **streams):
    return subprocess.run([sys.executable, "-c", START + text], timeout=60, **streams)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_without_a_reader_ends_nothing(stream):
    reader, writer = os.pipe()
    os.close(reader)
    text = f"print('x' * 10**6, file=sys.{stream}, flush=True)\nprint(file=sys.{stream})\n"
    text += "sys.exit(42)"
    result = run(text, **{stream: writer})
    os.close(writer)
    assert result.returncode == 42


def test_a_full_disk_ends_nothing():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        assert run("print('x', flush=True)\nsys.exit(42)", stdout=full).returncode == 42


def test_a_closed_descriptor_is_not_given_to_the_next_file(tmp_path):
    text = f"file = open({str(tmp_path / 'x')!r}, 'w')\nprint('printed', flush=True)\n"
    command = [sys.executable, "-c", START + text]
    result = subprocess.run(["bash", "-c", 'exec "$@" >&- 2>&-', "x", *command])
    assert result.returncode == 0 and (tmp_path / "x").read_text() == ""


def test_what_is_printed_arrives_in_order():
    text = "print('one')\nprint('zwölf', file=sys.stderr)\nprint('\\udcff')\nos.write(1, b'')\n"
    result = run(text, capture_output=True)
    assert result.stdout == b"one\n\\udcff\n" and result.stderr.decode() == "zwölf\n"
    assert result.returncode == 0


HANGUP = """
import os, signal, sys
from frepo_scale.ops.preemption import Preemption
preemption = Preemption()
preemption.install()
os.kill(os.getpid(), signal.SIGHUP)
sys.exit(preemption.exit_code if preemption.requested else 7)
"""


@pytest.mark.parametrize(("ignored", "code"), [(False, 42), (True, 7)])
def test_sighup_is_sigterm_unless_it_is_ignored_from_the_start(ignored, code):
    action = signal.SIG_IGN if ignored else signal.SIG_DFL
    result = subprocess.run(
        [sys.executable, "-c", HANGUP], preexec_fn=lambda: signal.signal(signal.SIGHUP, action)
    )
    assert result.returncode == code
