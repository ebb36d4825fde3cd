"""Work, time and memory of a step from shapes, against numbers by hand."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.outer import OuterConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.rcig import RCIG
from frepo_scale.distill.state import train_state_shapes
from frepo_scale.models.convnet import ConvNet
from frepo_scale.plan import memory, plan, report, work
from frepo_scale.plan.hardware import parse_hardware
from frepo_scale.plan.net_facts import net_facts
from frepo_scale.plan.phase import Exchange, Phase
from frepo_scale.plan.plan import best_mesh, make_plan, meshes
from frepo_scale.plan.roofline import PhaseTime, measured_seconds, phase_times
from frepo_scale.plan.scaling import grouped
from frepo_scale.plan.search import search, smallest_change
from frepo_scale.plan.sizes import Sizes
from frepo_scale.plan.subject import Subject, state_bytes, state_of
from frepo_scale.regression.ridge import RidgeConfig

IMAGE, CLASSES, BATCH = (8, 8, 3), 2, 8
DIM = 4 * 4 * 4  # features: width 4, pooled to 4 x 4
H100 = parse_hardware("h100:1")


def subject(cls=FRePo, ipc=2, members=1, size=2, chunk=1024, dtype="float32", **ridge):
    def build(mesh):
        return cls(
            Problem(
                ConvNet(num_classes=CLASSES, width=4, depth=1),
                DistillConfig(ipc=ipc, chunk=chunk, feature_dtype=dtype),
                PoolConfig(size=size, members=members),
                RidgeConfig(**ridge),
                mesh,
                CLASSES * ipc,
                BATCH,
                OuterConfig(),
            )
        )

    return Subject("small", build, IMAGE, CLASSES, (1, 0), 1000, 500, False, False, "auto", 500)


def test_the_facts_of_a_net_by_hand():
    # Convolution 192 -> 256, pooling 256 -> 64, head 64 -> 2.
    found = net_facts(subject().problem, IMAGE)
    assert found.moved == (192 + 256) + (256 + 64) + (64 + 2)
    assert found.products == 256 + 2
    assert found.widest == 192 + 256
    assert found.parameters == 9 * 3 * 4 + 4 + 64 * 2 + 2


def test_a_step_by_hand_on_one_h100():
    plan = make_plan(subject(), H100, 1, 1)
    phases = {phase.name: phase for phase in plan.phases}
    times = {time.name: time for time in plan.times}
    moved = 834
    assert phases["target features"].bytes == 4 * BATCH * moved
    assert phases["synthetic backward"].bytes == 4 * 4 * (moved + 258)
    gram = phases["Gram matrix"]  # float64, 4 rows, dual
    assert (gram.operations, gram.precision) == (2 * 4 * DIM * 4, "float64")
    assert gram.bytes == 8 * (4 * DIM + 4 * 4)
    solves = phases["factorisation and solves"]
    assert solves.operations == pytest.approx(4**3 / 3 + 2 * 2 * 4**2 * CLASSES)
    products = phases["products with features"]
    assert products.operations == 2 * DIM * CLASSES * (2 * BATCH + 5 * 4)
    assert phases["optimiser"].bytes == 28 * 4 * (192 + CLASSES)
    # 8 * 272 bytes at 3.35 TB/s take longer than 2048 operations at 66.9 TFLOP/s.
    assert times["Gram matrix"].memory == pytest.approx(8 * 272 / 3.35e12)
    assert times["Gram matrix"].compute == pytest.approx(2048 / 66.9e12)
    assert times["Gram matrix"].seconds == times["Gram matrix"].memory
    assert times["Gram matrix"].bound == "memory"
    assert plan.seconds == pytest.approx(sum(time.seconds for time in plan.times))
    assert plan.hours == pytest.approx(1000 * plan.seconds / 3600)
    assert all(time.communication == 0 for time in plan.times)


def test_communication_by_hand():
    phase = Phase("p", 0, 1e12, "bfloat16", 1e9, (Exchange("all-gather", "data", 8e9),))
    (time,) = phase_times([phase], parse_hardware("h100:8"), 1, 8)
    assert time.communication == pytest.approx(7 / 8 * 8e9 / 4.5e11)
    assert time.seconds == pytest.approx(1e12 / 989.4e12 + time.communication)
    reduce = phase._replace(exchanges=(Exchange("all-reduce", "pool", 3e9),))
    (time,) = phase_times([reduce], parse_hardware("h100:4x8"), 4, 8)
    assert time.communication == pytest.approx(2 * 3 / 4 * 3e9 / 5e10)  # over the network
    (time,) = phase_times([phase], parse_hardware("h100:4x8"), 1, 32)
    assert time.communication == pytest.approx(31 / 32 * 8e9 / 4e11)  # over eight cards of a host
    (time,) = phase_times([reduce], H100, 1, 1)
    assert time.communication == 0


def test_measured_rates_replace_peak_rates():
    phase = Phase("p", 0, 1e12, "bfloat16", 1e9)
    (time,) = phase_times([phase], H100, 1, 1, {"p": 1e12})
    assert time.measured == 1.0
    unmeasured = PhaseTime("q", 2.0, 1.0, 0.5, None)
    assert measured_seconds([time, unmeasured]) == 3.5
    assert measured_seconds([unmeasured]) is None


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("cls", [FRePo, RCIG])
def test_the_phases_add_up_to_the_algorithms_own_count(cls, members):
    ridge = {"scale": "absolute"} if cls is RCIG else {}
    given = subject(cls, members=members, **ridge)
    plan = make_plan(given, H100, 1, 1)
    algorithm = cls(given.problem)
    total = algorithm.flops(IMAGE, CLASSES)
    assert sum(phase.counted for phase in plan.phases) == pytest.approx(total)
    assert ("implicit gradient" in [phase.name for phase in plan.phases]) == (cls is RCIG)


def test_the_implicit_gradient_by_hand():
    """40 iterations of both solves; two devices with 2 rows and 4 target images each."""
    given = subject(RCIG, scale="absolute")
    two = make_plan(given, parse_hardware("h100:2"), 1, 2)
    phases = {phase.name: phase for phase in two.phases}
    nets, solves = phases["implicit gradient"], phases["implicit solves"]
    flops = phases["target features"].operations / 4
    assert nets.operations == pytest.approx((5 * 2 * 42 + 5 * 4 + 13 * 2) * flops)
    both_ways = 6 * 834 + 2 * 258
    assert nets.bytes == 4 * ((2 * 42 + 4) * both_ways + 2 * (13 * 834 + 9 * 258))
    body = 9 * 3 * 4 + 4 + 2  # convolution, and the bias of the head
    assert nets.exchanges == (Exchange("all-reduce", "data", 4.0 * body),) * 43
    # In float64, dual: two triangular solves with 4 unknowns, one product with the features.
    assert (solves.counted, solves.precision) == (0, "float64")
    assert solves.operations == 44 * (2 * 4**2 * CLASSES + 2 * 2 * DIM * CLASSES)
    assert solves.bytes == 44 * 8 * (2 * 4**2 + 2 * DIM)
    each = (Exchange("all-gather", "data", 8 * 4 * 2), Exchange("all-reduce", "data", 8 * DIM * 2))
    assert solves.exchanges == each * 44
    # In float32 each solve has 3 iterations with two products; one block of 256 unknowns.
    tpu = make_plan(given, parse_hardware("v5e:1x1"), 1, 1)
    solves = {phase.name: phase for phase in tpu.phases}["implicit solves"]
    of_one = 3 * 4 * 256**2 * CLASSES + 6 * 2 * 4 * DIM * CLASSES
    assert (solves.operations, solves.precision) == (44 * of_one, "highest")
    assert len(solves.exchanges) == 44 * 3 * 2
    assert sum(grouped(two).values()) == pytest.approx(two.ideal_seconds)


def test_an_algorithm_whose_phases_are_not_known(monkeypatch):
    class Nothing:
        pass

    for module in (memory, plan, work):
        monkeypatch.setattr(module, "FRePo", Nothing)
    found = make_plan(subject(), H100, 1, 1)
    assert [phase.name for phase in found.phases] == ["outer step"]
    assert found.phases[0].operations == subject().build(subject().problem.mesh).flops(
        IMAGE, CLASSES
    )
    assert found.memory.state > 0 and found.fits


def test_float32_regressions_iterate_and_blocked_ones_cost_more():
    on_tpu = make_plan(subject(), parse_hardware("v5e:1x1"), 1, 1)
    phases = {phase.name: phase for phase in on_tpu.phases}
    assert on_tpu.iterations >= 3
    assert phases["Gram matrix"].precision == "highest"
    # One block of 256 unknowns, zeros multiplied too, and solves in every iteration.
    solves = 2 * on_tpu.iterations * 4 * 256**2 * CLASSES
    assert phases["factorisation and solves"].operations == pytest.approx(4 * 256**3 + solves)
    assert make_plan(subject(), H100, 1, 1).iterations is None


@pytest.mark.parametrize(
    ("form", "devices", "unknowns", "stored", "block"),
    [
        ("dual", 1, 10_240, 10_240, 256),
        ("dual", 4, 10_240, 2560, 256),
        ("dual", 64, 10_240, 256, 256),  # 40 block rows: 24 devices have none
        ("dual", 256, 10_240, 256, 256),
        ("primal", 64, 16_384, 256, 256),
        ("primal", 256, 16_384, 64, 64),
    ],
)
def test_a_spread_regression_by_hand(form, devices, unknowns, stored, block):
    """10 000 rows of 16 384 features, 2 classes."""
    sizes = Sizes(
        *(devices, 1, 1, 4, 1, 10_000 // devices, 10_000, 1, 16_384, 2, form == "dual"),
        *(unknowns, stored, block, devices, False, 3),
    )
    counted = {
        name: 0.0 for name in ("Gram matrix", "factorisation and solves", "products with features")
    }
    gram, solves, _ = work._regression(sizes, counted)
    rows = 10_000 // devices
    every = stored * devices
    if form == "dual":
        assert gram.operations == 2 * stored * 16_384 * unknowns
    else:
        assert gram.operations == 2 * rows * every * 16_384
        assert every == 16_384  # nothing is padded
        assert gram.exchanges[0].bytes == 4 * 16_384**2
    factor = 2 * stored * unknowns**2 + 2 * unknowns**2 * block
    assert solves.operations == factor + 6 * 4 * stored * unknowns * 2
    assert memory._regression(sizes) > 3 * 4 * stored * unknowns


def test_more_devices_have_less_work_in_a_spread_regression_and_less_memory():
    given = subject(ipc=2500, form="dual")
    works, totals = [], []
    for slice_name in ("1x1", "2x2", "2x4"):
        hardware = parse_hardware(f"v5e:{slice_name}")
        plan = make_plan(given, hardware, 1, hardware.devices)
        phases = {phase.name: phase.operations for phase in plan.phases}
        works.append(phases["Gram matrix"] + phases["factorisation and solves"])
        totals.append(plan.memory.total)
    for found in (works, totals):
        assert found == sorted(found, reverse=True) and found[0] > found[-1]


def test_a_precision_that_a_chip_has_not_takes_forever():
    plan = make_plan(subject(precision="float64"), parse_hardware("v5e:1x1"), 1, 1)
    assert math.isinf(plan.seconds)
    assert "time: not known" in report.text(plan)
    assert report.as_json(plan)["hours"] is None


def test_more_devices_never_need_more_memory_of_each():
    given = subject(ipc=64)
    totals = []
    for devices in (1, 2, 4, 8):
        plan = make_plan(given, parse_hardware(f"h100:{devices}"), 1, devices)
        totals.append(plan.memory.total)
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]


def test_memory_follows_the_chunk_and_the_state_is_exact():
    small, large = (
        make_plan(subject(ipc=500, chunk=chunk), H100, 1, 1).memory for chunk in (8, 1000)
    )
    assert small.parts["synthetic backward"] < large.parts["synthetic backward"]
    assert small.state == large.state
    given = subject()
    algorithm = given.build(given.problem.mesh)
    leaves = jax.tree.leaves(state_of(given, algorithm))
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert state_bytes(given, algorithm) == (whole, whole)


@pytest.mark.parametrize("cls", [FRePo, RCIG])
def test_shapes_of_a_state_are_those_of_a_run(cls):
    """Also where one member stands for the pool."""
    given = subject(cls, size=3, **({"scale": "absolute"} if cls is RCIG else {}))
    algorithm = given.build(given.problem.mesh)
    start = DistilledSet(
        jax.ShapeDtypeStruct((algorithm.rows, *IMAGE), np.float32),
        jax.ShapeDtypeStruct((algorithm.rows, CLASSES), np.float32),
    )
    found, real = state_of(given, algorithm), train_state_shapes(algorithm, start)
    assert jax.tree.structure(found) == jax.tree.structure(real)
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(real), strict=True))
    assert [x.shape for x, _ in pairs] == [x.shape for _, x in pairs]
    assert [x.dtype for x, _ in pairs] == [x.dtype for _, x in pairs]
    assert sum(x.shape[:1] == (3,) for x, _ in pairs) > 10


def test_meshes_divide_members_and_batch():
    assert meshes(subject(members=2), 8) == [(1, 8), (2, 4)]
    assert meshes(subject(), 16) == []
    with pytest.raises(InputError) as caught:
        best_mesh(subject(), parse_hardware("h100:2x8"))
    assert "BATCH = 8" in caught.value.what


def varying(**fixed):
    names = {"CHUNK": "chunk", "MEMBERS": "members", "POOL_SIZE": "size", "FEATURE_DTYPE": "dtype"}
    plain = subject(**fixed)  # none of these changes the state but by the pool, as in `varied`

    def vary(settings):
        known = {names[name]: value for name, value in settings.items() if name in names}
        found = subject(**(fixed | known))
        return replace(found, states=plain.states, sizes=plain.sizes)

    return vary


def test_a_search_puts_what_fits_first_and_sorts_by_time():
    found = search(varying(ipc=500, members=2, size=4), parse_hardware("h100:4"), ())
    assert {(one.settings["MESH_POOL"], one.settings["MESH_DATA"]) for one in found} == {
        (1, 4),
        (2, 2),
    }
    fitting = [one for one in found if one.plan.fits]
    seconds = [one.plan.seconds for one in fitting]
    assert seconds == sorted(seconds)
    assert found[: len(fitting)] == fitting
    assert all("MEMBERS" not in one.settings for one in found)
    more = search(varying(ipc=500), parse_hardware("h100:4"), ("MEMBERS", "POOL_SIZE"))
    assert {one.plan.members for one in more} > {1, 2}
    own = search(varying(members=3, size=6), H100, ("MEMBERS",))
    assert {one.plan.members for one in own} == {1, 2, 3}


def test_a_search_with_nothing_to_search_is_refused():
    with pytest.raises(InputError) as caught:
        search(varying(), H100, (), fixed=("CHUNK",))
    assert "--may-change" in caught.value.fix
    assert search(varying(), H100, ("FEATURE_DTYPE",), fixed=("CHUNK",))


def test_the_smallest_change_fits_when_it_is_made():
    vary = varying(ipc=2000)
    plan = make_plan(vary({}), H100, 1, 1)
    room = (plan.memory.total - 1000) / 0.9  # an estimate keeps a tenth free
    small = replace(H100, chip=replace(H100.chip, memory=room))
    tight = make_plan(vary({}), small, 1, 1)
    assert not tight.fits
    change = smallest_change(vary, tight)
    assert change is not None
    assert make_plan(vary(change), small, 1, 1).fits
    # What a compiler found to be larger than its estimate counts as larger in changes, too.
    room = (plan.memory.total + plan.beside.images) / 0.9 + 1
    exact = replace(H100, chip=replace(H100.chip, memory=room))
    fitting = make_plan(vary({}), exact, 1, 1)
    assert fitting.step_excess <= 0
    larger = fitting.memory._replace(temporary=1.5 * fitting.memory.temporary, compiled=True)
    refused = fitting._replace(memory=larger)
    assert refused.step_excess > 0
    change = smallest_change(vary, refused)
    if change is not None:
        changed = make_plan(vary(change), exact, 1, 1)
        assert changed.step_excess + 0.5 * changed.memory.temporary <= 0
    none = replace(H100, chip=replace(H100.chip, memory=1.0))
    assert smallest_change(vary, make_plan(vary({}), none, 1, 1)) is None


@pytest.mark.parametrize(
    ("hours", "text", "device_hours"),
    [
        (30.04, "30.0 h", "30.0"),
        (0.5, "30.0 min", "0.5"),
        (0.002, "7.2 s", "0.002"),
        (0, "0.0 s", "0.0"),
    ],
)
def test_short_times_are_not_rounded_to_zero(hours, text, device_hours):
    assert report.duration(hours) == text and report.hours(hours) == device_hours
