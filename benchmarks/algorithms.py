"""Compares variants of the outer step: accuracy against outer steps and against seconds.

    python benchmarks/algorithms.py --out runs/algorithms --cells fashion_mnist_1 cifar10_1 \\
        --data fashion_mnist=PATH --data cifar10=PATH --variants frepo_1e-2 ce_1e-2 --seeds 0 1 2 \\
        --figure docs/algorithms.png

A cell is a data set and a number of images per class. Each variant, cell and seed is one shortened
run in a folder of its own under `--out`; a finished run is not repeated. The accuracy is the
held-out one, so a choice made here has not seen the test images.

Runs share the machine with other programs, so their times are not compared. Instead, after the
runs, outer steps of the variants of a cell are timed in one process, in turns, on random pixels;
the fastest step counts, which other programs disturbed least. Variants that differ in numbers alone
(`NUMBERS`) are one program and timed once. Seconds in the figure are outer steps times this cost:
without compilation, probes and input. Costs are kept in `--out/costs.json` with the runs.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from frepo_scale.config import RECIPES, load_recipe
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.jobs.plan_options import GivenSizes
from frepo_scale.jobs.subject import sizes_of_data, subject_of
from frepo_scale.parallel.mesh import single_device_mesh

SHORT = {
    "WIDTH": 16,
    "BATCH": 256,
    "STEPS": 600,
    "PROBE_NETS": 3,
    "PROBE_STEPS": 500,
    "EVAL_LEARNING_RATE": "1e-3",
    "EVAL_NETS": 1,
    "EVAL_STEPS": 1,
    "CHANCE_PROBES": 0,
}
PROBE_EVERY = {1: 200, 10: 300}  # by images per class; a probe of more images takes longer
_CE = {"OUTER_LOSS": "cross_entropy"}
_LOW, _BEST = {"LEARNING_RATE": "3e-3"}, {"LEARNING_RATE": "1e-2"}
_ABSOLUTE = {"RIDGE_SCALE": "absolute", "RIDGE": "5e-4"}
_FOUR = {"ONLINE_STEPS": 4, "DRAW_ONLINE_STEPS": False}
_ONE = {"ONLINE_STEPS": 1, "DRAW_ONLINE_STEPS": False, "ONLINE_LEARNING_RATE": "3e-4"}
_SOLVES = {"ALGORITHM_ARGS": "{'inner_steps':4,'implicit_steps':4}"}
_NO_SOLVES = {"ALGORITHM_ARGS": "{'inner_steps':0}"}
_LAMB = {"OPTIMISER": "lamb", "SCHEDULE": "cosine", "AVERAGE": 0.0}

# Settings on top of the cell's recipe; those of "rcig" are on top of its *_rcig.gin.
VARIANTS: dict[str, dict[str, Any]] = {
    **{
        f"frepo_{rate}": {"LEARNING_RATE": rate}
        for rate in ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2")
    },
    **{f"ce_{rate}": _CE | {"LEARNING_RATE": rate} for rate in ("3e-3", "1e-2", "3e-2")},
    # one factor from FRePo at 3e-3
    "adabelief": _LOW | {"OPTIMISER": "adabelief"},
    "average": _LOW | {"AVERAGE": 0.99},
    "no_norm": _LOW | {"NORM": "none"},
    "absolute": _LOW | _ABSOLUTE,
    # one factor from cross-entropy at 1e-2
    "ce_average": _CE | _BEST | {"AVERAGE": 0.99},
    "ce_margin": _CE | _BEST | {"LABEL_MARGIN": 0.5},
    "ce_constant": _CE | _BEST | {"SCHEDULE": "constant"},
    "ce_augment": _CE | _BEST | {"OUTER_AUGMENT": True},
    "ce_online": _CE | _BEST | {"ONLINE_STEPS": 2, "DRAW_ONLINE_STEPS": False},
    "ce_young": _CE | _BEST | {"POOL_AGES": "zero"},
    "ce_rcig": _CE | _BEST | _ABSOLUTE | _SOLVES | {"ALGORITHM": "rcig"},
    # from RCIG back
    "8a": _NO_SOLVES | _FOUR,
    "8a_one": _NO_SOLVES | _ONE,
    "rcig": _SOLVES | _FOUR,
    "rcig_one": _SOLVES | _ONE,
    "rcig_lamb": _SOLVES | _ONE | _LAMB | _BEST,
}
ON_RCIG = ("8a", "8a_one", "rcig", "rcig_one", "rcig_lamb")
# Settings that change numbers and not the operations of a step.
NUMBERS = ("LEARNING_RATE", "LABEL_MARGIN", "SCHEDULE", "POOL_AGES")
_TURNS, _STEPS_PER_TURN = 7, 5


def overrides(cell: str, variant: str) -> tuple[str, dict[str, str]]:
    """The recipe of a cell and variant, and its settings by macro."""
    ipc = int(cell.rpartition("_")[2])
    recipe = f"{cell.rpartition('_')[0]}_ipc{ipc}" + ("_rcig" if variant in ON_RCIG else "")
    given = SHORT | {"PROBE_EVERY": PROBE_EVERY[ipc]} | VARIANTS[variant]
    return recipe, {name: str(value) for name, value in given.items()}


def program(cell: str, variant: str) -> str:
    """The same text for variants whose outer steps have the same operations."""
    recipe, given = overrides(cell, variant)
    return json.dumps(
        [recipe, {k: v for k, v in given.items() if k not in NUMBERS}], sort_keys=True
    )


def run(cell: str, variant: str, seed: int, workdir: Path, data: dict[str, str]) -> None:
    """One run of the program, unless `workdir` holds a finished one."""
    recipe, given = overrides(cell, variant)
    given |= {"SEED": str(seed), "DATA_DIR": data[cell.rpartition("_")[0]]}
    command = [sys.executable, "-m", "frepo_scale.main", "distill", recipe, f"--workdir={workdir}"]
    command += [f"--gin.{name}={value}" for name, value in given.items()]
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_name(workdir.name + ".log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}, see {log.name}")


def curve(workdir: Path) -> dict[int, float]:
    """Held-out accuracy in percent by outer step; empty for a run that has not ended."""
    if not (workdir / "DONE").exists():
        return {}
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: 100 * row["probe_accuracy"] for row in rows if "probe_accuracy" in row}


class Turns:
    """Outer steps of one variant on random pixels."""

    def __init__(self, cell: str, variant: str) -> None:
        """Compiles the step and runs it once."""
        recipe, given = overrides(cell, variant)
        config = load_recipe(RECIPES / f"{recipe}.gin", given).config
        shape, classes = sizes_of_data(config, GivenSizes())
        algorithm = subject_of(recipe, config, shape, classes).build(single_device_mesh())
        rng = np.random.default_rng(0)
        size = algorithm.problem.size
        images = rng.normal(size=(size, *shape)).astype(np.float32)
        labels = np.repeat(np.eye(classes, dtype=np.float32), size // classes, axis=0)
        self._state = initial_train_state(algorithm, DistilledSet(images, labels))
        self._step = make_train_step(algorithm, self._state)
        target = rng.normal(size=(algorithm.batch_size, *shape)).astype(np.float32)
        self._batch = Batch(target, rng.integers(0, classes, algorithm.batch_size).astype(np.int32))
        self.seconds()

    def seconds(self) -> float:
        """Seconds of the fastest of a few outer steps."""
        found = []
        for _ in range(_STEPS_PER_TURN):
            began = time.perf_counter()
            self._state, metrics = self._step(self._state, self._batch)
            jax.block_until_ready((self._state, metrics))
            found.append(time.perf_counter() - began)
        return min(found)


def costs(cell: str, variants: Sequence[str]) -> dict[str, float]:
    """Seconds of an outer step by variant, timed in turns."""
    programs = {name: program(cell, name) for name in variants}
    first = {key: name for name, key in reversed(programs.items())}
    timed = {key: Turns(cell, name) for key, name in first.items()}
    seconds = dict.fromkeys(timed, float("inf"))
    for _ in range(_TURNS):
        for key, turns in timed.items():
            seconds[key] = min(seconds[key], turns.seconds())
    return {name: seconds[key] for name, key in programs.items()}


def table(cell: str, curves: dict[str, list[dict[int, float]]], cost: dict[str, float]) -> str:
    """Markdown: held-out accuracy in percent by outer step, mean ± std over the seeds."""
    steps = sorted({step for found in curves.values() for one in found for step in one})
    lines = [
        f"| {cell} | seeds | " + " | ".join(map(str, steps)) + " | cost of a step |",
        "|---" * (len(steps) + 3) + "|",
    ]
    first = cost[next(iter(curves))]
    for name, found in curves.items():
        cells = []
        for step in steps:
            values = [one[step] for one in found if step in one]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "")
        cells.append(f"{cost[name] / first:.2f}")
        lines.append(f"| `{name}` | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (seconds, accuracy) that no other beats in both, by seconds."""
    front: list[tuple[float, float]] = []
    for seconds, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((seconds, accuracy))
    return front


