"""Plans as text for people and as JSON for programs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from frepo_scale.plan.collectives import Collective
from frepo_scale.plan.plan import CORE_RECORDS, Plan
from frepo_scale.plan.search import Candidate, advice

_UNFITTING = 4  # lines of a table for candidates that do not fit, at least
_GREY, _PLAIN = "\033[90m", "\033[0m"


def text(
    plan: Plan,
    price: float | None = None,
    change: Mapping[str, Any] | None = None,
    collectives: Sequence[Collective] = (),
) -> str:
    """The report of one plan.

    Args:
      plan: the plan.
      price: of one device for one hour; None: no money is printed.
      change: settings that would make it fit.
      collectives: of the compiled step.
    """
    hardware = plan.hardware
    where = f"{hardware.devices} x {hardware.chip.title}"
    if hardware.hosts > 1:
        where += f" in {hardware.hosts} hosts"
    lines = [
        f"{plan.subject.recipe} on {hardware.name}: {where}",
        f"  mesh pool {plan.pool} x data {plan.data}, MEMBERS = {plan.members},"
        f" POOL_SIZE = {plan.pool_size}, CHUNK = {plan.chunk}, {plan.dtype}",
        "",
        *_memory(plan, change),
        "",
        *_phases(plan),
        *_collectives(collectives),
        "",
        *_time(plan, price),
        *_input(plan),
    ]
    return "\n".join(lines)


def _gb(size: float) -> str:
    return f"{size / 1e9:9.2f}"


def _memory(plan: Plan, change: Mapping[str, Any] | None) -> list[str]:
    memory = plan.memory
    source = "reported by the compiler" if memory.compiled else "estimated from shapes"
    largest = max(memory.parts, key=lambda name: memory.parts[name]) if memory.parts else ""
    lines = [
        f"memory of a device, GB, {source}:",
        f"  state      {_gb(memory.state)}",
        f"  batch      {_gb(memory.batch)}",
        f"  temporary  {_gb(memory.temporary)}{f'  ({largest})' if largest else ''}",
        *([f"  code       {_gb(memory.code)}"] if memory.compiled else []),
        f"  total      {_gb(memory.total)}  {_verdict(plan, plan.step_excess)}",
        f"  evaluation {_gb(plan.evaluation)}  {_verdict(plan, plan.evaluation_excess)}"
        f"{' (estimated)' if memory.compiled else ''}",
    ]
    if not plan.fits:
        if not memory.compiled or plan.evaluation_excess > 0:
            lines.append("  an estimate keeps a tenth of the memory free")
        other = "more devices" if plan.step_excess > 0 else "devices with more memory"
        found = advice(change) if change else f"none was found; use {other}"
        lines.append(f"  a change that would fit, by the estimate: {found}")
    lines += _beside(plan)
    return lines


def _beside(plan: Plan) -> list[str]:
    beside, host = plan.beside, plan.host
    lines = []
    if plan.input.placement == "device":
        lines.append(f"  a device also holds {beside.images / 1e9:.2f} GB of real images")
    if beside.save:
        lines += [
            "  a save copies the state on the devices too, because the distilled images do",
            f"  not divide over them: {beside.save / 1e9:.2f} GB more, between steps",
        ]
    known = "" if plan.subject.images is not None else "  (their number is not known)"
    return [
        *lines,
        "memory of a host, GB:",
        f"  images     {_gb(host.images)}{known}",
        f"  batches    {_gb(host.batches)}  (read ahead)",
        f"  save       {_gb(host.save)}  (what it writes of a checkpoint of"
        f" {beside.checkpoint / 1e9:.2f} GB)",
        f"  total      {_gb(host.total)}",
    ]


def _verdict(plan: Plan, excess: float) -> str:
    """Whether it fits, or by how much not."""
    fits = "fits" if excess <= 0 else _missing(excess)
    return f"of {plan.hardware.chip.memory / 1e9:.1f} GB: {fits}"


def _missing(excess: float) -> str:
    return f"does not fit, by {excess / 1e9:.2f} GB"


def _reason(plan: Plan) -> str:
    """Why a plan does not fit: its steps, or else its evaluations."""
    if plan.step_excess > 0:
        return _missing(plan.step_excess)
    return f"evaluation: {plan.evaluation_excess / 1e9:.2f} GB more"


def _phases(plan: Plan) -> list[str]:
    lines = [
        "an outer step on one device:",
        f"  {'phase':26} {'TFLOP':>9} {'GB moved':>9} {'ms':>9}  limited by",
    ]
    for phase, time in zip(plan.phases, plan.times, strict=True):
        seconds = time.seconds if time.measured is None else time.measured
        lines.append(
            f"  {phase.name:26} {phase.operations / 1e12:9.4f} {phase.bytes / 1e9:9.3f}"
            f" {1e3 * seconds:9.2f}  {time.bound}"
        )
    sent = 1e3 * sum(time.communication for time in plan.times)
    lines.append(f"  {'of this, communication':26} {'':9} {'':9} {sent:9.2f}")
    return lines


def _collectives(found: Sequence[Collective]) -> list[str]:
    counts = Counter((one.kind, one.axis) for one in found)
    sizes: Counter[tuple[str, str]] = Counter()
    for one in found:
        sizes[one.kind, one.axis] += one.bytes
    if not counts:
        return []
    return [
        "collectives of the compiled step, those inside loops once:",
        *(
            f"  {count:4} {kind:20} over {axis:6} {sizes[kind, axis] / 1e6:10.2f} MB"
            for (kind, axis), count in sorted(counts.items())
        ),
    ]


def _time(plan: Plan, price: float | None) -> list[str]:
    if not math.isfinite(plan.seconds):
        unknown = "the algorithm does not state its operations"
        if math.isinf(plan.seconds):
            unknown = "the chip does not have the precision of the regression"
        return [f"time: not known: {unknown}"]
    spread = f"{1e3 * plan.ideal_seconds:.2f} ms at peak rates"
    if plan.seconds != plan.ideal_seconds:
        spread += f", {1e3 * plan.seconds:.2f} ms at the rates measured here"
    else:
        spread += "; a real one takes longer"
    lines = [
        f"an outer step: {spread}",
        f"  {1 / plan.seconds:.2f} steps/s; {duration(plan.hours)} for {plan.subject.steps} steps;"
        f" {hours(plan.device_hours)} device-hours",
        "  without probes and evaluations",
    ]
    if price is not None:
        lines.append(f"  {price * plan.device_hours:.2f} at {price:g} for one device and one hour")
    if plan.iterations is not None:
        ridge = plan.subject.problem.ridge
        reason = "by the bound of conjugate gradients at this ridge"
        if ridge.scale == "absolute" and ridge.ridge > 0:
            reason = "whose number is not known for an absolute ridge"
        lines += [
            f"  assumed: {plan.iterations} iterations in each solve of the regression in float32,",
            f"  {reason}",
        ]
    return lines


def duration(number: float) -> str:
    """A number of hours in the largest unit of which it is at least one, else in seconds."""
    if number >= 1:
        return f"{number:.1f} h"
    return f"{60 * number:.1f} min" if 60 * number >= 1 else f"{3600 * number:.1f} s"


def hours(number: float) -> str:
    """A number of hours with one decimal place, or two digits where that would be 0."""
    return f"{number:.1f}" if number >= 1 or not number else f"{number:.2g}"


def _input(plan: Plan) -> list[str]:
    found = plan.input
    if not math.isfinite(found.records):
        return []
    size = "" if found.set_bytes is None else f"; {found.set_bytes / 1e9:.2f} GB of uint8 images"
    lines = [f"input: {found.records:.0f} images/s for each process, from {found.placement}{size}"]
    if found.cores is not None:
        lines += [
            f"  reading them takes {found.cores:.2f} cores of each host",
            f"  (measured: {CORE_RECORDS} records of 64 px per second and core)",
        ]
    return lines


def table(candidates: Sequence[Candidate], shown: int, colour: bool) -> str:
    """The best candidates of a search, and some that do not fit, with the reason.

    Args:
      candidates: sorted.
      shown: lines at most of those that fit; of those that do not, what is left of them, or a few.
      colour: whether the terminal shows colours: what does not fit is grey.
    """
    widths = {
        name: max(len(name), *(len(str(one.settings[name])) for one in candidates))
        for name in candidates[0].settings
    }
    head = " ".join(name.rjust(width) for name, width in widths.items())
    columns = "GB".rjust(8) + "ms/step".rjust(10) + "hours".rjust(10) + "device-hours".rjust(13)
    lines = [f"{head} {columns}"]
    fitting = [one for one in candidates if one.plan.fits]
    others = [one for one in candidates if not one.plan.fits]
    room = max(shown - len(fitting), _UNFITTING)
    for part, most, what in ((fitting, shown, "fit"), (others, room, "do not fit")):
        for one in part[:most]:
            line = _row(one, widths)
            lines.append(line if one.plan.fits or not colour else f"{_GREY}{line}{_PLAIN}")
        if len(part) > most:
            lines.append(f"... and {len(part) - most} more that {what}")
    return "\n".join(lines)


def _row(one: Candidate, widths: Mapping[str, int]) -> str:
    plan = one.plan
    line = " ".join(str(one.settings[name]).rjust(width) for name, width in widths.items())
    known = math.isfinite(plan.seconds)
    time = f"{1e3 * plan.seconds:.2f}" if known else "not known"
    line += f" {plan.memory.total / 1e9:8.2f} {time:>9}"
    if not plan.fits:  # in the place of the hours, so that lines stay within a terminal
        line += f" {_reason(plan):>22}"
    elif known:
        line += f" {hours(plan.hours):>9} {hours(plan.device_hours):>12}"
    return line


def candidates_as_json(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The candidates of a search for programs: settings, bytes and seconds of a step; by how many
    bytes steps and evaluations exceed the memory, 0 where they fit."""
    return [
        one.settings
        | {"bytes": one.plan.memory.total, "seconds": _number(one.plan.seconds)}
        | {"hours": _number(one.plan.hours)}
        | _fit(one.plan)
        for one in candidates
    ]


