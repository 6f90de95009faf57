"""`relay-node profile`: what it measures is there, is of the right shape, and reads back."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.net.links import Link
from benchmarks.net.proxy import LinkProxy
from benchmarks.net.schedule import steady
from family.manifest import load_manifest
from family.profile import load_profile
from relay.cli import node as node_command
from relay.cli import profile as profile_command
from relay.errors import PeerMismatchError, UnreachableError
from relay.profile import forwards, texts
from relay.profile.upstream import measure_upstream
from scaling.plan.profiled import machine, measured_graph
from tests.relay.servers import address, config, running


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "PASSES", 1)
    monkeypatch.setattr(forwards, "MOST", 1)
    monkeypatch.setattr(texts, "REPEATS", 1)


def test_every_graph_is_timed_against_rows_context_logits_and_sessions(tiny_bundle: Path, brief: None) -> None:
    graphs, memory = forwards.measure_forwards(tiny_bundle, 1)
    spec = load_manifest(tiny_bundle).spec
    assert [(g.kind, g.index) for g in graphs] == [(k, s.index) for s in spec.segments for k in ("segment", "exit")]
    assert [m.segment for m in memory] == [s.index for s in spec.segments]
    for graph in graphs:
        found = graph.forwards
        assert all(f.ms > 0 and f.rows % f.sessions == 0 for f in found)
        assert {1, 2, 8} <= {f.rows for f in found} and {1, 2, 4, 8} <= {f.sessions for f in found}
        assert len({f.context for f in found if f.rows == 1}) == 3
        assert max(f.context + f.rows // f.sessions for f in found) <= spec.context
        assert {f.wanted for f in found} >= ({0} if graph.kind == "segment" else {0, 1, 2, 8})
        cost = measured_graph(graph)
        assert float(cost.seconds(1, 8, min(1, max(f.wanted for f in found)))) >= 0


def test_the_command_writes_a_profile_that_a_machine_is_made_of(
    tiny_bundle: Path, tmp_path: Path, brief: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "profile.json"
    command = ["relay-node", "profile", "--bundle", str(tiny_bundle), "--threads", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 3.0, 3.0))
    node_command.main()
    told = capsys.readouterr()
    assert "profile.json: f32 in" in told.out and "busy" not in told.err
    profile = load_profile(out)
    (bundle,) = profile.bundles
    depth = bundle.spec.granularity
    assert {t.exit for t in bundle.texts} == {1, depth} and {t.sessions for t in bundle.texts} == {1, texts.SESSIONS}
    assert {(g,) for g in range(1, depth + 1)} <= {n.segments for n in bundle.nodes}
    made = machine(profile, "f32")
    assert set(made.segments) == set(made.exits) == set(range(1, depth + 1))
    assert made.other_bytes > 10e6 and made.memory_bytes > made.other_bytes


def test_a_machine_that_is_busy_is_told_of_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["relay-node", "profile", "--bundle", str(tmp_path), "--out", "profile.json"])
    monkeypatch.setattr("os.getloadavg", lambda: (1.9, 0.1, 0.1))
    with pytest.raises(SystemExit):
        node_command.main()
    assert "warning: this machine is busy (load 1.9 over the last minute)" in capsys.readouterr().err


def test_the_way_upstream_is_as_the_link_was_shaped(tiny_bundle: Path) -> None:
    async def through() -> None:
        async with running(config(tiny_bundle, "edge", segments=(2, 3))) as server:
            link = Link("shaped", steady(4e6), steady(8e6), 40)
            async with LinkProxy(link, address(server)) as way:
                found = await measure_upstream(tiny_bundle, way)
            assert not len(server.node.sessions), "it left nothing behind"
        assert found.rtt_ms > 35  # never faster than it was shaped
        assert 0 < found.up_bps < 8e6

    asyncio.run(through())


def test_an_upstream_of_another_bundle_or_none_is_said(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    async def other() -> None:
        async with running(config(tiny_bundle, "cloud")) as server:
            await measure_upstream(tiny_bundle_int4, address(server))

    with pytest.raises(PeerMismatchError, match="another bundle"):
        asyncio.run(other())
    with pytest.raises(UnreachableError):
        asyncio.run(measure_upstream(tiny_bundle, "127.0.0.1:1"))


def test_bundles_that_do_not_go_together_are_refused_before_anything_is_measured(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        profile_command.main(["--bundle", str(tiny_bundle), str(tiny_bundle), "--out", str(tmp_path / "p.json")])
    assert end.value.code == 2
    assert "two of one precision; leave one out" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()