def draw(
    cells: dict[str, dict[str, list[dict[int, float]]]],
    cost: dict[str, dict[str, float]],
    path: Path,
) -> None:
    """One panel per cell: mean accuracy against seconds of outer steps, with the Pareto front.

    The front is that of the variants with the most seeds in the cell, which are drawn wider: a mean
    of few seeds can be above it by luck.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    columns = 2 if len(cells) > 1 else 1
    rows = -(-len(cells) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(7 * columns, 4.2 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(cells) :]:
        axes.remove()
    for axes, (cell, curves) in zip(grid.flat, cells.items(), strict=False):
        points: list[tuple[float, float]] = []
        most = max(map(len, curves.values()))
        for number, (name, found) in enumerate(curves.items()):
            steps = sorted(set.intersection(*[set(one) for one in found]) - {0})
            seconds = [step * cost[cell][name] for step in steps]
            means = [float(np.mean([one[step] for one in found])) for step in steps]
            line = ("-", "--", ":")[number // 10 % 3]  # there are ten colours
            wide = len(found) == most
            label, width = f"{name} ({len(found)})", 2 if wide else 0.8
            axes.plot(seconds, means, line, marker="o", markersize=3, linewidth=width, label=label)
            if wide:
                points += zip(seconds, means, strict=True)
        front = pareto(points)
        axes.step(*zip(*front, strict=True), where="post", color="0.6", linewidth=4, zorder=0)
        axes.set(xscale="log", title=cell, xlabel="seconds of outer steps")
        axes.xaxis.set_minor_locator(ticker.LogLocator(subs=(2, 3, 5, 7)))
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which("{x:g}")
        axes.tick_params(axis="x", which="both", labelsize=7)
        axes.set_ylabel("held-out accuracy, %")
        axes.legend(title="(seeds)", fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs what is missing, times the steps, prints a table per cell and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", nargs="+", required=True, metavar="DATASET_IPC")
    parser.add_argument("--variants", nargs="+", required=True, choices=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", action="append", default=[], metavar="DATASET=PATH")
    parser.add_argument("--no-runs", action="store_true", help="use the finished runs only")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    data = dict(item.split("=", 1) for item in args.data)
    kept = args.out / "costs.json"
    cost = json.loads(kept.read_text()) if kept.exists() else {}
    cells = {}
    for cell in args.cells:
        curves = {}
        for variant in args.variants:
            workdirs = [args.out / f"{cell}_{variant}_{seed}" for seed in args.seeds]
            for seed, workdir in zip(args.seeds, workdirs, strict=True):
                if not (args.no_runs or curve(workdir)):
                    run(cell, variant, seed, workdir, data)
            curves[variant] = [found for found in map(curve, workdirs) if found]
        curves = {name: found for name, found in curves.items() if found}
        if not curves:
            sys.exit(f"{args.out} has no finished run of {cell}")
        if not set(curves) <= set(cost.get(cell, {})):
            cost[cell] = costs(cell, list(curves))
            kept.write_text(json.dumps(cost, indent=1))
        cells[cell] = curves
        print(table(cell, curves, cost[cell]) + "\n", flush=True)
    if args.figure:
        draw(cells, cost, args.figure)


if __name__ == "__main__":
    main()
