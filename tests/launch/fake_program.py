"""Replaces `frepo-scale distill`: its arguments, exit codes, signals and saved steps, no JAX.

`status` is the real one, which needs no packages; with a file "unreadable" in the workdir it fails
as it does for a bucket that does not answer.

It has further settings: SECONDS per step, SAVE_EVERY, STEPS, and
DIE=<process>:<step>:<code>[,...], once each (code 137 and others above 128: by that signal);
HOLD=<process>:<step>[,...]: started at 0, it waits there for a signal;
DEAF=1 (ignores SIGTERM, as a process blocked in a collective does); NETS=<n> nets of a final
evaluation, stopped with 42 after each; CUTS=<n> attempts that JAX aborts, because another program
registers as process 1.
"""

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from frepo_scale.ops.output import outlive_readers

arguments = sys.argv[1:]
outlive_readers()
if arguments[0] == "status":
    from frepo_scale.main import main

    if arguments[1].startswith("gs://"):
        arguments[1] = os.environ["FAKE_BUCKETS"] + "/" + arguments[1].removeprefix("gs://")
    if Path(arguments[1], "unreadable").exists():
        sys.exit("frepo-scale: the store does not answer")
    sys.exit(main(arguments))
assert arguments[0] == "distill", arguments
if arguments[2:3] == ["--dry-run"] and arguments[3].startswith("--devices="):
    assert os.path.exists(arguments[1]), arguments
    print("what a pasted command must not contain")
    if "--gin.WRONG=1" in arguments:
        print(f"frepo-scale: --gin.WRONG=1 with {arguments[3]}", file=sys.stderr)
        sys.exit(2)
    if "--workdir" in arguments:
        folder = arguments[arguments.index("--workdir") + 1]
        identity = Path(folder, "identity.json").read_text()
        print(f"frepo-scale: workdir {folder} belongs to {identity}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
recipe = arguments[1]
workdir = ""
settings = {"STEPS": "20", "SAVE_EVERY": "5", "SECONDS": "0.01", "DIE": "", "DEAF": "", "NETS": "0",
            "CUTS": "0", "HOLD": ""}  # fmt: skip
for number, argument in enumerate(arguments):
    if argument == "--workdir":
        workdir = arguments[number + 1]
    elif argument.startswith("--gin."):
        name, _, value = argument.removeprefix("--gin.").partition("=")
        settings[name] = value
workdir = workdir or "runs/" + os.path.basename(recipe).removesuffix(".gin")
if workdir.startswith("gs://"):
    workdir = os.environ["FAKE_BUCKETS"] + "/" + workdir.removeprefix("gs://")
root = Path(workdir)
named = ("FREPO_PROCESS", "SLURM_PROCID", "TPU_WORKER_ID")
process = int(next((os.environ[name] for name in named if name in os.environ), "0"))

stop = 0


def note(number: int, frame: object) -> None:
    global stop
    stop = stop or number


if not settings["DEAF"]:
    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

(root / "checkpoints").mkdir(parents=True, exist_ok=True)
watched = ("FREPO_", "CUDA_VISIBLE", "SLURM_", "JAX_", "NCCL_")
called = {
    "arguments": arguments,
    "environment": {n: v for n, v in os.environ.items() if n.startswith(watched)},
    "pid": os.getpid(),
    "folder": os.getcwd(),
}
with open(root / f"called-{process}.jsonl", "a") as file:
    file.write(json.dumps(called) + "\n")


def attempts_of(number: int) -> int:
    path = root / f"called-{number}.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


attempt = attempts_of(process)
count = int(os.environ.get("FREPO_PROCESSES") or os.environ.get("SLURM_NTASKS") or "1")
together = count > 1


def wait_for_the_others(reached: Callable[[int], bool]) -> None:
    """As in the real ones, where each step is a collective operation: no process runs ahead."""
    global together
    end = time.monotonic() + 120  # a test that needs this is wrong
    while together and not stop and not all(map(reached, range(count))):
        together = time.monotonic() < end
        time.sleep(0.005)


def enter() -> None:
    if together:
        with open(root / f"entered-{attempt}-{process}", "ab") as file:
            file.write(b".")  # one byte for each step


def entered(step: int, other: int) -> bool:
    path = root / f"entered-{attempt}-{other}"
    return path.exists() and path.stat().st_size > step - first


wait_for_the_others(lambda other: attempts_of(other) >= attempt)


def save(step: int) -> None:
    if process == 0:
        (root / "checkpoints" / f"{step}.tmp-5").mkdir(exist_ok=True)
        (root / "checkpoints" / f"{step}.tmp-5" / "commit_success.txt").touch()
        (root / "checkpoints" / f"{step}.tmp-5").rename(root / "checkpoints" / str(step))


if (root / "DONE").exists():
    print("already done", flush=True)
    sys.exit(0)
saved = [int(p.name) for p in (root / "checkpoints").iterdir() if p.name.isdigit()]
first = max(saved, default=0)
cut = root / f"cut-{process}-{len(list(root.glob(f'cut-{process}-*')))}"
if int(cut.name.rpartition("-")[2]) < int(settings["CUTS"]):
    cut.touch()
    words = "ABORTED: 1 unexpectedly tried to connect with a different incarnation."
    print(f"F1127 14:25:15.139889 22146 client.h:80] Terminating ... {words}", file=sys.stderr)
    sys.stderr.flush()
    os.abort()
print(f"process {process} starts at {first}", flush=True)
for step in range(first, int(settings["STEPS"])):
    enter()
    for plan in filter(None, settings["DIE"].split(",")):
        who, when, code = map(int, plan.split(":"))
        mark = root / f"died-{process}-{when}-{code}"
        if who == process and when == step and not mark.exists():
            mark.touch()
            print(f"process {process} dies with {code} at {step}", flush=True)
            if code > 128:
                signal.signal(code - 128, signal.SIG_DFL) if code != 137 else None
                os.kill(os.getpid(), code - 128)
            os._exit(code)
    if first == 0 and f"{process}:{step}" in settings["HOLD"].split(","):
        while not stop:
            time.sleep(0.02)
    if stop:
        if step not in saved:
            save(step)
        print(f"process {process} saved {step}", flush=True)
        sys.exit(42 if stop == signal.SIGTERM else 130)
    if step != first and step % int(settings["SAVE_EVERY"]) == 0:
        save(step)
        saved.append(step)
    time.sleep(float(settings["SECONDS"]))
    wait_for_the_others(functools.partial(entered, step))
if int(settings["STEPS"]) not in saved:
    save(int(settings["STEPS"]))
progress = root / "evaluation_progress.json"
if process == 0 and int(settings["NETS"]):
    nets = json.loads(progress.read_text())["nets"] if progress.exists() else {}
    if len(nets) < int(settings["NETS"]):
        nets[f"distilled/{len(nets)}"] = [0.5, 0.9]
        new = root / "new-progress.json"  # whole at once, as the program writes it
        new.write_text(json.dumps({"evaluation": "7" * 64, "nets": nets}, indent=1))
        new.rename(progress)
        print(f"process 0 finished net {len(nets)}", flush=True)
        sys.exit(42)
if process == 0:
    (root / "DONE").touch()
print(f"process {process} is done", flush=True)
