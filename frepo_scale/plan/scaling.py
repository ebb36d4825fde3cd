"""`plan --scale`: time per phase against the number of devices, as a PNG.

Strong scaling: the recipe as it is, on the fastest mesh of each number of devices. Weak scaling:
each device keeps its work. The mesh axis "data" stays as it is and "pool" grows with the members,
which is another algorithm at each number of devices.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.plan.hardware import Hardware, with_devices
from frepo_scale.plan.plan import Plan, best_mesh, make_plan, meshes
from frepo_scale.plan.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Phases that are drawn together, and colours that are readable on white.
GROUPS = {
    "features": (
        "whitening",
        "target features",
        "synthetic forward",
        "recomputation",
        "synthetic backward",
        "implicit gradient",
        "further operations",
        "outer step",
    ),
    "regression": (
        "Gram matrix",
        "factorisation and solves",
        "products with features",
        "implicit solves",
    ),
    "optimiser and online step": ("optimiser", "online step"),
}
COMMUNICATION = "communication"
_COLOURS = ("#4a8fe0", "#e08a2e", "#3fa877", "#9b9b9b")


def grouped(plan: Plan) -> dict[str, float]:
    """Seconds of the groups of phases, and of communication."""
    found = {name: 0.0 for name in (*GROUPS, COMMUNICATION)}
    for phase in plan.times:
        group = next(name for name, names in GROUPS.items() if phase.name in names)
        found[group] += max(phase.compute, phase.memory)
        found[COMMUNICATION] += phase.communication
    return found


def strong(subject: Subject, hardware: Hardware, counts: Sequence[int]) -> list[Plan]:
    """The fastest mesh of each number of devices that has one, without regard to memory."""
    found = []
    for count in counts:
        smaller = with_devices(hardware, count)
        if meshes(subject, count):
            found.append(best_mesh(subject, smaller))
    return found


def weak(
    vary: Callable[[Mapping[str, Any]], Subject], hardware: Hardware, counts: Sequence[int]
) -> list[Plan]:
    """The recipe with as many members as rows of a mesh whose axis "data" stays the same, up to the
    largest pool."""
    subject = vary({})
    pool, data = subject.problem.pool, max(1, subject.mesh[1])
    strata = max(1, pool.size // pool.members)
    found = []
    for count in counts:
        if count % data == 0:
            rows = count // data
            try:
                larger = vary({"MEMBERS": rows, "POOL_SIZE": rows * strata})
            except InputError:  # a larger pool than there may be
                break
            found.append(make_plan(larger, with_devices(hardware, count), rows, data))
    return found


def as_json(plan: Plan) -> dict[str, Any]:
    """A bar of the figure for programs, with seconds of its parts."""
    settings = {"MESH_POOL": plan.pool, "MESH_DATA": plan.data, "MEMBERS": plan.members}
    return {
        "devices": plan.hardware.devices,
        **settings,
        "fits": plan.fits,
        "seconds": grouped(plan),
    }


def draw(path: Path, title: str, found: Mapping[str, Sequence[Plan]]) -> None:
    """Writes the PNG.

    Args:
      path: the file.
      title: of the figure.
      found: plans by ascending number of devices, for each panel.

    Raises:
      InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(found), sharey=False, squeeze=False)[0]
    for axes, (name, plans) in zip(panels, found.items(), strict=True):
        _panel(axes, name, plans)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=130)


def _panel(axes: "Axes", name: str, plans: Sequence[Plan]) -> None:
    groups = [grouped(plan) for plan in plans]
    places = range(len(plans))
    base = [0.0] * len(plans)
    for colour, group in zip(_COLOURS, (*GROUPS, COMMUNICATION), strict=True):
        values = [1e3 * one[group] for one in groups]
        axes.bar(places, values, 0.75, bottom=base, color=colour, label=group)
        base = [low + value for low, value in zip(base, values, strict=True)]
    labels = [str(plan.hardware.devices) + ("" if plan.fits else "*") for plan in plans]
    axes.set_xticks(list(places), labels, fontsize=8)
    axes.set_xlabel("devices (*: does not fit)")
    axes.set_ylabel("ms per outer step, lower bound")
    axes.set_title(name, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
