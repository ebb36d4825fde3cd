"""`frepo-scale plan`: a recipe on hardware that need not be here. No data are read."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import default_settings, scientific_settings, settings_sha256
from frepo_scale.distill.registry import build_algorithm
from frepo_scale.jobs.ahead import check_workdir, keeper
from frepo_scale.jobs.machine import memory_line, plan_here
from frepo_scale.jobs.net_files import with_fingerprints
from frepo_scale.jobs.plan_options import GivenSizes, PlanOptions, check, device_counts
from frepo_scale.jobs.run import build_run, problem_of
from frepo_scale.jobs.series_runs import runs_of
from frepo_scale.jobs.settings import Recipe, RunConfig, SeriesConfig
from frepo_scale.jobs.subject import sizes_of_data, varied, with_settings
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.determinism import make_deterministic
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import build_mesh, platform_of
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.runtime import is_first
from frepo_scale.plan import report
from frepo_scale.plan.cache import Compiled, compiled_step
from frepo_scale.plan.check import Check, factors, line, read_check
from frepo_scale.plan.compile import compile_outer_step, lower_outer_step
from frepo_scale.plan.compilers import find_compiler, install_command, one_at_a_time
from frepo_scale.plan.hardware import Hardware, parse_hardware
from frepo_scale.plan.memory import Memory
from frepo_scale.plan.overview import overview
from frepo_scale.plan.plan import Plan, best_mesh, make_plan
from frepo_scale.plan.search import Candidate, order, search, smallest_change
from frepo_scale.plan.subject import Subject
from frepo_scale.plan.topology import devices_of

_SHOWN = 12  # lines of a table
_COMPILED_AT_MOST = 3  # candidates of a search
_MACHINE = ("MESH_POOL", "MESH_DATA", "CHUNK")


def plan(recipe: Recipe, options: PlanOptions) -> None:
    """Prints plans of a recipe.

    Raises:
      InputError: the recipe, the hardware or an option is wrong.
    """
    check(options)
    # Plans are made for other devices; those of this machine may be in use.
    jax.config.update("jax_platforms", "cpu")
    config, notes = recipe.config, []
    if options.compile is not None:
        check_workdir(options.compile, config)
        if config.mesh.deterministic:
            make_deterministic(None)  # as `distill` does; XLA reads its flags once
    if config.series.by is not None:
        runs = runs_of(config)
        notes = [f"a series of {len(runs)} runs: the numbers are those of one of them"]
        config = replace(config, data=runs[0].data, series=SeriesConfig())
    shape, classes = sizes_of_data(config, options.given)
    hardware = _hardware(options)
    vary = varied(recipe.name, config, shape, classes)
    with pinned(), matmul_precision(recipe.config.distill.matmul_precision):
        # All of them before the first is printed: an error is then the only output.
        planners = [
            _Planner(config, options, vary, machine, shape, classes, notes) for machine in hardware
        ]
        if options.measured is not None:
            check_results = read_check(options.measured)
            for planner in planners:
                planner.compare(check_results)
        figure = None
        if options.scale is not None:
            figure = _scale(recipe.name, vary, hardware[0], options)
    if options.json:
        print(json.dumps([planner.result() for planner in planners], indent=1))
        return
    print("\n\n".join(planner.text() for planner in planners))
    if figure is not None:
        print(f"\nscaling drawn: {figure}")


def _hardware(options: PlanOptions) -> list[Hardware]:
    """The machines; their compilers are made importable before JAX looks for plugins."""
    known = {name: parse_hardware(name) for name in options.on if name != "cpu"}
    platforms = set() if options.quick else {one.chip.platform for one in known.values()}
    for platform in sorted(platforms):
        if find_compiler(platform) and platform == "gpu":
            # XLA reads its flags once. Without a GPU no kernels can be timed.
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
    if "cpu" in options.on:
        from frepo_scale.plan.cpu import this_cpu

        known["cpu"] = this_cpu()
    return [known[name] for name in options.on]


class _Planner:
    """The plan of a recipe on one hardware."""

    def __init__(
        self,
        config: RunConfig,
        options: PlanOptions,
        vary: Callable[[Mapping[str, Any]], Subject],
        hardware: Hardware,
        shape: tuple[int, int, int],
        classes: int,
        notes: Sequence[str],
    ) -> None:
        self._config, self._options, self._vary = config, options, vary
        self._hardware, self._shape, self._classes = hardware, shape, classes
        self._notes = list(notes)
        self._compiled: Compiled | None = None
        self._candidates: list[Candidate] = []
        self._factors: dict[str, float] = {}
        self._measured = self._rates()
        if options.best:
            self.plan = self._best()
        else:
            self.plan = self._with_compiler(self._of_recipe(), {})
        self._change = None if self.plan.fits else smallest_change(vary, self.plan)

    def compare(self, measured: Check) -> None:
        """Adds how far predictions are off where they were measured."""
        self._factors = factors(measured, self._hardware.chip)
        self._notes.append(line(measured, self._factors, self.plan))

    def result(self) -> dict[str, Any]:
        """The plan, and the candidates of a search, for programs."""
        found = report.as_json(self.plan, self._options.price)
        if self._compiled is not None:
            found["collectives"] = [one._asdict() for one in self._compiled.collectives]
        if self._candidates:
            found["candidates"] = [
                one.settings
                | {"bytes": one.plan.memory.total, "seconds": one.plan.seconds}
                | {"fits": one.plan.fits}
                for one in self._candidates
            ]
        notes = {"change": self._change, "notes": self._notes}
        return found | notes | {"measured_by_predicted": self._factors}

    def text(self) -> str:
        """The plan for people."""
        parts = list(self._notes)
        if self._candidates:
            parts += [report.table(self._candidates, _SHOWN, sys.stdout.isatty()), ""]
        found = self._compiled.collectives if self._compiled is not None else []
        of_plan = report.text(self.plan, self._options.price, self._change, found)
        return "\n".join([*parts, of_plan])

    def _rates(self) -> dict[str, float] | None:
        if self._hardware.chip.platform != "cpu":
            return None
        from frepo_scale.plan.cpu import measured_rates

        return measured_rates(self._vary({}).problem, self._shape)

    def _of_recipe(self) -> Plan:
        """The plan with the mesh that a run would have; if it would have none, the fastest one."""
        subject, devices = self._vary({}), self._hardware.devices
        pool, data = subject.mesh
        given = {"MESH_POOL", "MESH_DATA"} & set(self._options.overrides)
        try:
            if devices % pool or (data or devices // pool) * pool != devices:
                raise InputError(
                    f"MESH_POOL = {pool}, MESH_DATA = {data} on {self._hardware.name}",
                    f"sizes whose product is its {devices} devices",
                    "leave them out: the fastest mesh is planned",
                )
            return make_plan(subject, self._hardware, pool, devices // pool, self._measured)
        except InputError as error:
            if given:
                raise
            found = best_mesh(subject, self._hardware, self._measured)
            self._notes.append(
                f"{error.what}: planned with --gin.MESH_POOL={found.pool}"
                f" --gin.MESH_DATA={found.data}"
            )
            return found

    def _best(self) -> Plan:
        self._candidates = search(
            self._vary,
            self._hardware,
            self._options.may_change,
            self._options.overrides,
            self._measured,
        )
        if not self._candidates:
            best_mesh(self._vary({}), self._hardware)  # raises: there is no mesh
        tried = 0
        for number, candidate in enumerate(self._candidates[:_COMPILED_AT_MOST]):
            if self._options.quick or not candidate.plan.fits:
                break
            found = self._with_compiler(candidate.plan, candidate.settings)
            self._candidates[number] = candidate._replace(plan=found)
            tried += self._compiled is not None
            if found.fits:
                break
        self._candidates.sort(key=order)  # what the compiler refused goes to the end
        chosen = self._candidates[0]
        self._notes.append(
            f"{len(self._candidates)} plans, sorted by the time of one member; {tried} compiled"
        )
        if self._options.write is not None:
            self._write(self._options.write, chosen)
        return chosen.plan

    def _write(self, path: Path, chosen: Candidate) -> None:
        """The machine's part of the settings, and what `--may-change` allowed beside it."""
        if not chosen.plan.fits:
            raise InputError(
                f"--write {path}: no plan fits on {self._hardware.name}", "more or larger devices"
            )
        names = [*_MACHINE, *self._options.may_change]
        settings = {name: chosen.settings[name] for name in names if name in chosen.settings}
        size = chosen.plan.memory.total / 1e9
        lines = [
            f"# {self._hardware.name}: {self._hardware.devices} x {self._hardware.chip.title},"
            f" planned for {chosen.plan.subject.recipe}; {size:.1f} GB of each device.",
            *(f"{name} = {value!r}" for name, value in settings.items()),
        ]
        with whole_file(path) as file:
            file.write(("\n".join(lines) + "\n").encode())
        self._notes.append(f"written: {path}")

    def _with_compiler(self, found: Plan, settings: Mapping[str, Any]) -> Plan:
        """The plan with the memory that the compiler reports, where there is a compiler."""
        platform = self._hardware.chip.platform
        if self._options.quick:
            return found
        if not find_compiler(platform):
            if self._options.compile is not None:
                raise InputError(
                    f"--compile for {self._hardware.name}: no compiler for {platform.upper()}s",
                    "the compiler to be installed",
                    install_command(platform),
                )
            note = f"no compiler for {platform.upper()}s: estimated; {install_command(platform)}"
            if note not in self._notes:
                self._notes.append(note)
            return found
        settings = {**settings, "MESH_POOL": found.pool, "MESH_DATA": found.data}
        config = with_settings(self._config, settings)
        with one_at_a_time(platform, _say):
            mesh, root = build_mesh(config.mesh, devices_of(self._hardware)), self._options.compile
            problem = problem_of(config, mesh, self._classes, self._shape)
            lowered = lower_outer_step(
                build_algorithm(config.algorithm, problem), self._shape, self._classes
            )
            name, keep = self._hardware.name, None
            if root is not None:
                keep = keeper(root, name, lowered, mesh, self._notes.append)
            self._compiled = compiled_step(lowered, name, found.pool, found.data, _say, keep)
        if self._options.compile is not None and self._compiled.cost is None:
            raise InputError(
                f"--compile for {self._hardware.name}: an outer step of"
                f" {self._vary({}).recipe} does not fit",
                "a step that fits",
                "see frepo-scale plan without --compile for a change that does",
            )
        return found._replace(memory=_compiled_memory(found, self._compiled))


