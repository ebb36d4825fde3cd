"""Memory of a device by the compiler against the estimate from shapes: `plan` with and without it.

    python benchmarks/plan_memory.py imagenet1k_ipc2 imagenet1k_ipc10 --on v5e:4x4 --on v4:4x4x4
    python benchmarks/plan_memory.py imagenet1k_ipc2 --on h100:8

One line for each recipe and machine: the mesh, bytes of state and batch, of temporaries, their sum
beside the estimate of `plan --quick`, and seconds of compilation. Each plan is a process of its
own. The compilers are those that `frepo-scale plan` uses; nothing is run on a device.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

HEAD = (
    "recipe",
    "on",
    "mesh",
    "arguments, GB",
    "temporary, GB",
    "total, GB",
    "estimate, GB",
    "estimate / total",
    "compile time, s",
)


def planned(recipe: str, machine: str, *more: str) -> dict[str, Any]:
    """The JSON of one plan."""
    command = [sys.executable, "-m", "frepo_scale.main", "plan", recipe, "--on", machine, "--json"]
    process = subprocess.run([*command, *more], stdout=subprocess.PIPE, check=False)
    if process.returncode:
        raise SystemExit(process.returncode)
    (found,) = json.loads(process.stdout)
    return dict(found)


def row(recipe: str, machine: str, more: list[str]) -> str:
    """One line of the table."""
    estimate = planned(recipe, machine, "--quick", *more)["memory"]
    began = time.perf_counter()
    found = planned(recipe, machine, *more)
    seconds = time.perf_counter() - began
    memory, settings = found["memory"], found["settings"]
    if not memory["compiled"]:
        raise SystemExit("; ".join(found["notes"]))
    cells = (
        recipe,
        machine,
        f"{settings['MESH_POOL']} x {settings['MESH_DATA']}",
        f"{(memory['state'] + memory['batch']) / 1e9:.2f}",
        f"{memory['temporary'] / 1e9:.2f}",
        f"{memory['total'] / 1e9:.2f}",
        f"{estimate['total'] / 1e9:.2f}",
        f"{estimate['total'] / memory['total']:.2f}",
        f"{seconds:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table. Unknown arguments, such as --gin.CHUNK=128, are given to `plan`."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("recipes", nargs="+", metavar="RECIPE")
    options.add_argument("--on", action="append", required=True, metavar="MACHINE")
    given, more = options.parse_known_args()
    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|", flush=True)
    for recipe in given.recipes:
        for machine in given.on:
            print(row(recipe, machine, more), flush=True)


if __name__ == "__main__":
    main()
