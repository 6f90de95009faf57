"""`plan-family --online` on nodes that run: what it sees of their links, and what it tells them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scaling.plan.follow
from benchmarks.net.links import Link as Shaped
from benchmarks.net.proxy import LinkProxy
from benchmarks.net.schedule import steady
from family.manifest import CodecQuality, ExitQuality, Quality, load_manifest, save_manifest
from relay.client.sync import RelayClient
from relay.client.types import Node, Timed, node
from relay.node.config import NodeConfig
from relay.v1 import relay_pb2 as pb
from scaling.plan import cli
from scaling.plan.bundledocument import policy_text
from scaling.plan.deployment import FixedExit, Place
from scaling.plan.fleet import Link
from scaling.plan.fleetfile import read_fleet
from scaling.plan.follow import Watch, choices_on
from scaling.plan.observed import Own, Way, look, observed, own
from scaling.plan.online import PATIENCE
from scaling.plan.place import Question
from tests.relay.processes import free_port, in_background, until
from tests.relay.servers import HOST, Chain, address, chain, config, running
from tests.scaling.plan.machines import LINK, SPEC, STATISTICS, machine

FLEET = """\
name: tiny
objective: latency
tiers:
  - name: device
    count: 1
    hardware: {tflops: {f32: 0.0002}, bandwidth_gb_s: 0.05, memory_gb: 4, busy_w: 3, idle_w: 1, measured: true}
  - name: edge
    hardware: {tflops: {f32: 0.05}, bandwidth_gb_s: 10, memory_gb: 4, busy_w: 20, idle_w: 5, measured: true}
  - name: cloud
    hardware: {tflops: {f32: 1}, bandwidth_gb_s: 100, memory_gb: 16, busy_w: 200, idle_w: 50, measured: true}
links:
  - {rtt_ms: 0.5, bandwidth_mbps: 1000}
  - {rtt_ms: 0.5, bandwidth_mbps: 1000}
