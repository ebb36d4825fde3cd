"""Part 4, fast: time, share of the bfloat16 rate and memory of the outer step, and of each phase.

All steps are compiled first, side by side on the processor's cores, then timed one after the other;
then the phases of one shape after the other, in the same way. Each time is compared with the
prediction of `gpu_parts.roofline`. A phase is timed as a separate program, so their sum is not
exactly the step: inside the step the compiler may fuse across phases. The overhead of the host is
the difference between a step that is waited for and one of many queued ones. The smallest shape is
also run with several steps per call on an uploaded set, as runs do (STEPS_PER_CALL).

The share counts the operations of the algorithm from the shapes, so that what is computed again to
save memory is not rewarded. "memory" is what the compiler reserves (arguments, results and
temporaries); "process_peak" is the device's own count, of everything this process has done so far.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gpu_parts import roofline
from gpu_parts.report import Report, read_json
from gpu_parts.several_steps import compiled_steps, repeated_steps
from gpu_parts.step_case import (
    DTYPES,
    PHASES,
    SAME_IN_EVERY_DTYPE,
    SHAPES,
    SMOKE_SHAPES,
    Phase,
    Shape,
    compiled_step,
    phases,
    repeated,
    repeated_phase,
    state_and_batch,
    step_flops,
)
from gpu_parts.timing import measure

COMPILING = 0.55  # largest share of the time for compiling the steps
COMPILERS = 10  # programs compiled side by side
TOGETHER = 50  # steps per call
PROFILED = ("CIFAR-10 IPC 10 bfloat16", "smoke bfloat16")
PROFILED_STEPS = 5


def run(report: Report) -> None:
    """Steps of all shapes, then their phases."""
    smoke = report.options.smoke
    shapes = SMOKE_SHAPES if smoke else SHAPES
    facts = read_json(report.options.out / "facts.json")
    device = jax.devices()[0].device_kind
    rates = roofline.rates_of(facts, device)
    report.put(
        device=device,
        bfloat16_rate=facts.get("rates", {}).get("bfloat16"),
        predicted_with=rates[1] if rates else None,
        # `frepo-scale plan --measured` predicts the same steps from these.
        shapes={shape.name: dataclasses.asdict(shape) for shape in shapes},
        steps={},
        phases={},
    )
    # Never closed: that would wait for compilations that were given up. The process ends instead.
    compilers = ThreadPoolExecutor(COMPILERS)
    jobs = {
        f"{shape.name} {dtype}": compilers.submit(compiled_step, shape, dtype)
        for shape in shapes
        for dtype in DTYPES
    }
    several = f"{shapes[0].name} {DTYPES[-1]}, {TOGETHER} steps per call"
    jobs[several] = compilers.submit(compiled_steps, shapes[0], DTYPES[-1], TOGETHER)
    started = {shape: compilers.submit(state_and_batch, shape) for shape in shapes}
    ready = _compiled(jobs, COMPILING * report.left())
    report.put(compile_seconds=report.limit - report.left())
    for shape in shapes:
        time_steps(report, shape, started[shape], ready, rates)
    time_several(report, several, shapes[0], started[shapes[0]], ready)
    for shape in shapes:
        time_phases(report, shape, started[shape], compilers, rates)


def _compiled(jobs: Mapping[str, Future[Any]], seconds: float) -> dict[str, Any]:
    """Those programs that are compiled within the time; an exception stands for a failed one."""
    done, missing = wait(jobs.values(), timeout=max(0.0, seconds))
    for job in missing:
        job.cancel()
    return {name: job.exception() or job.result() for name, job in jobs.items() if job in done}


def time_steps(
    report: Report, shape: Shape, start: Future[Any], ready: Mapping[str, Any], rates: Any
) -> None:
    """Times the whole step of a shape in each dtype."""
    seconds = 0.2 if report.options.smoke else 2.0
    flops = step_flops(shape)
    for dtype in DTYPES:
        name = f"{shape.name} {dtype}"
        if name not in ready:
            report.has(float("inf"), f"step {name}: not compiled in time")
            continue
        if not report.has(3 * seconds, f"step {name}"):
            continue
        row: dict[str, Any] = {"operations": flops}
        if rates:
            row["predicted"] = roofline.predicted(shape, dtype, rates[0])["step"]
        try:
            if isinstance(ready[name], BaseException):
                raise ready[name]
            row |= _time_step(report, name, shape, start, ready[name], seconds)
        except Exception as error:  # out of memory in one shape must not stop the others
            row["error"] = " ".join(str(error).split())[:500]
        report.put(steps=report.found["steps"] | {name: row})


def _time_step(
    report: Report,
    name: str,
    shape: Shape,
    start: Future[Any],
    compiled: Any,
    seconds: float,
) -> dict[str, Any]:
    state, batch = start.result(timeout=max(0.0, report.left()))
    call = repeated(compiled, jax.tree.map(jnp.copy, state), batch)
    timing = measure(call, seconds)
    if name in PROFILED:
        report.put(profile=_profile(report.options.scratch / "profile", call))
    memory = compiled.memory_analysis()
    stats = jax.devices()[0].memory_stats() or {}
    rate = report.found["bfloat16_rate"]
    flops = step_flops(shape)
    return {
        "seconds": timing.queued,
        "steps_per_second": 1 / timing.queued,
        "spread": timing.spread,
        "dispatch_seconds": timing.dispatch,
        "host_gap_seconds": timing.waited - timing.queued,
        "operations_per_second": flops / timing.queued,
        "share_of_bfloat16_rate": flops / timing.queued / rate if rate else None,
        "memory_gib": (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )
        / 2**30,
        "process_peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
        "loss": float(call()),
    }


def time_several(
    report: Report, name: str, shape: Shape, start: Future[Any], ready: Mapping[str, Any]
) -> None:
    """Times several steps per call: seconds of a step, gathering and whitening included."""
    seconds = 0.2 if report.options.smoke else 2.0
    if name not in ready:
        report.has(float("inf"), f"{name}: not compiled in time")
        return
    if not report.has(3 * seconds, name):
        return
    try:
        if isinstance(ready[name], BaseException):
            raise ready[name]
        state, _ = start.result(timeout=max(0.0, report.left()))
        copy = jax.tree.map(jnp.copy, state)
        timing = measure(repeated_steps(ready[name], shape, copy, TOGETHER), seconds)
        row: dict[str, Any] = {
            "seconds": timing.queued / TOGETHER,
            "dispatch_seconds": timing.dispatch / TOGETHER,
            "spread": timing.spread,
        }
    except Exception as error:  # as above
        row = {"error": " ".join(str(error).split())[:500]}
    report.put(several={name: row})


def _profile(folder: Path, call: Callable[[], Any]) -> str:
    """A profile of a few steps for TensorBoard; an error's text if none can be taken."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with jax.profiler.trace(folder):
            for _ in range(PROFILED_STEPS):
                out = call()
            jax.block_until_ready(out)
    except Exception as error:  # a profiler that does not work on a machine is no reason to stop
        return f"none: {' '.join(str(error).split())[:300]}"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 2**20:.1f} MiB"