def _compiled_memory(found: Plan, compiled: Compiled) -> Memory:
    cost, batch = compiled.cost, found.memory.batch
    if cost is None:  # refused: at least more than there is
        total = max(compiled.needed, found.hardware.chip.memory + 1)
        return Memory(found.memory.state, batch, total - found.memory.state - batch, {}, True)
    return Memory(cost.arguments - batch, batch, cost.temporary, {}, True)


def _say(line: str) -> None:
    print(f"frepo-scale: {line}", file=sys.stderr, flush=True)


def _scale(
    name: str,
    vary: Callable[[Mapping[str, Any]], Subject],
    hardware: Hardware,
    options: PlanOptions,
) -> Path:
    """Draws the figure; returns its path."""
    from frepo_scale.plan.scaling import draw, strong, weak

    counts = device_counts(options.scale or "")
    path = options.png or Path(f"{name}_{hardware.chip.name}_scaling.png")
    found = {
        "strong scaling: the recipe": strong(vary({}), hardware, counts),
        "weak scaling: members grow": weak(vary, hardware, counts),
    }
    shown = {title: plans for title, plans in found.items() if plans}
    if not shown:
        raise InputError(
            f"--scale {options.scale}: no mesh of so many devices suits {name}",
            "numbers of devices that MEMBERS and BATCH divide over",
        )
    draw(path, f"{name} on {hardware.chip.title}", shown)
    return path


