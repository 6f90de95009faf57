import json
from dataclasses import replace
from pathlib import Path

import pytest

from family.errors import ProfileError
from scaling.errors import ScalingError
from scaling.plan import cli
from scaling.plan.bundledocument import policy_text
from scaling.plan.bundleplan import plan_bundle
from scaling.plan.deployment import ConfidenceExit, FixedExit, SpeculativeExit
from scaling.plan.fleet import Fleet, Goals
from scaling.plan.fleetfile import read_fleet

FLEET = """\
name: tiny
objective: latency
tiers:
  - name: device
    count: 10
    hardware: {tflops: {f32: 0.01}, bandwidth_gb_s: 2, memory_gb: 4, busy_w: 3, idle_w: 1, measured: true}
  - name: edge
    hardware: {tflops: {f32: 0.05}, bandwidth_gb_s: 10, memory_gb: 4, busy_w: 20, idle_w: 5, measured: true}
  - name: cloud
    hardware: {tflops: {f32: 1}, bandwidth_gb_s: 100, memory_gb: 16, busy_w: 200, idle_w: 50, measured: true}
    price_per_hour: 1
links:
  - {rtt_ms: 5, bandwidth_mbps: 100}
  - {rtt_ms: 10, bandwidth_mbps: 1000}
traffic: {requests_per_second: 0.5, prompt_tokens: 40, output_tokens: 30}
goals: {ttft_ms: 500, tpot_ms: 50}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET, encoding="utf-8")
    return file


@pytest.fixture
def fleet(path: Path) -> Fleet:
    return read_fleet(path)


def test_the_best_keeps_the_goals_and_no_other_that_does_is_faster(fleet: Fleet, tiny_bundle: Path) -> None:
    found = plan_bundle(fleet, tiny_bundle)
    assert found.best.misses == () and found.best.ttft_s <= 0.5 and found.best.tpot_s <= 0.05

    def whole(choice) -> float:  # type: ignore[no-untyped-def]
        return float(choice.ttft_s + 29 * choice.tpot_s)

    kept = [whole(choice) for choice in (found.best, *found.others) if not choice.misses]
    assert kept == sorted(kept)
    assert all(node.basis == "hardware" and node.machines for node in found.best.nodes)


def test_a_goal_that_no_deployment_keeps_is_named(fleet: Fleet, tiny_bundle: Path) -> None:
    hurried = replace(fleet, goals=Goals(ttft_s=1e-6))
    with pytest.raises(ScalingError, match="keeps all goals; the nearest has: time to first token"):
        plan_bundle(hurried, tiny_bundle)


def test_strict_wants_profiles(fleet: Fleet, tiny_bundle: Path) -> None:
    with pytest.raises(ScalingError, match="nothing was measured on device, edge, cloud; write a profile"):
        plan_bundle(fleet, tiny_bundle, strict=True)


def test_a_profile_that_is_missing_is_an_error(fleet: Fleet, tiny_bundle: Path, tmp_path: Path) -> None:
    first = replace(fleet.tiers[0], profile=tmp_path / "none.json")
    with pytest.raises(ProfileError, match=r"none.json: cannot be read"):
        plan_bundle(replace(fleet, tiers=(first, *fleet.tiers[1:])), tiny_bundle)


def test_the_command_writes_plan_nodes_and_replicas(
    path: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan"
    cli.main([str(path), "--bundle", str(tiny_bundle), "--out", str(out)])
    told = capsys.readouterr().out
    assert "least latency" in told and "warning: device: times are those of its hardware's figures" in told
    best = json.loads((out / "plan.json").read_text())["best"]
    for node in best["nodes"]:
        text = (out / "nodes" / f"{node['tier']}.toml").read_text()
        assert f'segments = "{node["segments"][0]}-{node["segments"][-1]}"' in text
        assert f"  {node['tier']}:\n" in (out / "replicas.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--statistics x.json", "--statistics: goes with --bundle"),
        ("--bundle {bundle} --explain", "--law and --explain: are of a family that is to be trained"),
        ("", "the fleet has no training: give compute"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: str, problem: str, path: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([str(path), "--out", str(tmp_path / "plan"), *arguments.format(bundle=tiny_bundle).split()])
    assert problem in capsys.readouterr().err


def test_policies_are_written_as_the_sdk_takes_them() -> None:
    assert policy_text(FixedExit(3)) == "FixedExit(3)"
    assert policy_text(FixedExit(3, 15)) == "FixedExit(3, burst=15)"
    assert policy_text(ConfidenceExit(0.05)) == "ConfidenceExit(epsilon=0.05)"
    assert policy_text(SpeculativeExit(3, 1)) == "SpeculativeExit(exit=3, draft_exit=1)"
    assert policy_text(SpeculativeExit(3, 1, 4)) == "SpeculativeExit(exit=3, draft_exit=1, length=4)"
