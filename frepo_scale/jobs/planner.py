"""The plan of a recipe on one hardware: searched, compiled and written as `plan` is asked to."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.distill.registry import build_algorithm
from frepo_scale.jobs.ahead import flags_to_load, keeper
from frepo_scale.jobs.host_memory import available
from frepo_scale.jobs.plan_options import MACHINE, WRITTEN, PlanOptions
from frepo_scale.jobs.run import problem_of
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.jobs.subject import with_settings
from frepo_scale.parallel.mesh import build_mesh
from frepo_scale.plan import report
from frepo_scale.plan.cache import Compiled, compiled_step
from frepo_scale.plan.check import Check, factors, line
from frepo_scale.plan.compile import lower_outer_step
from frepo_scale.plan.compilers import find_compiler, hold_compiler, install_command
from frepo_scale.plan.hardware import Hardware, parse_hardware
from frepo_scale.plan.memory import Memory
from frepo_scale.plan.plan import Plan, best_mesh, make_plan
from frepo_scale.plan.search import Candidate, effects, order, search, smallest_change
from frepo_scale.plan.subject import Subject
from frepo_scale.plan.topology import devices_of

_SHOWN = 12  # lines of a table
_COMPILED_AT_MOST = 3  # candidates of a search


def machines(options: PlanOptions) -> list[Hardware]:
    """The hardware of a plan; its compilers are made importable before JAX looks for plugins."""
    known = {name: parse_hardware(name) for name in options.on if name != "cpu"}
    platforms = set() if options.quick else {one.chip.platform for one in known.values()}
    for platform in sorted(platforms):
        if find_compiler(platform) and platform == "gpu":
            # XLA reads its flags once. Without a GPU no kernels can be timed.
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
    if "cpu" in options.on:
        from frepo_scale.plan.cpu import this_cpu

        here = this_cpu()
        # As `distill` counts: without what others use, and with the limit of a container.
        room = available() or here.chip.memory
        known["cpu"] = replace(here, chip=replace(here.chip, memory=min(room, here.chip.memory)))
    return [known[name] for name in options.on]


class Planner:
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
        self._scaling: dict[str, Any] = {}
        self._chosen: dict[str, Any] = {}  # settings of the best plan
        if options.best:
            self.plan = self._best()
        else:
            self.plan = self._with_compiler(self._of_recipe(), {})
        self._change = None if self.plan.fits else smallest_change(vary, self.plan)

    def compare(self, measured: Check) -> None:
        """Adds how far predictions are off where they were measured."""
        self._factors = factors(measured, self._hardware.chip)
        self._notes.append(line(measured, self._factors, self.plan))

    def add_scaling(self, found: dict[str, Any]) -> None:
        """Adds the numbers of `--scale` to the result, and the path of its figure to the notes."""
        self._scaling = found
        self.note(f"scaling drawn: {found['figure']}")

    def note(self, line: str) -> None:
        """Adds a line to what is printed."""
        self._notes.append(line)

    def result(self) -> dict[str, Any]:
        """The plan, and the candidates of a search, for programs."""
        found = report.as_json(self.plan, self._options.price)
        if self._compiled is not None:
            found["collectives"] = [one._asdict() for one in self._compiled.collectives]
        if self._candidates:
            found["candidates"] = report.candidates_as_json(self._candidates)
        if self._scaling:
            found["scaling"] = self._scaling
        change = {"change": self._change, "change_effects": effects(self._change or {})}
        return found | change | {"notes": self._notes} | {"measured_by_predicted": self._factors}

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
        tried: list[tuple[Plan, Compiled]] = []
        for number, candidate in enumerate(self._candidates[:_COMPILED_AT_MOST]):
            if self._options.quick or not candidate.plan.fits:
                break
            found = self._with_compiler(candidate.plan, candidate.settings)
            self._candidates[number] = candidate._replace(plan=found)
            if self._compiled is not None:
                tried.append((found, self._compiled))
            if found.fits:
                break
        self._candidates.sort(key=order)  # what the compiler refused goes to the end
        chosen = self._candidates[0]
        self._compiled = next((said for plan, said in tried if plan is chosen.plan), None)
        self._notes.append(
            f"{len(self._candidates)} plans, sorted by the hours of the run; {len(tried)} compiled"
        )
        if "STEPS" in chosen.settings:
            self._notes.append("STEPS: for as many steps of members as the recipe has")
        if self._options.write is not None and not chosen.plan.fits:
            raise InputError(
                f"--write {self._options.write}: no plan fits on {self._hardware.name}",
                "more or larger devices",
            )
        self._chosen = chosen.settings
        return chosen.plan

    def write(self, path: Path) -> None:
        """Writes the machine's part of the settings, and what `--may-change` allowed beside it.

        Raises:
          InputError: it cannot be written.
        """
        plan, hardware = self.plan, self._hardware
        settings = dict(zip(MACHINE, (plan.pool, plan.data, plan.chunk), strict=True))
        names = (*self._options.may_change, "STEPS")
        settings |= {name: self._chosen[name] for name in names if name in self._chosen}
        given = [f"--gin.{name}" for name in self._options.overrides if name not in settings]
        of_recipe = " ".join([plan.subject.recipe, *given])
        size = plan.memory.total / 1e9
        lines = [
            f"# {hardware.name}: {hardware.devices} x {hardware.chip.title}{WRITTEN}{of_recipe};"
            f" {size:.1f} GB of each device.",
            *(f"{name} = {value!r}" for name, value in settings.items()),
        ]
        with whole_file(path) as file:
            file.write(("\n".join(lines) + "\n").encode())
        self.note(f"written: {path}")
        if given:
            self.note(f"not in that file: {', '.join(given)}; give distill the same")

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
        hold_compiler(platform, _say)
        mesh, root = build_mesh(config.mesh, devices_of(self._hardware)), self._options.compile
        problem = problem_of(config, mesh, self._classes, self._shape)
        lowered = lower_outer_step(
            build_algorithm(config.algorithm, problem), self._shape, self._classes
        )
        name, keep = self._hardware.name, None
        if root is not None:
            command = self._command(root, found, config)
            keep = keeper(root, name, lowered, mesh, self._notes.append, command)
        self._compiled = compiled_step(lowered, name, found.pool, found.data, _say, keep)
        if self._options.compile is not None and self._compiled.cost is None:
            raise InputError(
                f"--compile for {self._hardware.name}: an outer step of"
                f" {self._vary({}).recipe} does not fit",
                "a step that fits",
                "see frepo-scale plan without --compile for a change that does",
            )
        return found._replace(memory=_compiled_memory(found, self._compiled))

    def _command(self, root: Path, found: Plan, config: RunConfig) -> str:
        """The command that runs the step that `--compile` leaves in a workdir."""
        subject, platform = found.subject, self._hardware.chip.platform
        more = flags_to_load(subject, config.loop, found.input.placement, platform)
        if more:
            self._notes.append(
                "distill would keep the images on the devices and run another program there than"
                f" the one that is kept; it runs this one with{more}"
            )
        return f"frepo-scale distill {subject.recipe} --workdir {root}{more}"


def _compiled_memory(found: Plan, compiled: Compiled) -> Memory:
    cost, batch = compiled.cost, found.memory.batch
    if cost is None:  # refused: at least more than there is
        total = max(compiled.needed, found.hardware.chip.memory + 1)
        return Memory(found.memory.state, batch, total - found.memory.state - batch, {}, True)
    return Memory(cost.arguments - batch, batch, cost.temporary, {}, True, cost.code)


def _say(line: str) -> None:
    print(f"frepo-scale: {line}", file=sys.stderr, flush=True)
