"""Runs a recipe once per setting and tabulates the probes, to choose a ridge or a learning rate.

    python benchmarks/sweep.py fashion_mnist_ipc10.gin --out /tmp/ridges \\
        --vary RIDGE=1e-6,1e-3,1e-2 --vary SEED=0,1 -- --gin.WIDTH=8 --gin.STEPS=500

Probes are measured on the held-out part of the training images, so a choice made here has not seen
the test images. Each setting is one run of the program in a separate folder under `--out`; a
finished run is not repeated. Settings that differ in SEED alone are averaged.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

Setting = tuple[tuple[str, str], ...]
Curve = dict[int, float]


def settings(varied: list[str]) -> list[Setting]:
    """Every combination of `NAME=value,value` lists."""
    axes = []
    for item in varied:
        name, _, values = item.partition("=")
        axes.append([(name, value) for value in values.split(",")])
    return list(itertools.product(*axes))


def run(recipe: str, setting: Setting, workdir: Path, extra: list[str]) -> None:
    """One run, unless `workdir` holds a finished one."""
    command = [sys.executable, "-m", "frepo_scale.main", "distill", recipe, f"--workdir={workdir}"]
    command += [f"--gin.{name}={value}" for name, value in setting] + extra
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_suffix(".log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}, see {log.name}")


def read(workdir: Path) -> tuple[Curve, float]:
    """Held-out accuracy by outer step, and the share of logged steps with a raised ridge."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    curve = {row["step"]: row["probe_accuracy"] for row in rows if "probe_accuracy" in row}
    raised = [row["ridge_raised"] for row in rows if "ridge_raised" in row]
    return curve, float(np.mean(raised))


def table(runs: dict[Setting, list[tuple[Curve, float]]]) -> str:
    """Markdown: one row per setting, held-out accuracy in percent by outer step."""
    steps = sorted({step for found in runs.values() for curve, _ in found for step in curve})
    lines = [
        "| setting | " + " | ".join(f"{step}" for step in steps) + " | best | ridge raised |",
        "|---" * (len(steps) + 3) + "|",
    ]
    for setting, found in runs.items():
        mean = {
            step: 100 * float(np.mean([curve[step] for curve, _ in found if step in curve]))
            for step in steps
            if any(step in curve for curve, _ in found)
        }
        best = [100 * max(curve.values()) for curve, _ in found]
        cells = [f"{mean[step]:.1f}" if step in mean else "" for step in steps]
        cells += [f"{np.mean(best):.1f} ± {np.std(best):.1f}"]
        cells += [f"{np.mean([raised for _, raised in found]):.2f}"]
        name = ", ".join(f"{name} {value}" for name, value in setting)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vary", action="append", required=True, metavar="NAME=VALUE,...")
    given = [*sys.argv[1:], "--"]  # what follows -- goes to every run
    end = given.index("--")
    args, extra = parser.parse_args(given[:end]), given[end + 1 : -1]
    runs: dict[Setting, list[tuple[Curve, float]]] = defaultdict(list)
    for setting in settings(args.vary):
        workdir = args.out / "_".join(f"{name}-{value}" for name, value in setting)
        run(args.recipe, setting, workdir, extra)
        runs[tuple(item for item in setting if item[0] != "SEED")].append(read(workdir))
        print(f"{workdir.name}: done", file=sys.stderr, flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