def dry_run(recipe: Recipe, root: Path) -> None:
    """Builds everything, prints the settings and what they need; trains and writes nothing.

    Raises:
      InputError: the recipe, a setting, the data or the devices are wrong.
    """
    recipe = with_fingerprints(recipe)
    settings, workdir = scientific_settings(recipe.config), Workdir(root)
    workdir.check_identity(settings, default_settings(recipe.config))
    with pinned(), matmul_precision(recipe.config.distill.matmul_precision):
        run = build_run(recipe)
        needs, here = memory_line(run), plan_here(run)
    if is_first():
        print(recipe.operative)
        print(overview(run.algorithm, run.dataset))
        if needs:
            print(needs)
        if here is not None:
            print(f"\n{report.text(here)}\n")
        elif platform_of(run.mesh) == "cpu":
            print(f"time and memory of a step: frepo-scale plan {recipe.name} --on cpu")
        print(
            f"config_sha256 {settings_sha256(settings)}; workdir {workdir.root}; dry run: nothing"
            " was trained."
        )


def compile_recipe(config: RunConfig, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The compiled outer step of a recipe on these devices.

    Raises:
      InputError: the devices do not suit the recipe, or its data set has no fixed shape.
    """
    shape, classes = sizes_of_data(config, GivenSizes())
    problem = problem_of(config, build_mesh(config.mesh, devices), classes, shape)
    algorithm = build_algorithm(config.algorithm, problem)
    with pinned(), matmul_precision(config.distill.matmul_precision):
        return compile_outer_step(algorithm, shape, classes)
