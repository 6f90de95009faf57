import asyncio
from pathlib import Path

import pytest
import torch

from benchmarks import speculation, wan
from benchmarks.net.links import link
from family.manifest import load_manifest
from relay.client.types import Work
from training.loaded import LoadedFamily

PROMPTS = [[{"role": "user", "content": text}] for text in ("The relay begins", "What happens?", "So: 64 tokens.")]


def test_flops_are_two_for_each_weight_of_a_matrix_and_row(tiny_bundle: Path, tiny_family: LoadedFamily) -> None:
    spec = load_manifest(tiny_bundle).spec
    layer = tiny_family.base.model.model.layers[0]
    of_layer = 2 * sum(m.weight.numel() for m in layer.modules() if isinstance(m, torch.nn.Linear))
    head = 2 * tiny_family.base.model.lm_head.weight.numel()
    work = {"segment-1": Work(5, 0), "segment-3": Work(2, 0), "exit-1": Work(4, 3), "exit-3": Work(9, 1)}
    assert wan.flops(spec, work) == 5 * 2 * of_layer + 2 * 2 * of_layer + 4 * of_layer + 3 * head + head


def test_every_way_is_measured_over_a_link(tiny_bundle: Path) -> None:
    found = asyncio.run(wan.compare(tiny_bundle, "5ms", PROMPTS, tokens=8, epsilons=()))
    assert {way: row["agreement"] for way, row in found.items() if not way.startswith("device")} == {
        "cloud": 1.0,
        "per_token": 1.0,
        "speculative": 1.0,
        "ids": 1.0,
        "ids_burst": 1.0,
        "ids_speculative": 1.0,
    } | {"speculative_int8": found["speculative_int8"]["agreement"]}
    assert found["device_1"]["cloud_mflops"] == 0 < found["per_token"]["cloud_mflops"] < found["cloud"]["cloud_mflops"]
    assert found["device_1"]["exits"]["exit_1"] == 1 and found["per_token"]["exits"]["exit_3"] == 1
    assert found["ids"]["kilobytes"] < found["per_token"]["kilobytes"]
    assert found["speculative_int8"]["kilobytes"] < found["speculative"]["kilobytes"]
    assert found["per_token"]["tpot_ms"]["p50"] >= 5 > found["device_1"]["tpot_ms"]["p50"]
    assert any(row["pareto"] for row in found.values())
    assert wan.table({"links": {"5ms": found}}).count("\n") == 11


def test_a_way_that_is_beaten_in_all_is_not_on_the_front() -> None:
    good = {"tokens_per_s": 9.0, "cloud_mflops": 5.0, "agreement": 1.0}
    assert wan.beats(good, {**good, "cloud_mflops": 6.0})
    assert not wan.beats(good, good)
    assert not wan.beats(good, {**good, "cloud_mflops": 6.0, "tokens_per_s": 10.0})


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculation_writes_the_same_texts(temperature: float, tiny_bundle: Path) -> None:
    found = asyncio.run(speculation.compare(tiny_bundle, link("5ms"), temperature, PROMPTS, tokens=12))
    assert found["identical"] == 1 and 0 < found["acceptance"] < 1
    assert found["verify_ms"] > 5 and found["vs_optimum"] > 0
