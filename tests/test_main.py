"""The command line itself: help, arguments and exit codes."""

import errno
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from frepo_scale import config
from frepo_scale import main as command
from frepo_scale.core.errors import InputError, Preempted, RunError
from frepo_scale.main import main, split_overrides

COMMANDS = [
    *("distill", "plan", "evaluate", "prepare", "status", "report", "export", "compare", "profile"),
    "pretrain",
    "settings",
]
HEAVY = ["jax", "flax", "numpy", "gin", "tensorflow", "sklearn", "matplotlib", "orbax"]


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_top_help_lists_every_command(capsys):
    text = help_of(capsys)
    assert text.startswith("usage: frepo-scale ")
    for name in COMMANDS:
        assert f"\n    {name} " in text
    assert "--gin.IPC=10" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("distill", ["RECIPE", "--workdir DIR", "--gin.NAME=VALUE", "--dry-run", "runs/<recipe>"]),
        ("plan", ["RECIPE --on HARDWARE", "--quick", "--best", "--may-change", "--write"]),
        ("evaluate", ["PATH", "--dataset NAME", "--gin.NAME=VALUE", "--gin.EVAL_NETS=20"]),
        ("prepare", ["--source PATH", "--out DIR", "--resolution R", "--skip-bad N", "lanczos"]),
        ("report", ["WORKDIR", "report.html"]),
        ("export", ["WORKDIR", "--format npz|folder|safetensors", "--out PATH"]),
        ("compare", ["PATH", "--out FILE"]),
    ],
)
def test_the_help_of_a_command(name, expected, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_of(capsys, name)
    assert text.startswith(f"usage: frepo-scale {name} ")
    for words in expected:
        assert words in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_and_wrong_arguments_load_nothing_heavy():
    code = f"""
import sys
from frepo_scale.main import main
for arguments in [["--help"], *([name, "--help"] for name in {COMMANDS})]:
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code == 0
assert main(["distil"]) == 2
assert main(["report", "x", "--gin.IPC=1"]) == 2
print(sorted(set({HEAVY}) & sys.modules.keys()))
"""
    assert python(code).splitlines()[-1] == "[]"


def test_the_versions_are_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"frepo-scale \d+\.\S+, code [0-9a-f]{12}, python 3.*, jax \d.*\n", out)
    assert err == ""


def test_the_versions_load_nothing_heavy():
    code = f"""
import sys
from frepo_scale.main import main
try:
    main(["--version"])
except SystemExit:
    print(sorted(set({HEAVY}) & sys.modules.keys()))
"""
    assert python(code).splitlines()[-1] == "[]"


@pytest.mark.parametrize("where", [0, 1, 2, None])
def test_the_traceback_is_shown_with_debug(where, capsys, monkeypatch):
    def fail(options, overrides):
        try:
            np.zeros(2**60, np.uint8)
        except MemoryError as error:
            raise MemoryError("Unable to allocate all of it") from error

    monkeypatch.setitem(command._COMMANDS, "report", fail)
    arguments = ["report", "x"]
    if where is not None:
        arguments.insert(where, "--debug")
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("frepo-scale: out of memory on the host")
    assert (len(lines) > 1) == ("--debug" in arguments)
    assert any(line.startswith("Traceback") for line in lines) == ("--debug" in arguments)