def _fit(plan: Plan) -> dict[str, Any]:
    return {
        "fits": plan.fits,
        "excess": max(0.0, plan.step_excess),
        "evaluation_excess": max(0.0, plan.evaluation_excess),
    }


def as_json(plan: Plan, price: float | None = None) -> dict[str, Any]:
    """A plan for programs; bytes, seconds and operations. Unknown numbers are None."""
    memory, hardware = plan.memory, plan.hardware
    return {
        "recipe": plan.subject.recipe,
        "on": hardware.name,
        "chip": hardware.chip.title,
        "devices": hardware.devices,
        "hosts": hardware.hosts,
        "settings": {
            "MESH_POOL": plan.pool,
            "MESH_DATA": plan.data,
            "CHUNK": plan.chunk,
            "FEATURE_DTYPE": plan.dtype,
            "MEMBERS": plan.members,
            "POOL_SIZE": plan.pool_size,
        },
        "memory": {
            "state": memory.state,
            "batch": memory.batch,
            "temporary": memory.temporary,
            "code": memory.code,
            "total": memory.total,
            "device": hardware.chip.memory,
            "compiled": memory.compiled,
            **_fit(plan),
            **plan.beside._asdict(),
            "host": plan.host._asdict() | {"total": plan.host.total},
        },
        "phases": [
            {
                "name": phase.name,
                "algorithm_operations": _number(phase.counted),
                "operations": _number(phase.operations),
                "bytes": phase.bytes,
                "precision": phase.precision,
                "seconds": _number(time.seconds),
                "communication_seconds": time.communication,
                "measured_seconds": time.measured,
            }
            for phase, time in zip(plan.phases, plan.times, strict=True)
        ],
        "seconds": {"ideal": _number(plan.ideal_seconds), "expected": _number(plan.seconds)},
        "steps": plan.subject.steps,
        "hours": _number(plan.hours),
        "device_hours": _number(plan.device_hours),
        "price": None if price is None else _number(price * plan.device_hours),
        "input": {name: _number(x) for name, x in plan.input._asdict().items()},
        "solver_iterations": plan.iterations,
    }


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