traffic: {requests_per_second: 0.5, prompt_tokens: 40, output_tokens: 30}
goals: {agreement: 1}
"""
NOTHING = Timed(0, 0.0, 0.0, 0.0, 0.0, 0.0)
NO_COST = Own(0.0, 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET, encoding="utf-8")
    return file


@pytest.fixture
def statistics(tiny_bundle: Path, tmp_path: Path) -> Path:
    manifest = load_manifest(tiny_bundle)
    file = tmp_path / "statistics.json"
    file.write_text(
        f'{{"family": "{manifest.family_fingerprint}", "precision": "f32", "shares": [], '
        '"acceptance": [{"draft_exit": 1, "exit": 3, "checked": 100, "accepted": 95}]}'
    )
    return file


def told(nodes: Chain) -> str:
    """What texts do that choose nothing."""
    default = nodes.device.node.default(frozenset())
    return f"{type(default.policy).__name__} {default.codec.label}"


@asynccontextmanager
async def over(bundle: Path, rtt_ms: float, bps: float = 1e9) -> AsyncIterator[Chain]:
    """A chain with such a link between device and edge."""
    link = Shaped("slow", steady(bps), steady(bps), rtt_ms)
    async with (
        running(config(bundle, "cloud")) as cloud,
        running(config(bundle, "edge", cloud)) as edge,
        LinkProxy(link, address(edge)) as at,
        running(replace(config(bundle, "device"), upstream=at)) as device,
    ):
        yield Chain(device, edge, cloud)


def test_a_link_that_is_slower_than_the_fleet_file_says_brings_drafts(
    path: Path,
    statistics: Path,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    with in_background(over(tiny_bundle, 80)) as nodes:

        def pause(seconds: float) -> None:
            assert seconds == 7
            seen.append(told(nodes))
            if len(seen) > PATIENCE:
                raise KeyboardInterrupt

        monkeypatch.setattr(scaling.plan.follow, "sleep", pause)
        with pytest.raises(SystemExit) as left:
            cli.main(
                [
                    *(str(path), "--bundle", str(tiny_bundle), "--statistics", str(statistics)),
                    *("--online", address(nodes.device), "--every", "7"),
                ]
            )
        assert left.value.code == 130
        assert seen == ["FixedExit f32"] * PATIENCE + ["SpeculativeExit f32"]
        assert told(nodes) == "SpeculativeExit f32", "Ctrl-C leaves it"
        begins, change, end = capsys.readouterr().out.splitlines()
        assert "begins with FixedExit(3), rows as f32: by the fleet file's links" in begins
        assert "FixedExit(3), rows as f32 -> SpeculativeExit(exit=3, draft_exit=1" in change
        assert "device-edge 8" in change and "in place of" in change
        assert "the node keeps SpeculativeExit" in end
        with RelayClient(address(nodes.device)) as client:
            follows = client.generate(list(range(3, 20)), max_tokens=12, ignore_stop=True)
            assert {token.exit for token in follows} == {3}
            (pace,) = client.describe()[0].paces
            assert (pace.draft_exit, pace.target_exit) == (1, 3)


def test_what_is_seen_of_a_narrow_link_is_its_rate_and_round_trip(
    path: Path, statistics: Path, tiny_bundle: Path
) -> None:
    with in_background(over(tiny_bundle, 40, 1e6)) as nodes, RelayClient(address(nodes.device)) as client:
        watch = Watch(client, read_fleet(path), tiny_bundle, statistics)
        for length in (5, 30, 60, 90):
            list(client.generate(list(range(3, 3 + length)), max_tokens=3, ignore_stop=True))
        assert not list(watch.look())
        first, second = watch.state.seen[-1].links
        assert first.rtt_s >= 0.03, "no reply is there before its link lets it"
        assert first.up_bps < 10e6, "the file says 1000e6"
        assert second.rtt_s < first.rtt_s


def test_a_narrow_link_brings_a_codec_that_the_bundles_quality_allows(
    path: Path, statistics: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """What `export-family --eval` measured is no part of the export, so nodes may serve the bundle without it."""
    manifest = load_manifest(tiny_bundle)
    exits = tuple(ExitQuality(g, 3.0, agreement) for g, agreement in ((1, 0.5), (2, 0.7), (3, 1.0)))
    codecs = tuple(CodecQuality(codec, 3, 3.0, agreement) for codec, agreement in (("int8", 0.99), ("int4", 0.9)))
    known = replace(manifest, quality=Quality("some text", "0" * 64, 100, 64, 64, exits, codecs))
    save_manifest(known, tmp_path)
    path.write_text(path.read_text().replace("agreement: 1", "agreement: 0.95"))
    with in_background(over(tiny_bundle, 20, 3e5)) as nodes, RelayClient(address(nodes.device)) as client:
        unknown, watch = (Watch(client, read_fleet(path), bundle, None) for bundle in (tiny_bundle, tmp_path))
        assert {one.codec for one in unknown.state.choices} == {"f32"}, "of a bundle without --eval nothing is known"
        assert {one.codec for one in watch.state.choices} == {"f32", "int8"}, "int4 rows agree too seldom"
        watch.state = replace(watch.state, chosen=[one.codec for one in watch.state.choices].index("f32"))
        told_of: list[str] = []
        for length in (5, 60, 20, 40, 50)[: PATIENCE + 2]:
            list(client.generate(list(range(3, 3 + length)), max_tokens=3, ignore_stop=True))
            told_of += watch.look()
        assert told(nodes) == "FixedExit int8"
        (change,) = told_of
        assert "rows as f32 -> FixedExit(3), rows as int8: device-edge" in change
        before = client.describe()[0]
        list(client.generate(list(range(3, 63)), max_tokens=3, ignore_stop=True))
        after = client.describe()[0]
        rows, size = after.rows_sent - before.rows_sent, after.bytes_sent - before.bytes_sent
        assert rows >= 60 and size < 2 * manifest.spec.d_model * rows


def test_a_node_that_is_away_is_told_of_once_and_what_was_chosen_stays(
    path: Path, statistics: Path, tiny_bundle: Path
) -> None:
    port = free_port()

    def edge() -> NodeConfig:
        return replace(config(tiny_bundle, "edge", segments=(2, 3)), listen=f"{HOST}:{port}")

    alone = replace(config(tiny_bundle, "device"), upstream=f"{HOST}:{port}")
    with in_background(running(alone)) as device, RelayClient(address(device)) as client:
        with in_background(running(edge())):
            watch = Watch(client, read_fleet(path), tiny_bundle, statistics)
            assert "begins with FixedExit(3)" in watch.begin()
            assert not list(watch.look())
            device.node.defaults.clear()  # as a new process has it
            assert not list(watch.look()) and device.node.defaults
        (line,) = watch.look()
        assert "device: its upstream is not reached" in line and "FixedExit(3), rows as f32 stays" in line
        assert not list(watch.look())
        with in_background(running(edge())):
            until(lambda: "the chain answers again" in list(watch.look()))


def test_equal_sizes_and_noise_leave_the_rate_and_a_clear_line_moves_it() -> None:
    way = Way(Link(0.02, 8e6, 8e6), NOTHING)  # a microsecond a byte
    sizes = np.array([300.0, 300, 300, 9000, 300, 40000])

    def after(seen: Way, x: Any, ms: Any, rtt_ms: float = 50.0) -> Link:
        sums = [float(np.sum(v)) for v in (x, ms, x * x, x * ms, ms * ms)]
        return look(seen, described(Timed(len(x), *sums)), rtt_ms, NO_COST).link

    assert after(way, sizes, 20 + sizes / 1000) == Link(0.05, pytest.approx(8e6), 8e6)
    assert after(way, sizes, 20 + sizes / 100).up_bps == pytest.approx(8e5, rel=1e-3)
    assert after(way, sizes, 20 + sizes / 1e5).up_bps == pytest.approx(8e8, rel=1e-3)
    assert after(way, np.full(6, 300.0), np.array([1.0, 9, 3, 4, 50, 2])).up_bps == 8e6
    noisy = 20 + sizes / 500 + np.array([0, 40.0, -15, 20, 30, -40])
    assert after(way, sizes, noisy).up_bps == 8e6
    assert after(way, sizes[:2], sizes[:2]).up_bps == 8e6
    again = Way(way.link, Timed(1000, 1.0, 1.0, 1.0, 1.0, 1.0))
    assert look(again, described(NOTHING), 50, NO_COST) == Way(replace(way.link, rtt_s=0.05), NOTHING), "a new process"


def test_what_nodes_take_for_messages_is_not_the_links() -> None:
    costs = own(machine(), machine(), 1000.0)
    assert costs == Own(1e-3, 1e-8)
    x = np.array([100.0, 5000, 20000, 90000])
    ms = 8e3 * x / 8e6 + 1e3 * costs.byte_s * x
    sums = Timed(4, *(float(np.sum(v)) for v in (x, ms, x * x, x * ms, ms * ms)))
    seen = look(Way(Link(0.0, 1e6, 1e6), NOTHING), described(sums), 21.0, costs).link
    assert seen.rtt_s == pytest.approx(0.02) and seen.up_bps == pytest.approx(8e6, rel=1e-3)


def test_what_sessions_beyond_the_entry_write_is_load_and_idle_ones_are_none() -> None:
    places = (Place("device", (1, 2)), Place("cloud", (3,)))
    machines = {"device": machine(), "cloud": machine(10)}

    def load(here: int, there: int, rows_per_s: float) -> float:
        nodes = [described(NOTHING, here), described(NOTHING, there)]
        return observed([Way(LINK, NOTHING)], nodes, [rows_per_s] * 2, places, machines, 100.0).load

    assert load(9, 0, 1e6) == load(9, 1, 1e6) == load(1, 8, 0) == 1.0, "of one text alone, or of none that writes"
    assert 1 < load(1, 8, 100) < load(1, 8, 1000) <= load(1, 9, 1000)
    alone, eight = (float(machines["cloud"].segments[3].seconds(n, 100, 0, n)) for n in (1, 8))
    assert load(1, 8, 1e6) == pytest.approx(eight / alone), "not more than there are"


def test_choices_keep_the_agreement_and_what_every_node_knows() -> None:
    places, links = (Place("device", (1, 2)), Place("cloud", (3,))), (LINK,)
    agreement = {(1, "f32"): 0.6, (2, "f32"): 0.9, (3, "int8"): 0.97}
    machines = {name: {"f32": machine()} for name in ("device", "cloud")}
    question = Question(SPEC, machines, links, 64, 64, STATISTICS, agreement)
    nodes = [described(NOTHING), replace(described(NOTHING), codecs=("f32", "int8"))]

    def found(least: float) -> set[tuple[str, str]]:
        return {(policy_text(c.policy), c.codec) for c in choices_on(question, places, links, nodes, least)}

    lengths = ("", ", length=2", ", length=4", ", length=8")
    drafted = [f"SpeculativeExit(exit=3, draft_exit={d}{length})" for d in (1, 2) for length in lengths]
    exact = {("FixedExit(3)", "f32"), *((name, "f32") for name in drafted)}
    assert found(1.0) == exact
    assert found(0.95) == exact | {(name, "int8") for name, _ in exact}
    assert ("FixedExit(2)", "f32") in found(0.9) and ("ConfidenceExit(epsilon=0.1)", "f32") in found(0.9)
    sent = (Place("device", (1, 2)), Place("cloud", (1, 2, 3)))
    bursts = choices_on(question, sent, links, nodes, 1.0)
    assert {c.codec for c in bursts} == {"f32"} and {c.send for c in bursts} == {"ids"}
    assert FixedExit(3, 15) in [c.policy for c in bursts]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"goals: {agreement: 1}": "goals: {ttft_ms: 500}"}, "no goals.agreement, so the first exit would decide"),
        ({"name: edge": "name: box"}, "the chain has tier 'edge', the fleet file device, box, cloud"),
        ({"name: edge": "name: x", "name: cloud": "name: edge", "name: x": "name: cloud"}, "in another order"),
    ],
)
def test_what_does_not_fit_the_chain_is_said(
    change: dict[str, str], problem: str, path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text()
    for old, new in change.items():
        text = text.replace(old, new)
    path.write_text(text)
    with in_background(chain(tiny_bundle)) as nodes, pytest.raises(SystemExit) as left:
        cli.main([str(path), "--bundle", str(tiny_bundle), "--online", address(nodes.device)])
    assert left.value.code == 2 and problem in capsys.readouterr().err


def test_another_bundle_another_node_and_no_node_are_said(
    path: Path, tiny_bundle: Path, tiny_bundle_int8: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told_of(bundle: Path, at: str) -> str:
        with pytest.raises(SystemExit):
            cli.main([str(path), "--bundle", str(bundle), "--online", at])
        return capsys.readouterr().err

    with in_background(chain(tiny_bundle)) as nodes:
        other = told_of(tiny_bundle_int8, address(nodes.device))
        assert "the nodes serve another export than --bundle" in other
        assert "edge begins with segment 2; give the entry node" in told_of(tiny_bundle, address(nodes.edge))
    with in_background(running(config(tiny_bundle, "device"))) as lone:
        assert "device has no upstream, so there is no link" in told_of(tiny_bundle, address(lone))
    assert "no relay node answers at" in told_of(tiny_bundle, f"{HOST}:{free_port()}")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("", "--online: goes with --bundle"),
        ("--bundle x --out y", "leave --out, --json, --strict and --explain out"),
        ("--bundle x --law y", "--law: is of a family that is to be trained"),
    ],
)
def test_options_that_do_not_go_with_online_are_refused(
    arguments: str, problem: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([str(path), "--online", "localhost:1", *arguments.split()])
    assert problem in capsys.readouterr().err


def described(timed: Timed, sessions: int = 1) -> Node:
    """What of a node's own description counts here; the rest is as the wire leaves it out."""
    message = pb.Node(tier="some", first_segment=1, last_segment=1, sessions=sessions, codecs=[1, 2, 3, 4])
    return replace(node(message), timed=timed)
