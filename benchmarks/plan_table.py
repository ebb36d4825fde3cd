"""The table of docs/plan.md: every recipe on eight machines, estimated from shapes.

    python benchmarks/plan_table.py

Nothing is compiled. A cell has the mesh (pool x data), GB of a device, hours of the run at peak
rates and device-hours; "no" where it does not fit. A line of a series is one of its runs.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.jobs.plan_options import GivenSizes
from frepo_scale.jobs.series_runs import runs_of
from frepo_scale.jobs.settings import SeriesConfig
from frepo_scale.jobs.subject import sizes_of_data, subject_of
from frepo_scale.plan.hardware import parse_hardware
from frepo_scale.plan.plan import Plan, best_mesh, make_plan
from frepo_scale.plan.subject import Subject

MACHINES = (
    *("v5e:4x4", "v5e:16x16", "v4:4x4x4", "v5p:4x4x4"),
    *("h100:8", "h100:4x8", "h100:1", "a100:8"),
)


def read(path: Path) -> tuple[str, Subject]:
    """The name of a recipe for the table, and its subject; of a series that of its first run."""
    recipe = config.load_recipe(path, {})
    name, settings = recipe.name, recipe.config
    if settings.series.by is not None:
        runs = runs_of(settings)
        name = f"{name} (each of {len(runs)})"
        settings = replace(settings, data=runs[0].data, series=SeriesConfig())
    return name, subject_of(recipe.name, settings, *sizes_of_data(settings, GivenSizes()))


def planned(subject: Subject, machine: str) -> Plan:
    """With the recipe's mesh where it is for this number of devices, else with the fastest."""
    hardware = parse_hardware(machine)
    pool, data = subject.mesh
    if pool * data == hardware.devices:
        return make_plan(subject, hardware, pool, data)
    return best_mesh(subject, hardware)


def cell(subject: Subject, machine: str) -> str:
    """One cell of the table."""
    try:
        plan = planned(subject, machine)
    except InputError:
        return "no mesh"
    memory = f"{plan.memory.total / 1e9:.1f} GB"
    if plan.step_excess > 0:
        return f"no: {memory}"
    if not plan.fits:
        return f"no: {plan.evaluation / 1e9:.1f} GB in evaluations"
    return (
        f"{plan.pool} x {plan.data}, {memory}, {_hours(plan.hours)} h, {_hours(plan.device_hours)}"
    )


def _hours(value: float) -> str:
    """Three digits; nothing is known of steps that take less time than starting them."""
    return "< 0.01" if value < 0.01 else f"{float(f'{value:.3g}'):g}"


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"| recipe | {' | '.join(MACHINES)} |")
    print("|---" * (1 + len(MACHINES)) + "|")
    for path in sorted(config.RECIPES.glob("*.gin")):
        name, subject = read(path)
        cells = (cell(subject, machine) for machine in MACHINES)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
