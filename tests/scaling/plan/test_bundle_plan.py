import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import report
from family.errors import ProfileError
from family.manifest import load_manifest
from family.profile import load_profile
from family.strict import dumps
from scaling.errors import ScalingError
from scaling.plan import cli
from scaling.plan.asked import ask
from scaling.plan.bundledocument import BundleChoice, policy_text
from scaling.plan.bundleplan import plan_bundle
from scaling.plan.bundlescore import LEAST, ranked
from scaling.plan.deployment import ConfidenceExit, FixedExit, SpeculativeExit
from scaling.plan.fleet import Fleet, Goals, Objective
from scaling.plan.fleetfile import read_fleet
from scaling.plan.place import choices
from scaling.plan.statistics import Acceptance, MeasuredStatistics
from scaling.plan.table import bundle_table
from scaling.plan.words import small

STORED = report.ROOT / "experiments" / "plan"

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
    found = plan_bundle(fleet, [tiny_bundle])
    assert found.best.misses == () and found.best.ttft_s <= 0.5 and found.best.tpot_s <= 0.05
    kept = [choice.text_s for choice in (found.best, *found.others) if not choice.misses]
    assert kept == sorted(kept)
    assert all(node.basis == "hardware" and node.machines for node in found.best.nodes)


def test_a_goal_that_no_deployment_keeps_is_named(fleet: Fleet, tiny_bundle: Path) -> None:
    hurried = replace(fleet, goals=Goals(ttft_s=1e-6))
    with pytest.raises(ScalingError, match=r"keeps all goals; the nearest has goals.ttft_ms: 0.001 asked, [\d.]+"):
        plan_bundle(hurried, [tiny_bundle])


def test_what_is_not_judged_or_not_asked_for_is_said(fleet: Fleet, tiny_bundle: Path) -> None:
    asked = replace(fleet, goals=replace(fleet.goals, agreement=0.5, loss={"cloud": 2.0}))
    told = {finding.code: finding.text for finding in plan_bundle(asked, [tiny_bundle]).findings}
    assert "no-agreement" not in told and told["not-judged"].startswith("goals.loss: of a family that is to be trained")
    told = {finding.code: finding.text for finding in plan_bundle(fleet, [tiny_bundle]).findings}
    assert "give agreement: 0.95" in told["no-agreement"] and "not-judged" not in told


def test_of_those_that_miss_a_goal_the_nearest_is_told(fleet: Fleet, tiny_bundle: Path) -> None:
    """Not the quickest of them."""
    cheap = replace(fleet, goals=Goals(budget_per_hour=1e-9), tiers=fleet.tiers[1:], links=fleet.links[1:])
    tiers = (replace(cheap.tiers[0], count=1, price_per_hour=0.5), cheap.tiers[1])
    order = ranked(ask(replace(cheap, tiers=tiers), tiny_bundle, None))
    assert order[0].misses == ("goals.budget_per_hour",)
    one = [choice.cost_per_hour for choice in order if choice.misses == order[0].misses]
    assert one == sorted(one) and one[0] < one[-1]


