"""The model of a relay: its parts add up, more of anything never makes it slower, and it equals what is played."""

from dataclasses import replace

import numpy as np
import pytest

from relay import batch
from relay import chain as relay_chain
from relay import codec as relay_codec
from relay.names import Codec
from relay.pace import Costs
from relay.pace import best as relay_best
from relay.pace import rate as relay_rate
from scaling.plan import batching
from scaling.plan.cost import LARGEST_FORWARD, Machine
from scaling.plan.deployment import (
    ConfidenceExit,
    Deployment,
    DeploymentError,
    FixedExit,
    Place,
    Policy,
    SpeculativeExit,
    Statistics,
)
from scaling.plan.fleet import Link
from scaling.plan.model import Prediction, predict
from scaling.plan.rounds import rounds
from scaling.plan.script import Script
from scaling.plan.sessions import play
from scaling.plan.wire import FRAMING, row_bytes
from tests.scaling.plan.machines import LINK, SPEC, STATISTICS, machine

PAIR = (Place("device", (1, 2)), Place("cloud", (3,)))
CHAIN = (Place("device", (1,)), Place("edge", (2,)), Place("cloud", (3,)))
POLICIES: tuple[Policy, ...] = (
    FixedExit(3),
    FixedExit(2),
    ConfidenceExit(0.1),
    SpeculativeExit(3, 2, 4),
    SpeculativeExit(3, 2),
)


def pair(policy: Policy, link: Link = LINK, codec: str = "f32") -> Deployment:
    return Deployment(SPEC, PAIR, (link,), policy, codec)


def asked(deployment: Deployment, made: Machine | None = None, prompt: float = 100, output: float = 33) -> Prediction:
    machines = dict.fromkeys(("device", "edge", "cloud"), made or machine())
    return predict(deployment, machines, prompt, output, 1, STATISTICS)


def test_nodes_are_played_by_the_rules_that_they_have() -> None:
    played = (batching.SHORT_ROWS, batching.LEAST_ROWS, batching.RECENT_S, LARGEST_FORWARD)
    assert played == (batch.SHORT_ROWS, batch.LEAST_ROWS, batch.RECENT_S, batch.MOST_ROWS)


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("width", [64, 576, 600, 4096])
def test_a_rows_bytes_are_those_of_the_relays_codec(codec: Codec, width: int) -> None:
    assert row_bytes(codec.label, width) == relay_codec.row_bytes(codec, width) + relay_chain.VALUE_BYTES


def test_a_token_of_a_fixed_exit_is_the_sum_of_its_parts() -> None:
    found = asked(pair(FixedExit(3)), prompt=100, output=32)
    context = 100 + 16
    segment_s, exit_s = 2e-3 + 0.4e-3 + 1e-6 * context, 1e-3 + 0.01e-3 + 0.5e-3
    up, down = row_bytes("f32", 256) + FRAMING.up, FRAMING.down
    hop_s = 1e-3 + 1e-5 + 0.03 + 8 * up / 10e6 + 8 * down / 20e6
    assert found.tpot_s == pytest.approx(3 * segment_s + exit_s + hop_s + 0.2e-3)
    assert (found.link_up_token, found.link_down_token) == ((up,), (down,))
    assert found.busy_s["cloud"][1] == pytest.approx(segment_s + exit_s + (1e-3 + 1e-5) / 2)


def test_a_prompt_beyond_one_forward_goes_up_while_the_rest_is_computed() -> None:
    slow = replace(LINK, up_bps=1e6)
    row_s = 8 * row_bytes("f32", 256) / 1e6
    one, two = (float(asked(pair(FixedExit(3), slow), prompt=p).ttft_s) for p in (512, 1024))
    assert two - one < 512 * (row_s + 2 * 0.4e-3)  # the link is slower: the device's part hides behind it
    assert two - one > 512 * row_s


def test_an_exit_of_the_entry_node_sends_nothing() -> None:
    found = asked(pair(FixedExit(2)))
    assert found.bytes_up_prompt == found.bytes_up_token == found.bytes_down_token == 0
    assert found.busy_s["cloud"] == (0.0, 0.0)
    assert found.tpot_s == asked(replace(pair(FixedExit(2)), places=PAIR[:1], links=())).tpot_s


def test_token_ids_cost_the_entry_node_nothing_and_bursts_share_a_round_trip() -> None:
    places = (PAIR[0], Place("cloud", (1, 2, 3)))
    plain = Deployment(SPEC, places, (LINK,), FixedExit(3), send="ids")
    burst = replace(plain, policy=FixedExit(3, burst=15))
    one, sixteen = asked(plain), asked(burst)
    assert one.bytes_up_token < 150
    assert one.flops["device"] == 0.0
    plain_s, burst_s = (float(found.ttft_s) + 32 * float(found.tpot_s) for found in (one, sixteen))
    assert plain_s - burst_s == pytest.approx((33 - 3) * (0.03 + 1e-3), rel=0.02), "33 tokens in three messages"


def test_flops_are_those_of_the_weights() -> None:
    layer = 2 * (2 * 256 * 64 * (4 + 2) + 3 * 256 * 640)
    found = asked(pair(FixedExit(3)))
    assert found.flops == {"device": 8 * layer, "cloud": 4 * layer + 2 * 256 * 32000}


