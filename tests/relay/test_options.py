"""What a request may ask for beside a prompt, through real nodes on a tiny family with real graphs."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relay.client.aio import AsyncRelayClient
from relay.client.types import Finish, GenerateOptions, Prompt, Token
from relay.decide import STATISTICS, is_sure
from relay.errors import IdsUnknownError, InvalidRequestError, NoUpstreamError, UnknownExitError
from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, Policy, Rule, target_exit
from relay.sampling import Penalties, Sampling, penalised, sample
from tests.relay.processes import Gate, eventually
from tests.relay.servers import Chain, address, chain, config, running, single, text

PROMPT = list(range(3, 20))
SAMPLED: dict[str, Any] = {"max_tokens": 20, "ignore_stop": True, "temperature": 1.0, "top_p": 0.95, "seed": 11}
GREEDY: dict[str, Any] = {"max_tokens": 20, "ignore_stop": True}


def ids(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def with_chain(bundle: Path, scenario: Callable[[Chain], Awaitable[None]]) -> None:
    async def run() -> None:
        async with chain(bundle) as nodes:
            await scenario(nodes)

    asyncio.run(run())


async def texts(nodes: Chain, prompt: Prompt, **options: Any) -> tuple[list[Token], list[Finish]]:
    async with AsyncRelayClient(address(nodes.device)) as client:
        stream = client.generate(prompt, **GenerateOptions(**options))
        return [token async for token in stream], stream.finishes


@pytest.mark.parametrize("policy", [FixedExit(3), ExitSchedule(5), ConfidenceExit(0.02)], ids=str)
def test_a_seed_gives_one_text_through_one_process_and_three_nodes(policy: Policy, tiny_bundle_int4: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        async with single(tiny_bundle_int4) as one:
            whole = await text(one, PROMPT, policy=policy, **SAMPLED)
            relayed = await text(nodes.device, PROMPT, policy=policy, **SAMPLED)
            again = await text(nodes.device, PROMPT, policy=policy, **SAMPLED)
            other = await text(nodes.device, PROMPT, policy=policy, **{**SAMPLED, "seed": 12})
        assert ids(whole) == ids(relayed) == ids(again) != ids(other)
        assert [t.exit for t in whole] == [t.exit for t in relayed]

    with_chain(tiny_bundle_int4, scenario)


def test_a_seed_gives_one_text_whatever_exits_the_session_was_used_with_before(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        fresh = await text(nodes.device, PROMPT, policy=FixedExit(3), **SAMPLED)
        for number, before in enumerate((FixedExit(1), FixedExit(2), ExitSchedule(1), ExitSchedule(2))):
            kept = {"session": f"kept-{number}", "keep": True}
            await text(nodes.device, PROMPT[:-2], policy=before, **SAMPLED, **kept)
            tokens, (finish,) = await texts(nodes, PROMPT, policy=FixedExit(3), **SAMPLED, **kept)
            assert finish.cached_tokens == len(PROMPT) - 2
            assert ids(tokens) == ids(fresh)

    with_chain(tiny_bundle, scenario)


def test_every_sampled_token_is_the_pure_function_of_its_logits(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        tokens = await text(nodes.device, PROMPT, policy=ExitSchedule(2), logits=True, samples=2, **SAMPLED)
        for token in tokens:
            assert token.logits is not None
            rule = Sampling(1.0, top_p=0.95, seed=11, index=token.sample)
            assert token.id == sample(token.logits, rule, token.position)

    with_chain(tiny_bundle, scenario)


def test_a_missing_seed_is_drawn_and_told(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        unseeded = {key: value for key, value in SAMPLED.items() if key != "seed"}
        async with AsyncRelayClient(address(nodes.device)) as client:
            streams = [client.generate(PROMPT, **GenerateOptions(**unseeded)) for _ in range(2)]
            first, second = [[token async for token in stream] for stream in streams]
            again = client.generate(PROMPT, **GenerateOptions(**unseeded, seed=streams[0].seed))
            assert ids(first) != ids(second)
            assert ids([token async for token in again]) == ids(first)

    with_chain(tiny_bundle, scenario)


def test_samples_are_texts_of_their_own_and_the_prompt_is_computed_once(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        tokens, finishes = await texts(nodes, PROMPT, samples=3, **SAMPLED)
        assert [finish.sample for finish in finishes] == [0, 1, 2]
        assert [finish.cached_tokens for finish in finishes] == [0, len(PROMPT) - 1, len(PROMPT) - 1]
        by_sample = [[t for t in tokens if t.sample == i] for i in range(3)]
        assert len({tuple(ids(one)) for one in by_sample}) == 3
        assert [t.position for t in by_sample[2]] == [t.position for t in by_sample[0]]
        assert ids(by_sample[0]) == ids(await text(nodes.device, PROMPT, **SAMPLED))

    with_chain(tiny_bundle, scenario)


@pytest.mark.parametrize("statistic", list(STATISTICS))
def test_a_token_leaves_at_the_first_exit_that_is_sure_and_every_node_decides_for_itself(
    statistic: str, tiny_bundle: Path
) -> None:
    async def scenario(nodes: Chain) -> None:
        by_exit = [await text(nodes.device, PROMPT, policy=FixedExit(g), logits=True, **GREEDY) for g in (1, 2)]
        values = [STATISTICS[statistic](_softmax(token)) for tokens in by_exit for token in tokens]
        seen = set[int]()
        for threshold in np.quantile(values, (0.1, 0.4, 0.6, 0.9)):
            policy = ConfidenceExit(float(threshold), statistic)  # type: ignore[arg-type]
            relayed = await text(nodes.device, PROMPT, policy=policy, logits=True, **{**GREEDY, "max_tokens": 8})
            assert [t.tier for t in relayed] == [("device", "edge", "cloud")[t.exit - 1] for t in relayed]
            seen |= {token.exit for token in relayed}
            await check(nodes, relayed, policy.rule())
        assert seen == {1, 2, 3}

    async def check(nodes: Chain, relayed: list[Token], rule: Rule) -> None:
        said = list(PROMPT)
        for token in relayed:
            for exit_ in (1, 2, 3):
                (own,) = await text(nodes.device, said, policy=FixedExit(exit_), logits=True, max_tokens=1)
                if exit_ == 3 or is_sure(rule, exit_, _softmax(own)):
                    break
            assert (token.exit, token.id) == (exit_, own.id)
            assert token.logits is not None and own.logits is not None and np.array_equal(token.logits, own.logits)
            said.append(token.id)

    with_chain(tiny_bundle, scenario)


def test_the_deepest_exit_of_a_confidence_policy_may_be_given(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        never_sure = ConfidenceExit(1.0, deepest=2)
        assert {t.exit for t in await text(nodes.device, PROMPT, policy=never_sure, **GREEDY)} == {2}
        assert nodes.edge.node.link.messages == 0 and len(nodes.cloud.node.sessions) == 0
        always_sure = ConfidenceExit(0.0)
        assert {t.exit for t in await text(nodes.device, PROMPT, policy=always_sure, **GREEDY)} == {1}
        with pytest.raises(UnknownExitError, match=r"exit 4 is unknown; this family has exits 1\.\.3"):
            await text(nodes.device, PROMPT, policy=ConfidenceExit(0.5, deepest=4), **GREEDY)

    with_chain(tiny_bundle, scenario)


def test_a_policy_may_change_in_mid_text(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        gate = Gate(nodes.device.node.engine, free=5)
        async with AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate(PROMPT, policy=FixedExit(1), **GREEDY)
            tokens = [await anext(stream) for _ in range(5)]
            assert await stream.steer(FixedExit(3))
            gate.open()
            tokens += [token async for token in stream]
            assert not await stream.steer(FixedExit(1)), "it is complete"
        # The sixth token's policy was asked before the gate held it.
        assert [t.exit for t in tokens] == [1] * 6 + [3] * 14
        mixed = PROMPT + ids(tokens[:6])
        assert ids(tokens[6:]) == ids(
            await text(nodes.device, mixed, policy=FixedExit(3), **{**GREEDY, "max_tokens": 14})
        )

    with_chain(tiny_bundle, scenario)


def test_a_text_may_be_steered_before_its_first_token(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        gate = Gate(nodes.device.node.engine)
        async with AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate(PROMPT, policy=FixedExit(1), **GREEDY)
            assert await stream.steer(FixedExit(2))
            gate.open()
            exits = [token.exit async for token in stream]
            assert exits == [1] + [2] * 19, "the first one's policy was asked before"
            refused = client.generate([], policy=FixedExit(1))
            assert not await refused.steer(FixedExit(2))
            with pytest.raises(InvalidRequestError, match="prompt is empty"):
                await anext(refused)

    with_chain(tiny_bundle, scenario)


def test_a_bad_policy_does_not_change_a_text(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        async with AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate(PROMPT, policy=FixedExit(1), **GREEDY)
            await anext(stream)
            with pytest.raises(UnknownExitError, match="exit 9"):
                await stream.steer(FixedExit(9))
            assert {token.exit async for token in stream} == {1}

    with_chain(tiny_bundle, scenario)


def test_stop_strings_and_ids_end_a_text(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        whole, _ = await texts(nodes, PROMPT, **GREEDY)
        full = "".join(t.text for t in whole)
        stop = full[9:13]
        cut, (finish,) = await texts(nodes, PROMPT, stop=["never seen", stop], **GREEDY)
        assert "".join(t.text for t in cut) == full[: full.index(stop)]
        assert (finish.reason, finish.stop, finish.tokens) == ("stop", stop, len(cut))
        assert len(cut) < len(whole)
        by_id, (finish,) = await texts(nodes, PROMPT, stop_ids=[whole[4].id], **GREEDY)
        assert ids(by_id) == ids(whole)[: ids(whole).index(whole[4].id) + 1]
        assert (finish.reason, finish.stop) == ("stop", "")

    with_chain(tiny_bundle, scenario)


def test_log_probabilities_are_those_of_the_exits_logits(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        tokens = await text(nodes.device, PROMPT, policy=ExitSchedule(3), logprobs=5, logits=True, **SAMPLED)
        for token in tokens:
            assert token.logits is not None and token.logprobs is not None
            expected = torch.log_softmax(torch.tensor(token.logits).double(), 0)
            best = expected.topk(5)
            assert token.logprobs.token == pytest.approx(float(expected[token.id]), abs=1e-5)
            assert [i for i, _ in token.logprobs.top] == best.indices.tolist()
            assert [v for _, v in token.logprobs.top] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert all(t.logprobs is None for t in await text(nodes.device, PROMPT, **SAMPLED))

    with_chain(tiny_bundle, scenario)


def test_penalties_work_where_the_ids_are_known_and_are_refused_elsewhere(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        penalised: dict[str, Any] = {"repetition_penalty": 1.3, "frequency_penalty": 30.0, **GREEDY}
        tokens = await text(nodes.device, PROMPT, policy=FixedExit(1), **penalised)
        assert len(set(ids(tokens))) == len(tokens), "a frequency penalty of 30 lets nothing be said twice"
        for policy in (None, FixedExit(2), ExitSchedule(1), ConfidenceExit(0.5)):
            chosen = {} if policy is None else {"policy": policy}
            with pytest.raises(IdsUnknownError, match="leave the penalties out, or choose a policy"):
                await text(nodes.device, PROMPT, **chosen, **penalised)
        async with single(tiny_bundle) as one:
            assert len(await text(one, PROMPT, policy=ExitSchedule(1), **penalised)) == 20

    with_chain(tiny_bundle, scenario)


def test_a_policy_that_would_end_the_text_is_refused_to_who_steers_and_the_text_lives(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        gate = Gate(nodes.device.node.engine, free=3)
        async with AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate(PROMPT, policy=FixedExit(1), presence_penalty=1.0, **GREEDY)
            with pytest.raises(IdsUnknownError, match="exits up to 1"):
                await stream.steer(FixedExit(3))
            gate.open()
            assert {token.exit async for token in stream} == {1}
        async with running(config(tiny_bundle, "device")) as alone, AsyncRelayClient(address(alone)) as client:
            gate = Gate(alone.node.engine, free=3)
            stream = client.generate(PROMPT, **GREEDY)
            with pytest.raises(NoUpstreamError, match="exit 3 lies beyond segment 1"):
                await stream.steer(FixedExit(3))
            gate.open()
            assert len([token async for token in stream]) == 20

    with_chain(tiny_bundle, scenario)


def test_a_text_may_be_steered_from_a_fixed_exit_to_confidence_and_back(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        gate = Gate(nodes.device.node.engine, free=3)
        async with AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate(PROMPT, policy=FixedExit(1), **GREEDY)
            tokens = [await anext(stream) for _ in range(3)]
            assert await stream.steer(ConfidenceExit(1.0, deepest=2))
            gate.open()
            tokens += [token async for token in stream]
        assert [t.exit for t in tokens] == [1] * 4 + [2] * 16
        gate = Gate(nodes.device.node.engine, free=3)
        async with AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate(PROMPT, policy=ConfidenceExit(0.0), **GREEDY)
            tokens = [await anext(stream) for _ in range(3)]
            assert await stream.steer(FixedExit(3))
            gate.open()
            tokens += [token async for token in stream]
        assert [t.exit for t in tokens] == [1] * 4 + [3] * 16

    with_chain(tiny_bundle, scenario)


def test_a_kept_session_computes_only_what_is_new_and_says_the_same(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        kept: dict[str, Any] = {"session": "talk", "keep": True, "policy": ExitSchedule(4), **GREEDY}
        first, _ = await texts(nodes, PROMPT, **kept)
        assert nodes.sessions()[0] == 1
        turn = PROMPT + ids(first) + [7, 8, 9]
        second, (finish,) = await texts(nodes, turn, **kept)
        assert finish.cached_tokens == len(PROMPT) + len(first) - 1
        assert ids(second) == ids(await text(nodes.device, turn, policy=ExitSchedule(4), **GREEDY))
        third, (finish,) = await texts(nodes, [99, *PROMPT], **kept)
        assert finish.cached_tokens == 0
        assert ids(third) == ids(await text(nodes.device, [99, *PROMPT], policy=ExitSchedule(4), **GREEDY))

    with_chain(tiny_bundle, scenario)


def test_kept_sessions_give_way_to_new_ones(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with single(tiny_bundle, max_sessions=2) as one:
            for name in ("a", "b", "c"):
                await text(one, PROMPT, session=name, keep=True, **GREEDY)
            assert ["a" in one.node.sessions, "b" in one.node.sessions, "c" in one.node.sessions] == [False, True, True]
            await text(one, PROMPT, **GREEDY)
            assert len(one.node.sessions) == 1

    asyncio.run(scenario())


def test_a_session_that_is_kept_for_later_gives_way_upstream_too(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(tiny_bundle, max_sessions=1) as nodes:
            for name in ("a", "b", "a"):
                tokens = await text(nodes.device, PROMPT, session=name, keep=True, **GREEDY)
                assert len(tokens) == 20
                await eventually(lambda: nodes.cloud.node.sessions.streams(name) == 0)  # noqa: B023

    asyncio.run(scenario())


def test_a_kept_text_that_is_cut_short_costs_nothing_of_what_was_computed(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        async with AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate(PROMPT, session="cut", keep=True, ignore_stop=True)
            await anext(stream)
            await stream.aclose()
            await eventually(lambda: nodes.device.node.sessions.streams("cut") == 0)
        tokens, (finish,) = await texts(nodes, PROMPT, session="cut", keep=True, **GREEDY)
        assert finish.cached_tokens == len(PROMPT) - 1
        assert ids(tokens) == ids(await text(nodes.device, PROMPT, **GREEDY))

    with_chain(tiny_bundle, scenario)


def test_every_turn_of_a_kept_session_has_its_own_deadline_and_request_on_every_node(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        for number, timeout in enumerate((5.0, None)):
            async with AsyncRelayClient(address(nodes.device)) as client:
                options = GenerateOptions(session="turns", keep=True, max_tokens=4, ignore_stop=True)
                if timeout is not None:
                    options["timeout"] = timeout
                stream = client.generate(PROMPT + [5] * number, **options)
                await anext(stream)
                for server in (nodes.device, nodes.edge, nodes.cloud):
                    assert server.node.sessions.request_id("turns") == stream.request_id
                    assert (server.node.sessions.deadline("turns") is None) == (timeout is None)
                _ = [token async for token in stream]
            await eventually(lambda: nodes.edge.node.sessions.streams("turns") == 0)

    with_chain(tiny_bundle, scenario)


def test_filters_and_penalties_reach_the_exit_that_decides(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        filtered: dict[str, Any] = {"temperature": 1.5, "top_k": 40, "min_p": 0.05, "seed": 3, **GREEDY}
        for token in await text(nodes.device, PROMPT, logits=True, **filtered):
            assert token.logits is not None
            assert token.id == sample(token.logits, Sampling(1.5, top_k=40, min_p=0.05, seed=3), token.position)
        options: dict[str, Any] = {"repetition_penalty": 1.7, "presence_penalty": 0.5, **GREEDY}
        said: list[int] = []
        for token in await text(nodes.device, PROMPT, logits=True, policy=FixedExit(1), **options):
            adjust = penalised(Penalties(1.7, 0.5), PROMPT, said)
            assert token.logits is not None and adjust is not None
            assert token.id == int(adjust(token.logits).argmax())
            said.append(token.id)

    with_chain(tiny_bundle, scenario)


def test_a_stop_string_ends_each_sample_for_itself(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        free, _ = await texts(nodes, PROMPT, samples=3, **SAMPLED)
        whole = ["".join(t.text for t in free if t.sample == i) for i in range(3)]
        stop = whole[0][len(whole[0]) // 2]
        cut, finishes = await texts(nodes, PROMPT, samples=3, stop=stop, **SAMPLED)
        for i, finish in enumerate(finishes):
            assert "".join(t.text for t in cut if t.sample == i) == whole[i].partition(stop)[0]
            assert (finish.reason, finish.stop) == (("stop", stop) if stop in whole[i] else ("length", ""))

    with_chain(tiny_bundle, scenario)


def test_a_hops_time_is_measured_and_told(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        tokens = await text(nodes.device, PROMPT, **GREEDY)
        assert all(token.link_ms > 0 for token in tokens)
        assert all(token.link_ms + token.engine_ms < token.elapsed_ms for token in tokens)
        async with AsyncRelayClient(address(nodes.device)) as client:
            device, edge, cloud = await client.describe()
        assert 0 < device.hop_ms_p50 <= device.hop_ms_p99 and edge.hop_ms_p50 > 0
        assert (cloud.hop_ms_p50, cloud.hop_ms_p99) == (0, 0)
        assert target_exit(FixedExit(3), 0, 3) == tokens[0].exit

    with_chain(tiny_bundle, scenario)


def _softmax(token: Token) -> np.ndarray:
    assert token.logits is not None
    return torch.softmax(torch.tensor(token.logits), 0).numpy()
