"""`plan --best`: all meshes, chunks and dtypes that a recipe allows, sorted by predicted time.

Mesh and chunk change the result by rounding at most. The dtype of the nets, the members of a step
and the size of the pool change the algorithm: they are only searched where the user names them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from frepo_scale.core.errors import InputError
from frepo_scale.plan.hardware import Hardware
from frepo_scale.plan.plan import Plan, best_mesh, make_plan, meshes
from frepo_scale.plan.subject import Subject, abstract_mesh

EVALUATION_BATCH = "Evaluation.batch"
CHUNKS = (64, 128, 256, 512, 1024, 2048)
_MESH = ("MESH_POOL", "MESH_DATA")
_DTYPES = ("float32", "bfloat16")
_MEMBERS = (1, 2, 4, 8, 16, 32)
# What the advice of `smallest_change` may name, beside settings that change rounding at most.
_EFFECTS = {
    "the algorithm": ("MEMBERS", "POOL_SIZE", "FEATURE_DTYPE", "NET_DTYPE"),
    "evaluations": (EVALUATION_BATCH,),
}
_POOL_OF_MEMBERS = (1, 2, 4, 10)  # the pool, in units of the members


class Candidate(NamedTuple):
    """One result of a search.

    Attributes:
      plan: the plan.
      settings: what differs from the recipe, by macro.
      own_chunk: the chunk of the recipe.
      own_strata: its POOL_SIZE / MEMBERS.
    """

    plan: Plan
    settings: dict[str, Any]
    own_chunk: int
    own_strata: int


def search(
    vary: Callable[[Mapping[str, Any]], Subject],
    hardware: Hardware,
    may_change: Sequence[str],
    fixed: Sequence[str] = (),
    measured: Mapping[str, float] | None = None,
) -> list[Candidate]:
    """All candidates: those that fit first, each part sorted by time.

    Args:
      vary: settings by macro to the recipe with them; raises InputError where they do not fit
        together, such as a pool that its files do not divide: those are left out.
      hardware: the devices.
      may_change: settings that change the algorithm and may be searched: MEMBERS, POOL_SIZE,
        FEATURE_DTYPE, NET_DTYPE.
      fixed: settings the user has given, which are not searched.
      measured: rates of phases.

    Raises:
      InputError: nothing may change, or no mesh of these devices suits the recipe and the sizes
        that are fixed.
    """
    own = vary({}).problem
    own_chunk, own_strata = own.config.chunk, own.pool.size // own.pool.members
    values = _values(own_chunk, may_change, fixed)
    if not values and not may_change and len(_allowed(vary({}), hardware, fixed)) <= 1:
        raise InputError(
            f"--best on {hardware.name}: nothing of this recipe may change",
            "a mesh, a chunk or a setting to choose",
            "leave --gin.CHUNK out, or name settings: --may-change MEMBERS,POOL_SIZE",
        )
    found: list[Candidate] = []
    seen: set[tuple[Any, ...]] = set()
    for sizes in _sizes(vary({}), may_change, "STEPS" in fixed):
        for chosen in product(*values.values()):
            settings = sizes | dict(zip(values, chosen, strict=True))
            subject = _varied(vary, settings)
            if subject is None:
                continue
            others = tuple(item for item in settings.items() if item[0] != "CHUNK")
            for pool, data in _allowed(subject, hardware, fixed):
                plan = make_plan(subject, hardware, pool, data, measured)
                key = (pool, data, others, round(plan.memory.total))
                if key not in seen:  # else a preferred chunk comes to the same
                    seen.add(key)
                    mesh = {"MESH_POOL": pool, "MESH_DATA": data}
                    found.append(Candidate(plan, mesh | settings, own_chunk, own_strata))
    if not found:
        best_mesh(vary({}), hardware, measured)  # raises where there is none at all
        given = " and ".join(f"--gin.{name}" for name in _MESH if name in fixed)
        raise InputError(
            f"--best on {hardware.name}: no mesh of its {hardware.devices} devices has {given} as"
            " given",
            "sizes that the members and the batch divide over",
            f"leave {given} out",
        )
    return sorted(found, key=order)


def _values(
    own_chunk: int, may_change: Sequence[str], fixed: Sequence[str]
) -> dict[str, Sequence[Any]]:
    """What is searched beside mesh, members and pool: values by macro, the preferred ones first."""
    values: dict[str, Sequence[Any]] = {
        "CHUNK": sorted({own_chunk, *CHUNKS}, key=lambda chunk: preferred(chunk, own_chunk))
    }
    dtypes = {name: _DTYPES for name in ("FEATURE_DTYPE", "NET_DTYPE")}
    values |= {name: found for name, found in dtypes.items() if name in may_change}
    return {name: found for name, found in values.items() if name not in fixed}


def _varied(
    vary: Callable[[Mapping[str, Any]], Subject], settings: Mapping[str, Any]
) -> Subject | None:
    """The recipe with other settings; None where they do not fit together."""
    try:
        subject = vary(settings)
        subject.build(abstract_mesh(1, 1))  # checks the pool
    except InputError:
        return None
    return subject


def order(one: Candidate) -> tuple[bool, float, int, tuple[bool, int]]:
    """What fits first, then by the hours of the run. Of equal ones what is nearest to the recipe:
    the strata of the pool, which cost no time, then the chunk."""
    plan = one.plan
    strata = abs(plan.pool_size // plan.members - one.own_strata)
    return not plan.fits, plan.hours, strata, preferred(plan.chunk, one.own_chunk)


def preferred(chunk: int, own: int) -> tuple[bool, int]:
    """A key that sorts chunks: the recipe's own, then smaller ones, the largest first.

    Predicted times do not depend on the chunk, so a larger one than the recipe's has no known
    advantage and needs more memory.
    """
    return chunk > own, -chunk


def _allowed(subject: Subject, hardware: Hardware, fixed: Sequence[str]) -> list[tuple[int, int]]:
    found = meshes(subject, hardware.devices)
    pool, data = subject.mesh
    if "MESH_POOL" in fixed:
        found = [mesh for mesh in found if mesh[0] == pool]
    if "MESH_DATA" in fixed and data:
        found = [mesh for mesh in found if mesh[1] == data]
    return found


def _sizes(subject: Subject, may_change: Sequence[str], fixed_steps: bool) -> list[dict[str, int]]:
    """Members and pools; without leave to change them those of the recipe.

    With other members the steps are as many as the same number of member steps needs, unless the
    user has given them.
    """
    pool = subject.problem.pool
    members = [pool.members]
    if "MEMBERS" in may_change:
        members = sorted({*_MEMBERS, *members})
    found = []
    for count in members:
        sizes = [pool.size] if pool.size % count == 0 else []
        if "POOL_SIZE" in may_change:
            sizes = sorted({*sizes, *(count * factor for factor in _POOL_OF_MEMBERS)})
        for size in sizes:
            settings = {"MEMBERS": count, "POOL_SIZE": size}
            settings = {name: settings[name] for name in settings if name in may_change}
            if "MEMBERS" in may_change and not fixed_steps:
                settings["STEPS"] = -(-subject.steps * pool.members // count)
            found.append(settings)
    return found


def smallest_change(
    vary: Callable[[Mapping[str, Any]], Subject], plan: Plan
) -> dict[str, Any] | None:
    """The first change that makes a plan fit, by macro or binding; None if none of them does.

    In this order: a smaller chunk, another mesh, bfloat16, both, a smaller pool, the largest first;
    each also with a smaller batch of evaluations, where those do not fit. Where a compiler reported
    more temporary memory than was estimated, estimates of changes are raised by the same factor.
    """
    estimated = make_plan(plan.subject, plan.hardware, plan.pool, plan.data).memory.temporary
    more = max(0.0, plan.memory.temporary / estimated - 1) if estimated else 0.0
    for settings in _changes(vary, plan):
        found = _changed(vary, plan, settings) if settings else plan
        if found is None:
            continue
        if found.step_excess + (more * found.memory.temporary if settings else 0.0) > 0:
            continue
        if found.evaluation_excess <= 0:
            return settings
        batch = found.subject.evaluation_batch
        for times in range(1, batch.bit_length()):
            smaller = {**settings, EVALUATION_BATCH: batch >> times}
            found = _changed(vary, plan, smaller)
            if found is not None and found.evaluation_excess <= 0:
                return smaller
    return None


def _changes(vary: Callable[[Mapping[str, Any]], Subject], plan: Plan) -> Iterator[dict[str, Any]]:
    """What `smallest_change` tries; nothing at first, where the steps fit. No larger chunk."""
    if plan.step_excess <= 0:
        yield {}
    smallest = {"CHUNK": CHUNKS[0]} if CHUNKS[0] < plan.chunk else {}
    half = {"FEATURE_DTYPE": "bfloat16", "NET_DTYPE": "bfloat16"}
    strata = plan.pool_size // plan.members
    halves = {strata >> times for times in range(1, strata.bit_length())}
    yield from ({"CHUNK": x} for x in reversed(CHUNKS) if x < plan.chunk)
    for more in ({}, smallest):
        for pool, data in meshes(vary({}), plan.hardware.devices):
            yield {"MESH_POOL": pool, "MESH_DATA": data, **more}
    yield half
    yield half | smallest
    for factor in sorted((f for f in halves | {1, 2, 3, 4, 5} if f < strata), reverse=True):
        yield {"POOL_SIZE": factor * plan.members}
        yield {"POOL_SIZE": factor * plan.members, **smallest}


def _changed(
    vary: Callable[[Mapping[str, Any]], Subject], plan: Plan, settings: Mapping[str, Any]
) -> Plan | None:
    """A plan with other settings, from shapes; None where they do not fit together."""
    subject = _varied(vary, settings)
    if subject is None:
        return None
    pool, data = (settings.get(name) for name in _MESH)
    return make_plan(subject, plan.hardware, pool or plan.pool, data or plan.data)


def advice(settings: Mapping[str, Any]) -> str:
    """Settings as they are typed after a command, and what else they change than rounding."""
    found = effects(settings)
    note = f" (changes {' and '.join(found)})" if found else ""
    return f"{as_flags(settings)}{note}"


def effects(settings: Mapping[str, Any]) -> list[str]:
    """What settings change beside rounding: "the algorithm", "evaluations"."""
    return [what for what, names in _EFFECTS.items() if settings.keys() & set(names)]


def as_flags(settings: Mapping[str, Any]) -> str:
    """Settings as they are typed after a command."""
    return " ".join(f"--gin.{name}={value}" for name, value in settings.items())