def time_phases(
    report: Report,
    shape: Shape,
    start: Future[Any],
    compilers: ThreadPoolExecutor,
    rates: Any,
) -> None:
    """Compiles the phases of a shape side by side and times each alone."""
    smoke = report.options.smoke
    if not report.has(1.0 if smoke else 20.0, f"phases of {shape.name}"):
        return
    try:
        state, batch = start.result(timeout=max(0.0, report.left()))
        cases = {
            (name, dtype): phase
            for dtype in DTYPES
            for name, phase in phases(shape, dtype, state, batch).items()
            if dtype == DTYPES[0] or name not in SAME_IN_EVERY_DTYPE
        }
        jobs = {
            f"{name} {dtype}": compilers.submit(_compile, phase)
            for (name, dtype), phase in cases.items()
        }
        ready = _compiled(jobs, 0.8 * report.left())
    except Exception as error:  # as above
        report.put(
            phases=report.found["phases"] | {shape.name: {"error": " ".join(str(error).split())}}
        )
        return
    found: dict[str, Any] = {}
    for (name, dtype), phase in cases.items():
        compiled = ready.get(f"{name} {dtype}")
        label = f"{name} {dtype}" if name not in SAME_IN_EVERY_DTYPE else name
        if compiled is None or not report.has(1.0, f"{label} of {shape.name}"):
            continue
        row: dict[str, Any] = {}
        try:
            if isinstance(compiled, BaseException):
                raise compiled
            call = repeated_phase(phase, compiled)
            row["seconds"] = measure(call, 0.1 if smoke else 1.0).queued
        except Exception as error:  # as above
            row["error"] = " ".join(str(error).split())[:500]
        if rates:
            row["predicted"] = roofline.predicted(shape, dtype, rates[0])[name]
        found[label] = row
        report.put(phases=report.found["phases"] | {shape.name: found | _sums(found)})


def _compile(phase: Phase) -> Any:
    return phase.function.lower(*phase.arguments).compile()


def _sums(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of the phases in each dtype in which all were timed."""
    found: dict[str, Any] = {}
    for dtype in DTYPES:
        labels = [n if n in SAME_IN_EVERY_DTYPE else f"{n} {dtype}" for n in PHASES]
        if all("seconds" in rows.get(label, {}) for label in labels):
            parts = [rows[label] for label in labels]
            sums = {"seconds": sum(part["seconds"] for part in parts)}
            if all("predicted" in part for part in parts):
                sums["predicted"] = sum(part["predicted"] for part in parts)
            found[f"sum {dtype}"] = sums
    return found