def test_an_argument_that_is_not_utf8_is_refused(tmp_path):
    arguments = ["distill", "digits_ipc1", "--workdir", os.fsencode(tmp_path) + b"/\xff"]
    done = subprocess.run(
        [sys.executable, "-m", "frepo_scale.main", *arguments], capture_output=True, timeout=60
    )
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.startswith(b"frepo-scale: argument ") and done.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["maybe", ""])
def test_a_value_that_jax_does_not_take_is_one_line(value, tmp_path):
    environment = os.environ | {"JAX_ENABLE_X64": value}
    done = subprocess.run(
        [sys.executable, "-m", "frepo_scale.main", "settings"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"frepo-scale: JAX_ENABLE_X64={value} ")
    assert done.stderr.count("\n") == 1


def test_the_entry_sets_the_environment_before_anything_is_loaded():
    code = """
import os, sys
from frepo_scale import main
sys.argv = ["frepo-scale", "distil"]
main.main = lambda arguments: print(
    arguments, os.environ["OPENBLAS_NUM_THREADS"], os.environ["TF_ENABLE_ONEDNN_OPTS"]
) or 0
try:
    main.entry()
except SystemExit as ended:
    print(ended.code)
"""
    assert python(code, OPENBLAS_NUM_THREADS="3").splitlines() == [
        "['distil'] 3 0",  # what the user has set stays
        "0",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["distil"], "did you mean distill"),
        (["xyzw"], "unknown command xyzw"),
        (["distill"], "required: RECIPE"),
        (
            ["distill", "a", "b"],
            "unknown argument b: expected the arguments that frepo-scale distill --help",
        ),
        (["distill", "a", "--dryrun"], "did you mean --dry-run"),
        (["distill", "a", "--workdir"], "--workdir"),
        (["distill", "a", "--gin"], "--gin"),
        (["distill", "a", "--gin.IPC"], "--gin.IPC=VALUE"),
        (["distill", "a", "--gin.IPC", "--dry-run"], "--gin.IPC=VALUE"),
        (["evaluate"], "required: PATH"),
        (["prepare"], "required: --source, --out, --resolution"),
        (["prepare", "--source", "a", "--out", "b", "--resolution", "x"], "'x'"),
        (
            ["prepare", "--source", "a", "--out", "b", "--resolution", "8", "--gin.IPC=1"],
            "--gin.IPC",
        ),
        (["report"], "required: WORKDIR"),
        (["export", "a"], "required: --out"),
        (["export", "a", "--out", "b", "--format", "png"], "'png'"),
        (["report", "a", "--gin.IPC=1"], "--gin.IPC with report"),
        (["export", "a", "--out", "b", "--gin.IPC", "1"], "--gin.IPC with export"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("frepo-scale: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "rest", "overrides"),
    [
        (["--gin.IPC=1", "x"], ["x"], {"IPC": "1"}),
        (["--gin.IPC", "1", "x"], ["x"], {"IPC": "1"}),
        (["x", "--gin.SEED", "-1"], ["x"], {"SEED": "-1"}),
        (["--gin.DATA_DIR=a b=c"], [], {"DATA_DIR": "a b=c"}),
        (["--gin.DATA_DIR="], [], {"DATA_DIR": ""}),
        (["--gin.IPC=1", "--gin.IPC=2"], [], {"IPC": "2"}),
        (["--gin.Pool.batch=3", "--workdir", "w"], ["--workdir", "w"], {"Pool.batch": "3"}),
    ],
)
def test_overrides_are_taken_out_of_the_arguments(arguments, rest, overrides):
    assert split_overrides(arguments) == (rest, overrides)


@pytest.mark.parametrize("code", [0, 42, 130])
def test_the_code_of_a_stop_is_the_exit_code(code, monkeypatch):
    def stop(options, overrides):
        if code:
            raise Preempted(code)

    monkeypatch.setitem(command._COMMANDS, "report", stop)
    assert main(["report", "x"]) == code


def test_settings_are_listed_with_their_defaults(capsys):
    assert main(["settings"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    listed = dict(re.findall(r"^  ([A-Z_]+)\*? +(\S+)", out, re.MULTILINE))
    assert listed.keys() == config.settings().keys()
    assert (listed["IPC"], listed["RIDGE"], listed["DATASET"]) == ("1", "1e-06", "must")
    operational = set(re.findall(r"^  ([A-Z_]+)\*", out, re.MULTILINE))
    assert {"CHUNK", "MESH_DATA"} <= operational and "IPC" not in operational


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("x = 5", "a letter", "press another key"), 2, "x = 5: expected a letter; "),
        (InputError("two\nlines", "one"), 2, "two lines: expected one"),
        (RunError("the loss is not finite at step 7"), 1, "the loss is not finite at step 7"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_are_one_line_with_their_code(error, code, message, monkeypatch, capsys):
    def fail(options, overrides):
        raise error

    monkeypatch.setitem(command._COMMANDS, "report", fail)
    assert main(["report", "x"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"frepo-scale: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", [InputError, RunError])
@pytest.mark.parametrize(
    ("cause", "passing"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (ValueError("UNAVAILABLE: the service is away [source locations]"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_a_run_with_a_temporary_disk_error_exits_with_42(kind, cause, passing, monkeypatch, capsys):
    error = InputError("a", "b") if kind is InputError else RunError("a")
    error.__cause__ = cause

    def fail(options, overrides):
        raise error

    for name in ("distill", "report"):
        monkeypatch.setitem(command._COMMANDS, name, fail)
    final = 2 if kind is InputError else 1
    assert main(["distill", "r.gin"]) == (42 if passing else final)
    assert main(["report", "x"]) == final
    assert capsys.readouterr().err.count("\n") == 2


def test_a_bug_shows_its_traceback(monkeypatch):
    def fail(options, overrides):
        raise ZeroDivisionError

    monkeypatch.setitem(command._COMMANDS, "report", fail)
    with pytest.raises(ZeroDivisionError):
        main(["report", "x"])


def test_a_closed_output_pipe_is_no_error():
    code = """
import sys
from frepo_scale import main
main._COMMANDS["report"] = lambda options, overrides: print("x" * 10_000_000)
sys.argv = ["frepo-scale", "report", "w"]
main.entry()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0  # the command has done its work


def test_the_module_runs_like_the_console_script():
    done = subprocess.run(
        [sys.executable, "-m", "frepo_scale.main", "distil"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("frepo-scale: ")
