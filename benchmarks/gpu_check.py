"""Checks a machine with a GPU with one command: numerics, restarts, speed, and a whole run.

    python benchmarks/gpu_check.py --minutes 9 --out DIR
    python benchmarks/gpu_check.py --minutes 9 --out DIR --recipe cifar10_ipc10.gin --data-dir TAR
    python benchmarks/gpu_check.py --minutes 5 --out DIR --smoke     # tiny sizes, any machine

Five parts, the most important first. Each is a separate process with a time limit, so that a crash,
a hang or a lack of memory in one does not stop the next:

  facts         card, versions, measured matrix rates and bandwidth
  right         numerics of the device against float64 on the CPU
  nothing_lost  runs that are stopped, killed and resumed, against an undisturbed one
  fast          the outer step at four shapes, whole and by phase, beside a roofline
  useful        a recipe through the real program in the time that is left

DIR gets one JSON file per part, written again after every result; `table.txt`, a summary;
`distilled.npz`; and `artifacts.tar.gz` with logs, a profile for TensorBoard, and the last part's
metrics and report. The exit code is 1 if a part failed or a check in it did not hold.
`benchmarks/gpu_check.sh` packs what a machine without network needs.
"""

import argparse
import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gpu_parts.program import environment
from gpu_parts.report import Options, Report, read_json, write_json
from gpu_parts.table import failures, table

# Seconds at --minutes 9, in proportion otherwise; time left by a part is added to the last one.
LIMITS = {"facts": 40.0, "right": 100.0, "nothing_lost": 120.0, "fast": 150.0, "useful": 600.0}
ALONE = ("facts", "fast")  # parts whose process is the only one on the device
GRACE = 5.0  # seconds after its limit until a part is killed
TABLE = 10.0  # seconds reserved for the table and the archive
LARGEST_ARCHIVE = 15 * 2**20  # bytes


def main() -> int:
    """Runs the parts and prints the table."""
    given = arguments(sys.argv[1:])
    if given.part:
        run_part(given)
    began = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no part is left running
    scratch = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    limits = LIMITS | dict(given.limit)
    try:
        for part in given.parts:
            left = 60 * given.minutes - TABLE - GRACE - (time.monotonic() - began)
            limit = limits[part]
            if part not in dict(given.limit):
                limit *= given.minutes / 9
            start_part(part, max(0.0, min(limit, left)), scratch, given)
            (given.out / "table.txt").write_text(table(given.out) + "\n")
            pack(scratch, given.out / "artifacts.tar.gz")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(table(given.out))
    wrong = failures(given.out, given.parts)
    print(f"\n{time.monotonic() - began:.0f} s; " + ("all checks hold" if not wrong else "WRONG:"))
    for line in wrong:
        print(f"  {line}")
    return int(bool(wrong))


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Checks and measures on a machine with a GPU.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument(
        "--parts",
        type=_parts,
        default=list(LIMITS),
        metavar="NAME,NAME",
        help=f"which, in the order given (default: {','.join(LIMITS)})",
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="PART=SECONDS",
        help="another time limit for a part",
    )
    parser.add_argument("--recipe", help="of the part useful (default: fashion_mnist_ipc10.gin)")
    parser.add_argument("--data-dir", metavar="PATH", help="DATA_DIR of that recipe")
    # For the process of one part:
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args(given)
    if found.data_dir and Path(found.data_dir).exists():  # it may be a URL
        found.data_dir = str(Path(found.data_dir).resolve())
    return found


def _parts(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in LIMITS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(LIMITS)}")
    return names


def _limit(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    try:
        return _parts(name)[0], float(seconds)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not PART=SECONDS") from None


def run_part(given: argparse.Namespace) -> NoReturn:
    """Runs a part in this process, and ends without waiting for abandoned threads."""
    (_, limit), *_ = given.limit
    path = given.out / f"{given.part}.json"
    options = Options(given.out, given.scratch, given.smoke, given.recipe, given.data_dir)
    report = Report(path, limit, options)
    code = 0
    try:
        report.put(limit_seconds=limit)
        if report.has(1.0, "everything"):
            importlib.import_module(f"gpu_parts.{given.part}").run(report)
    except BaseException as error:
        traceback.print_exc()
        report.put(error=f"{type(error).__name__}: {error}"[:1000])
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start_part(part: str, limit: float, scratch: Path, given: argparse.Namespace) -> None:
    """Runs a part in a separate process, ends all it has started, and records how it ended."""
    print(f"{part}: at most {limit:.0f} s", flush=True)
    path, log = given.out / f"{part}.json", scratch / f"{part}.log"
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", part, "--limit", f"{part}={limit}"]
    command += ["--out", str(given.out), "--scratch", str(scratch)]
    command += ["--smoke"] if given.smoke else []
    command += ["--recipe", given.recipe] if given.recipe else []
    command += ["--data-dir", given.data_dir] if given.data_dir else []
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"} if part in ALONE else {}),
        )
        try:
            code: int | None = process.wait(limit + GRACE)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # The whole session: a part that crashed must not leave a run on the device.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found = read_json(path)
    found["seconds"] = time.monotonic() - began
    if code is None:
        found["status"] = "killed at its time limit"
    elif code:
        found["status"] = f"failed (exit code {code})"
    else:
        found["status"] = "stopped at its time limit" if "left_out" in found else "done"
    if code != 0:
        found["log"] = log.read_text(errors="replace")[-4000:]
    write_json(path, found)
    print(f"{part}: {found['status']} after {found['seconds']:.0f} s", flush=True)


def pack(scratch: Path, archive: Path) -> None:
    """Logs, profile and files of the last part, in one archive; the profile only if it fits."""
    for with_profile in (True, False):
        with tarfile.open(archive, "w:gz") as tar:
            for path in sorted(scratch.glob("*.log")):
                tar.add(path, path.name)
            for folder in ("keep", *(["profile"] if with_profile else [])):
                if (scratch / folder).exists():
                    tar.add(scratch / folder, folder)
        if archive.stat().st_size <= LARGEST_ARCHIVE:
            return


if __name__ == "__main__":
    sys.exit(main())
