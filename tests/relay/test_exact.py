"""The signature: through three nodes, every token is provably the one its exit's full model would have produced."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from relay.client.types import Token
from relay.policy import ExitSchedule
from tests.conftest import ROOT, SMOLLM
from tests.relay.servers import chain, text
from training.base import load_base
from training.checkpoint import load_family
from training.loaded import LoadedFamily

PROMPTS = (ROOT / "tests" / "prompts.txt").read_text(encoding="utf-8").splitlines()
TOKENS = 64


@pytest.fixture(scope="module")
def family() -> LoadedFamily:
    return load_family(ROOT / "families" / SMOLLM, load_base(None))


def test_relayed_f32_logits_are_the_pytorch_sub_models_on_twenty_prompts(
    smollm_f32: Path, family: LoadedFamily
) -> None:
    encode = family.base.tokenizer
    prompts = [encode(prompt).input_ids for prompt in PROMPTS]
    assert len(prompts) == 20

    async def relay_all() -> list[list[Token]]:
        async with chain(smollm_f32, threads=2) as nodes:
            return [
                await text(
                    nodes.device, ids, policy=ExitSchedule(seed), max_tokens=TOKENS, logits=True, ignore_stop=True
                )
                for seed, ids in enumerate(prompts)
            ]

    worst = 0.0
    for ids, tokens in zip(prompts, asyncio.run(relay_all()), strict=True):
        assert len(tokens) == TOKENS
        whole = torch.tensor([ids + [token.id for token in tokens]])
        for exit_ in {token.exit for token in tokens}:
            with torch.no_grad():
                expected = family.submodel(exit_)(whole).logits[0].numpy()
            for token in tokens:
                if token.exit == exit_:
                    row = expected[token.position - 1]
                    assert token.logits is not None
                    worst = max(worst, float(np.abs(token.logits - row).max() / np.ptp(row)))
                    assert token.id == int(row.argmax())
    assert worst <= 1e-4