def test_of_several_exports_the_best_is_chosen(fleet: Fleet, tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    both = [tiny_bundle, tiny_bundle_int4]
    f32, int4 = (plan_bundle(fleet, [bundle]) for bundle in both)
    found = plan_bundle(fleet, both)
    assert int4.best.text_s < f32.best.text_s, "fewer bytes are read for each token"
    assert (found.best, found.precision, found.bundle) == (int4.best, "int4", tiny_bundle_int4.name)
    assert found.candidates == f32.candidates + int4.candidates
    assert {node.precision for one in found.pareto for node in one.nodes} <= {"f32", "int4"}
    assert {finding.code for finding in found.findings} - {finding.code for finding in int4.findings} == {"exports"}
    table = bundle_table(found)
    assert "nats per token of these: f32 not measured, int4 not measured" in table and " weights " in table


def test_statistics_of_another_precision_are_taken_and_it_is_said(
    fleet: Fleet, tiny_bundle: Path, tmp_path: Path
) -> None:
    family, path = load_manifest(tiny_bundle).family_fingerprint, tmp_path / "statistics.json"
    for precision, codes in (("f32", []), ("int4", ["statistics"])):
        path.write_text(dumps(MeasuredStatistics(family, precision, (), (Acceptance(1, 3, 100, 60),))))
        found = plan_bundle(fleet, [tiny_bundle], path)
        assert [finding.code for finding in found.findings if finding.code == "statistics"] == codes


def test_bundles_that_cannot_be_compared_are_refused(
    fleet: Fleet, path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ScalingError, match="two of one precision; leave one out"):
        plan_bundle(fleet, [tiny_bundle, tiny_bundle])
    with pytest.raises(ScalingError, match="of different families; plan each by itself"):
        plan_bundle(fleet, [tiny_bundle, report.bundle("int4")])
    with pytest.raises(SystemExit):
        cli.main([str(path), "--bundle", str(tiny_bundle), str(tiny_bundle), "--online", "localhost:1"])
    assert "--online: give the one --bundle that the nodes run" in capsys.readouterr().err


def test_strict_wants_profiles(fleet: Fleet, tiny_bundle: Path) -> None:
    with pytest.raises(ScalingError, match="nothing was measured on device, edge, cloud; write a profile"):
        plan_bundle(fleet, [tiny_bundle], strict=True)


def measured(bundle: Path, path: Path) -> Path:
    """A machine's stored profile, as if it were of this bundle."""
    manifest, profile = load_manifest(bundle), load_profile(STORED / "profile-f32.json")
    of = replace(profile.bundles[0], family=manifest.family_fingerprint, precision=manifest.precision)
    path.write_text(dumps(replace(profile, bundles=(of,))), encoding="utf-8")
    return path


@pytest.fixture
def profiled(fleet: Fleet, tiny_bundle: Path, tmp_path: Path) -> Fleet:
    """Every tier was measured."""
    profile = measured(tiny_bundle, tmp_path / "profile.json")
    return replace(fleet, goals=Goals(), tiers=tuple(replace(tier, profile=profile) for tier in fleet.tiers))


def test_what_lies_beyond_a_profile_is_marked_or_refused(profiled: Fleet, tiny_bundle: Path) -> None:
    inside = plan_bundle(profiled, [tiny_bundle], strict=True)
    assert inside.best.outside == () and "outside" not in bundle_table(inside)
    beyond = replace(profiled, traffic=replace(profiled.traffic, prompt_tokens=4000))
    found = plan_bundle(beyond, [tiny_bundle])
    assert any("4030 positions of a session, measured up to 2048" in text for text in found.best.outside)
    table = bundle_table(found)
    assert table.count("outside of what was measured") == 1 + len(found.others)
    assert f"outside: {found.best.outside[0]}" in table
    with pytest.raises(ScalingError, match="--strict: the best deployment lies beyond what was measured: "):
        plan_bundle(beyond, [tiny_bundle], strict=True)


def test_more_texts_at_once_than_were_measured_lie_beyond_a_profile(profiled: Fleet, tiny_bundle: Path) -> None:
    traffic = replace(profiled.traffic, requests_per_second=5.0, output_tokens=500)
    asked = ask(replace(profiled, traffic=traffic), tiny_bundle, None)
    cloud = asked.with_machine("cloud", replace(asked.machines["cloud"], most_sessions=1))
    told = {text for one in ranked(cloud) for text in one.outside}
    assert any(re.fullmatch(r"cloud: [\d.]+ texts at once, measured up to 1", text) for text in told), told


def test_each_tier_leaves_the_memory_free_that_the_goals_say(fleet: Fleet, tiny_bundle: Path) -> None:
    """Half of the edge's is enough, of the device's nothing is left."""
    free = replace(fleet, goals=Goals(memory_free={"device": 1 - 1e-6, "edge": 0.5}))
    found = ranked(ask(free, tiny_bundle, None))
    for one in found:
        assert ("memory of device" in one.misses) == any(node.tier == "device" for node in one.nodes)
        assert not {"memory of edge", "memory of cloud"} & set(one.misses)
    rooms = {node.tier: node.room_gb for one in found for node in one.nodes}
    assert rooms == pytest.approx({"device": 4e-6, "edge": 2.0, "cloud": 16.0})


@pytest.mark.parametrize("objective", ["latency", "cost", "energy", "quality"])
def test_all_deployments_are_ranked_by_the_objective(objective: Objective, fleet: Fleet, tiny_bundle: Path) -> None:
    asked = ask(replace(fleet, objective=objective, goals=Goals(tpot_s=0.05)), tiny_bundle, None)
    order = ranked(asked)
    assert len(order) == len(list(choices(asked.question)))
    kept = [LEAST[objective](one) for one in order if not one.misses]
    assert len(kept) > 0 and kept == sorted(kept)
    assert all(one.misses for one in order[len(kept) :])


def test_the_front_is_what_nothing_beats_in_everything(fleet: Fleet, tiny_bundle: Path) -> None:
    order = [one for one in ranked(ask(fleet, tiny_bundle, None)) if not one.misses]

    def values(one: BundleChoice) -> tuple[float, ...]:
        return one.cost_per_hour, one.text_s, -(one.agreement or 0), one.power_w

    best = [values(one) for one in plan_bundle(fleet, [tiny_bundle]).pareto]
    for mine in map(values, order):
        beaten = any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in best)
        assert (mine in best) != beaten


