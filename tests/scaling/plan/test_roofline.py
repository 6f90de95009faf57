from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from family.spec import Exit, load_spec
from scaling.errors import ScalingError
from scaling.plan.cost import Machine
from scaling.plan.hardware import Hardware, hardware, rows
from scaling.plan.roofline import FORMATS, branch_work, cost_of, roofline, trunk_work
from training.flops import FamilyShape, inference_flops, parameters

SPEC = load_spec(Path(__file__).parents[3] / "families" / "smollm2-135m-g3" / "spec.json")
MACHINES = st.sampled_from(rows())
FACTORS = st.floats(1.0, 100.0)
ROWS, CONTEXT, SESSIONS = st.integers(1, 4096), st.integers(0, 8192), st.integers(1, 64)


def test_flops_are_those_of_a_token_that_leaves_at_the_exit() -> None:
    """On a machine that does nothing but multiply, a second is a second's FLOPs."""
    shape = FamilyShape(576, 1536, 30, 9, 3, 64, 49152, True, 1152, SPEC.exits)
    multiplier = replace(
        hardware("T4"), basis="measured", layer_s=0.0, flops={"f32": 1.0}, bandwidth_bytes=1e300, memory_bytes=1e300
    )
    machine = roofline(SPEC, multiplier, "f32")
    for g, context in ((1, 0), (2, 99), (3, 2047)):
        trunk = sum(machine.segments[i].seconds(1, context) for i in range(1, g + 1))
        own = machine.exits[g].seconds(1, context, 1)
        assert trunk + own == pytest.approx(inference_flops(shape, g, context + 1).total, rel=1e-9)


def test_bytes_are_those_of_the_weights_and_of_grouped_keys_and_values() -> None:
    shape = FamilyShape(576, 1536, 30, 9, 3, 64, 49152, True, 1152, SPEC.exits)
    machine = roofline(SPEC, hardware("T4"), "f32")
    block = parameters(shape).branches[0] - 576 - 1152
    assert machine.weight_bytes["segment-1"] == 4 * 10 * block
    assert machine.weight_bytes["segment-3"] == 4 * 6 * block
    assert machine.weight_bytes["exit-1"] == 4 * block
    assert machine.weight_bytes["exit-3"] == 0
    assert machine.weight_bytes["shared"] == 4 * 49152 * 576
    assert machine.kv_bytes_per_position == {
        "segment-1": 4 * 10 * 2 * 3 * 64, "segment-2": 4 * 14 * 2 * 3 * 64, "segment-3": 4 * 6 * 2 * 3 * 64,
        "exit-1": 4 * 2 * 3 * 64, "exit-2": 4 * 2 * 3 * 64, "exit-3": 0.0,
    }  # fmt: skip
    apart = roofline(SPEC, hardware("T4"), "f32", tied=False)
    assert apart.weight_bytes["segment-1"] == machine.weight_bytes["segment-1"] + machine.weight_bytes["shared"]


def test_weights_take_what_the_bundles_files_have() -> None:
    """Bytes of the repository's bundles: segment-1.data, exit-1.data and shared.data."""
    sizes = {"f32": (141637888, 14166272, 115347584), "int8": (35756288, 3578112, 33951872)}
    sizes["int4"] = (27687168, 3578112, 34418816)
    for precision, files in sizes.items():
        held = roofline(SPEC, hardware("T4"), precision).weight_bytes
        assert [held["segment-1"], held["exit-1"], held["shared"]] == pytest.approx(files, rel=0.02)


def test_a_low_rank_branch_costs_what_its_two_products_cost() -> None:
    low = branch_work(SPEC, Exit(10, "lowrank", 64), FORMATS["f32"])
    full = branch_work(SPEC, Exit(10, "block"), FORMATS["f32"])
    assert low.weights == 64 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    assert low.kv_width == full.kv_width and low.head_weights == full.head_weights
    bare = branch_work(SPEC, Exit(10, "norm"), FORMATS["f32"])
    assert (bare.layers, bare.weights, bare.kv_width) == (0, 0, 0)


@given(hardware=MACHINES, more=FACTORS, n=ROWS, context=CONTEXT, sessions=SESSIONS, which=st.integers(0, 3))
def test_more_of_anything_never_makes_a_forward_longer(
    hardware: Hardware, more: float, n: int, context: int, sessions: int, which: int
) -> None:
    better = (
        replace(hardware, bandwidth_bytes=hardware.bandwidth_bytes * more),
        replace(hardware, memory_bytes=hardware.memory_bytes * more),
        replace(hardware, flops={name: value * more for name, value in hardware.flops.items()}),
        replace(hardware, layer_s=(hardware.layer_s or 0.0) / more),
    )[which]
    asked = (max(n, sessions), context, min(n, sessions), sessions)
    for precision in FORMATS:
        before, after = roofline(SPEC, hardware, precision), roofline(SPEC, better, precision)
        assert np.all(_times(after, *asked) <= _times(before, *asked))


@given(hardware=MACHINES, n=ROWS, more=st.integers(0, 1000), context=CONTEXT, sessions=SESSIONS)
def test_more_work_never_takes_less_time(hardware: Hardware, n: int, more: int, context: int, sessions: int) -> None:
    machine = roofline(SPEC, hardware)
    n = max(n, sessions)
    base = _times(machine, n, context, 1, sessions)
    assert np.all(_times(machine, n + more, context, 1, sessions) >= base)
    assert np.all(_times(machine, n, context + more, 1, sessions) >= base)
    assert np.all(_times(machine, n, context, 1 + more, sessions) >= base)


def test_arrays_give_what_their_elements_give() -> None:
    machine = roofline(SPEC, hardware("Raspberry Pi 5"))
    n, context = np.array([1.0, 7.0, 512.0])[:, None], np.array([0.0, 100.0])
    found = machine.segments[2].seconds(n, context)
    each = [[machine.segments[2].seconds(a, b) for b in context] for a in n[:, 0]]
    assert np.array_equal(found, np.array(each))
    layers = np.arange(1.0, 31.0)
    cost = cost_of(trunk_work(SPEC, layers, FORMATS["int4"]), hardware("A40"), FORMATS["int4"])
    one = cost_of(trunk_work(SPEC, 14.0, FORMATS["int4"]), hardware("A40"), FORMATS["int4"])
    assert np.asarray(cost.seconds(3, 50))[13] == pytest.approx(float(one.seconds(3, 50)), rel=1e-12)


def test_a_measured_machine_is_taken_as_it_is() -> None:
    sheet = replace(hardware("Raspberry Pi 5"), basis="datasheet")
    assert (
        _times(roofline(SPEC, hardware("Raspberry Pi 5")), 64, 0, 1, 1).sum()
        < _times(roofline(SPEC, sheet), 64, 0, 1, 1).sum()
    )


def test_a_precision_that_no_bundle_has_is_refused() -> None:
    with pytest.raises(ScalingError, match="no precision 'int2' of bundles; expected one of f32, int8, int4"):
        roofline(SPEC, hardware("T4"), "int2")


def _times(machine: Machine, n: float, context: float, wanted: float, sessions: float) -> NDArray[np.float64]:
    segments = [cost.seconds(n, context, 0, sessions) for cost in machine.segments.values()]
    return np.array(segments + [cost.seconds(n, context, wanted, sessions) for cost in machine.exits.values()])
