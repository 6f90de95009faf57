"""Machines made of profiles: they give back what was measured, and say what was not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report
from family.certificate import Certificate, CertifiedRule
from family.errors import ProfileError
from family.manifest import load_manifest
from family.profile import Profile, load_profile
from scaling.plan.deployment import Deployment, FixedExit, Place
from scaling.plan.model import predict
from scaling.plan.profiled import Curve, machine, measured_graph
from scaling.plan.statistics import load_statistics, statistics_for

STORED = report.ROOT / "experiments" / "plan"


@pytest.fixture(params=["int4", "f32"])
def profile(request: pytest.FixtureRequest) -> Profile:
    return load_profile(STORED / f"profile-{request.param}.json")


def test_a_curve_is_straight_between_points_and_goes_on_as_it_ended() -> None:
    curve = Curve((1.0, 2.0, 4.0), (1.0, 3.0, 4.0))
    assert [curve(x) for x in (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)] == [-1.0, 1.0, 2.0, 3.0, 3.5, 4.0, 5.0]
    assert np.allclose(curve(np.array([0.0, 1.5, 6.0])), [-1.0, 2.0, 5.0])
    assert Curve((3.0,), (7.0,))(100.0) == 7.0


def test_costs_are_near_every_forward_that_was_measured(profile: Profile) -> None:
    for graph in profile.bundles[0].graphs:
        cost = measured_graph(graph)
        found = [
            float(cost.seconds(f.rows, f.context, f.wanted, f.sessions)) * 1e3 / f.ms - 1
            for f in graph.forwards
            if f.wanted or graph.kind == "segment"  # an exit asked about nothing takes next to nothing
        ]
        assert np.median(np.abs(found)) < 0.01
        assert np.quantile(np.abs(found), 0.95) < 0.15


def test_times_of_arrays_are_those_of_their_elements(profile: Profile) -> None:
    made = machine(profile, profile.bundles[0].precision)
    rows, context = np.array([1.0, 5.0, 40.0, 700.0]), np.array([0.0, 100.0, 300.0, 3000.0])
    found = made.segments[1].seconds(rows, context)
    assert isinstance(found, np.ndarray)
    assert found.tolist() == pytest.approx(
        [float(made.segments[1].seconds(*pair)) for pair in zip(rows.tolist(), context.tolist(), strict=True)]
    )


def test_what_was_not_measured_is_marked(profile: Profile) -> None:
    precision = profile.bundles[0].precision
    made, spec = machine(profile, precision), profile.bundles[0].spec
    alone = Deployment(spec, (Place("box", (1, 2, 3)),), (), FixedExit(3))
    assert predict(alone, {"box": made}, 500, 500).beyond == ()
    assert predict(alone, {"box": made}, 4000, 500).beyond == ("box: 4500 positions of a session, measured up to 2048",)
    assert predict(alone, {"box": replace(made, most_sessions=1)}, 50, 50, 2).beyond == (
        "box: 2 sessions, measured up to 1",
    )


def test_a_machine_of_another_precision_is_refused(profile: Profile) -> None:
    with pytest.raises(ProfileError, match="not int2"):
        machine(profile, "int2")


def test_a_profile_measured_beside_other_work_is_refused(profile: Profile) -> None:
    (bundle,) = profile.bundles
    slow = [replace(g, forwards=tuple(replace(f, ms=2 * f.ms) for f in g.forwards)) for g in bundle.graphs]
    busy = replace(profile, bundles=(replace(bundle, graphs=tuple(slow)),))
    with pytest.raises(ProfileError, match="run relay-node profile again on a quiet machine"):
        machine(busy, bundle.precision)


def test_statistics_are_read_strictly(tmp_path: Path) -> None:
    found = load_statistics(STORED / "statistics.json").statistics()
    assert set(found.acceptance) == {(1, 2), (1, 3), (2, 3)} and all(0 < a < 1 for a in found.acceptance.values())
    assert all(abs(sum(shares) - 1) < 1e-9 for shares in (*found.shares.values(), *found.first.values()))
    (tmp_path / "bad.json").write_text('{"family": 1}')
    with pytest.raises(ProfileError, match=r"bad.json: no statistics of exits \(family: expected a string"):
        load_statistics(tmp_path / "bad.json")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_statistics(tmp_path / "none.json")


def test_what_nodes_say_of_their_speculations_is_read_too(tmp_path: Path) -> None:
    pace = {"draft_exit": 2, "target_exit": 3, "right": 0.7, "draft_ms": 7.0, "verify_ms": 40.0, "row_ms": 1.0}
    nodes = [
        {"tier": tier, "family_fingerprint": "f" * 64, "precision": "int4", "paces": paces}
        for tier, paces in (("device", [pace | {"checked": 40, "accepted": 30}]), ("cloud", []))
    ]
    (tmp_path / "nodes.jsonl").write_text("".join(json.dumps(node) + "\n" for node in nodes))
    found = load_statistics(tmp_path / "nodes.jsonl")
    assert found.family == "f" * 64 and found.statistics().acceptance == {(2, 3): 0.75}


def test_statistics_of_another_family_are_refused(tiny_bundle: Path) -> None:
    manifest = load_manifest(tiny_bundle)
    assert statistics_for(manifest, None).acceptance == {}
    with pytest.raises(ProfileError, match=r"statistics.json: of family [0-9a-f]{12}, the bundle is of"):
        statistics_for(manifest, STORED / "statistics.json")


def test_an_epsilon_that_nodes_would_refuse_is_left_out(tiny_bundle: Path, tmp_path: Path) -> None:
    """Without a certificate all of them; with one, those that it does not have."""
    manifest = load_manifest(tiny_bundle)
    shares = ", ".join(
        f'{{"epsilon": {e}, "every": [0.2, 0.5, 0.3], "first": [0.1, 0.2, 0.7]}}' for e in (0.02, 0.05, 0.1)
    )
    (tmp_path / "s.json").write_text(
        f'{{"family": "{manifest.family_fingerprint}", "precision": "f32", "shares": [{shares}], "acceptance": []}}'
    )
    assert statistics_for(manifest, tmp_path / "s.json").shares == {}
    rules = tuple(CertifiedRule(e, "max_probability", (0.9, 0.8), 0.01, (0.5, 0.3, 0.2)) for e in (0.05, 0.2))
    family, export = manifest.family_fingerprint, manifest.export_fingerprint
    certificate = Certificate(family, "f32", export, "p.jsonl", "0" * 64, 80, 240, 64, 0.0, 0.05, "a method", rules)
    found = statistics_for(replace(manifest, certificate=certificate), tmp_path / "s.json")
    assert found.shares == {0.05: (0.2, 0.5, 0.3), 0.2: (0.5, 0.3, 0.2)}