def test_a_shared_machine_has_memory_for_all_its_texts(fleet: Fleet, tiny_bundle: Path) -> None:
    busy = replace(fleet, goals=Goals(), traffic=replace(fleet.traffic, requests_per_second=50.0))
    asked = ask(busy, tiny_bundle, None)
    cloud = next(one for one in ranked(asked) if [node.tier for node in one.nodes] == ["cloud"])
    machine = asked.machines["cloud"]
    tight = replace(machine, memory_bytes=cloud.nodes[0].memory_gb * 1e9)  # no room above the mean
    same = next(
        one
        for one in ranked(asked.with_machine("cloud", tight))
        if one.policy == cloud.policy and one.nodes[0].tier == "cloud"
    )
    assert same.nodes[0].machines is not None and cloud.nodes[0].machines is not None
    assert same.nodes[0].machines > cloud.nodes[0].machines


def test_a_profile_that_is_missing_is_an_error(fleet: Fleet, tiny_bundle: Path, tmp_path: Path) -> None:
    first = replace(fleet.tiers[0], profile=tmp_path / "none.json")
    with pytest.raises(ProfileError, match=r"none.json: cannot be read"):
        plan_bundle(replace(fleet, tiers=(first, *fleet.tiers[1:])), [tiny_bundle])


def test_the_command_writes_plan_nodes_and_replicas(
    path: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan"
    (out / "nodes").mkdir(parents=True)
    (out / "family-spec.json").write_text("{}")
    cli.main([str(path), "--bundle", str(tiny_bundle), "--out", str(out)])
    assert not (out / "family-spec.json").exists()  # of an earlier plan
    told = capsys.readouterr().out
    assert "least latency" in told and "warning: device: times are those of its hardware's figures" in told
    assert "Where the segments run" in (out / "report.html").read_text(encoding="utf-8")
    best = json.loads((out / "plan.json").read_text())["best"]
    for node in best["nodes"]:
        text = (out / "nodes" / f"{node['tier']}.toml").read_text()
        assert f'segments = "{node["segments"][0]}-{node["segments"][-1]}"' in text
        services = (out / "replicas.yaml").read_text()
        assert (f"  {node['tier']}:\n" in services) == (node["tier"] != "device")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--statistics x.json", "--statistics: goes with --bundle"),
        ("--bundle {bundle} --law sweep-exits", "--law: is of a family that is to be trained"),
        ("", "the fleet has no training: give compute"),
        ("--bundle {bundle}/none", "none/manifest.json: no such file"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: str, problem: str, path: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([str(path), "--out", str(tmp_path / "plan"), *arguments.format(bundle=tiny_bundle).split()])
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("online", [False, True])
def test_texts_longer_than_the_bundles_context_are_refused_with_the_line(
    online: bool, path: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is said of a family that is to be trained."""
    path.write_text(FLEET.replace("prompt_tokens: 40", "prompt_tokens: 240") + "training: {compute: 1e15}\n")
    way = ["--online", "localhost:1"] if online else ["--out", str(tmp_path / "plan")]
    with pytest.raises(SystemExit):
        cli.main([str(path), "--bundle", str(tiny_bundle), *way])
    told = capsys.readouterr().err
    assert f"{path}:15: traffic: prompt and output take 270 positions in the mean, the bundle's context is 256" in told
    path.write_text(FLEET + "training: {compute: 1e15, trunk: {context: 64}}\n")
    cli.main([str(path), "--bundle", str(tiny_bundle), "--out", str(tmp_path / "plan")])


@pytest.mark.parametrize(
    ("value", "places", "told"),
    [
        (0.0, 2, "0.00"),
        (0.5, 2, "0.50"),
        (0.004, 2, "0.0040"),
        (0.0000123, 2, "0.000012"),
        (12345.678, 2, "12,345.68"),
        (0.31, 0, "0.31"),
        (37.2, 0, "37"),
    ],
)
def test_small_figures_do_not_vanish(value: float, places: int, told: str) -> None:
    assert small(value, places) == told


def test_policies_are_written_as_the_sdk_takes_them() -> None:
    assert policy_text(FixedExit(3)) == "FixedExit(3)"
    assert policy_text(FixedExit(3, 15)) == "FixedExit(3, burst=15)"
    assert policy_text(ConfidenceExit(0.05)) == "ConfidenceExit(epsilon=0.05)"
    assert policy_text(SpeculativeExit(3, 1)) == "SpeculativeExit(exit=3, draft_exit=1)"
    assert policy_text(SpeculativeExit(3, 1, 4)) == "SpeculativeExit(exit=3, draft_exit=1, length=4)"