def test_memory_is_the_process_its_graphs_and_what_sessions_hold() -> None:
    deployment = pair(FixedExit(3))
    machines = dict.fromkeys(("device", "cloud"), machine())
    one, eight = (predict(deployment, machines, 100, 28, sessions, STATISTICS).memory_bytes for sessions in (1, 8))
    position = 4096 + 4 * 256  # one segment's keys and values, and its rows; exit 3 has none
    assert one["cloud"] == 50e6 + 2 * 10e6 + 128 * position
    assert eight["cloud"] - one["cloud"] == 7 * 128 * position
    assert eight["device"] - one["device"] == 7 * 128 * 2 * position  # exits 1 and 2 are never asked


def test_speculation_takes_the_rounds_that_the_relay_takes() -> None:
    for right in (0.3, 0.7, 0.95):
        for draft, verify, row in ((7.0, 40.0, 1.0), (5.0, 5.0, 2.0), (8.0, 110.0, 0.5)):
            costs = Costs(draft, verify, row)
            for length in (1, 4, 9):
                plan, mean = relay_rate(costs, right, length, length), rounds(draft, verify, row, right, length)
                assert mean.tokens / mean.seconds == pytest.approx(plan.rate, rel=1e-3)
                plan = relay_rate(costs, right, length, length, overlap=False)
                mean = rounds(draft, verify, row, right, length, overlap=False)
                assert mean.tokens / mean.seconds == pytest.approx(plan.rate, rel=1e-3)
            mean = rounds(draft, verify, row, right, None)
            assert mean.tokens / mean.seconds >= relay_best(costs, right).rate * (1 - 1e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_more_of_anything_is_never_slower(policy: Policy) -> None:
    def texts_s(made: Machine, link: Link) -> float:
        found = asked(pair(policy, link), made)
        return float(found.ttft_s) + 32 * float(found.tpot_s)

    base = texts_s(machine(), LINK)
    assert texts_s(machine(2.0), LINK) < base
    for better in (replace(LINK, rtt_s=0.01), replace(LINK, up_bps=50e6), replace(LINK, down_bps=90e6)):
        assert texts_s(machine(), better) <= base
    assert texts_s(machine(), replace(LINK, jitter_s=0.005, loss=0.01)) >= base


@pytest.mark.parametrize(
    ("policy", "within"),
    [(FixedExit(3), 0.02), (FixedExit(2), 0.02), (ConfidenceExit(0.1), 0.06), (SpeculativeExit(3, 2, 4), 0.06)],
)
def test_one_session_alone_is_played_as_it_is_calculated(policy: Policy, within: float) -> None:
    deployment, machines, prompt, output = pair(policy), [machine(), machine()], 100, 400
    script = Script(deployment, machines, prompt, STATISTICS)
    noted = play(machines, 1, script.text, output, 1, 0.05)
    found = asked(deployment, prompt=prompt, output=output)
    assert np.mean(noted.steps_s) == pytest.approx(float(found.tpot_s), rel=within)
    if not isinstance(policy, ConfidenceExit):  # of its few texts one or the other is the median
        assert np.median(noted.ttft_s) == pytest.approx(float(found.ttft_s), rel=within)


def test_sessions_that_share_forwards_are_slower_each_and_faster_together() -> None:
    deployment = Deployment(SPEC, (Place("device", (1, 2, 3)),), (), FixedExit(3))
    times = [
        float(predict(deployment, {"device": machine()}, 16, 64, sessions, STATISTICS).tpot_s) for sessions in (1, 2, 8)
    ]
    assert times[0] < times[1] < times[2] < 8 * times[0] * 0.6


@pytest.mark.parametrize("policy", [FixedExit(3), ConfidenceExit(0.1)])
def test_links_of_arrays_are_many_links_at_once(policy: Policy) -> None:
    rtt_s, bps = np.array([0.01, 0.05, 0.2]), np.array([1e6, 1e7, 1e8])
    found = asked(pair(policy, replace(LINK, rtt_s=rtt_s, up_bps=bps)))  # type: ignore[arg-type]
    each = [asked(pair(policy, replace(LINK, rtt_s=r, up_bps=b))) for r, b in zip(rtt_s, bps, strict=True)]
    assert np.allclose(found.ttft_s, [one.ttft_s for one in each])
    assert np.allclose(found.tpot_s, [one.tpot_s for one in each])


def test_a_chain_of_three_passes_rows_over_both_links() -> None:
    deployment = Deployment(SPEC, CHAIN, (LINK, replace(LINK, rtt_s=0.1)), FixedExit(3), "int8")
    found = asked(deployment)
    assert found.link_up_token == (row_bytes("int8", 256) + FRAMING.up,) * 2
    assert 0.13 < float(found.tpot_s) < 0.16


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        (lambda: Deployment(SPEC, PAIR, (), FixedExit(3)), "2 places need 1 links, got 0"),
        (lambda: Deployment(SPEC, (PAIR[1],), (), FixedExit(3)), "expected to begin with 1"),
        (
            lambda: Deployment(SPEC, PAIR[:1], (), FixedExit(3)),
            "exit 3 is asked, but the last place ends with segment 2",
        ),
        (lambda: asked(pair(ConfidenceExit(0.3))), "shares of the exits at epsilon 0.3; the statistics have 0.1"),
        (lambda: predict(pair(FixedExit(3)), {"device": machine()}, 10, 10), "no machine for tier cloud"),
        (
            lambda: predict(
                pair(SpeculativeExit(3, 2)), dict.fromkeys(("device", "cloud"), machine()), 9, 9, 1, Statistics()
            ),
            "acceptance of drafts",
        ),
    ],
)
def test_what_does_not_fit_is_said(deployment, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DeploymentError, match="(?s).*" + said.replace(".", r"\.")):
        deployment()
