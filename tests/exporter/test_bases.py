"""Every kind of base that can be a trunk is exported, and relays what its sub-models say."""

import asyncio
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from family.spec import Exit
from relay.policy import ExitSchedule
from tests.conftest import tiny_export
from tests.exporter.helpers import Bundle, chunks, wandering
from tests.relay.servers import chain, single, text
from tests.tiny import tiny_config, tiny_family, write_tiny_base
from training.base import load_base

EXITS = (Exit(2, "block"), Exit(4, "lowrank", 12), Exit(6, "norm"))
WINDOW = 20
BASES = {
    "qwen2": tiny_config(Qwen2Config, tie_word_embeddings=False),
    "qwen3": tiny_config(Qwen3Config, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=3),
    "mistral": tiny_config(MistralConfig, sliding_window=None),
    "mistral-sliding": tiny_config(MistralConfig, sliding_window=WINDOW),
}
PROMPT = list(range(3, 50))  # longer than a window
N = 60


@pytest.mark.parametrize("config", BASES.values(), ids=BASES.keys())
def test_a_family_on_any_base_relays_what_its_sub_models_say(config: PretrainedConfig, tmp_path: Path) -> None:
    family = tiny_family(load_base(str(write_tiny_base(tmp_path / "base", config=config))), exits=EXITS)

    async def relayed(precision: str) -> list[tuple[int, int, int]]:
        options = {"policy": ExitSchedule(3), "max_tokens": 24, "ignore_stop": True}
        async with chain(tmp_path / precision) as nodes, single(tmp_path / precision) as one:
            found, whole = [
                [(t.position, t.exit, t.id) for t in await text(client, PROMPT, **options)]
                for client in (nodes.device, one)
            ]
        assert found == whole
        return found

    for precision in ("f32", "int4"):
        bundle = Bundle(
            tiny_export(family, tmp_path / precision, precision), np.random.default_rng(0).integers(0, 512, N)
        )
        for graph in bundle.manifest.graphs:
            expected, runner = bundle.one_shot(graph), bundle.runner(graph)
            for history in (chunks(cycle([1]), N), wandering(0, N)):
                assert np.array_equal(bundle.replay(runner, history), expected), (precision, graph.name)
        tokens = asyncio.run(relayed(precision))
        assert len(tokens) == 24 and {exit_ for _, exit_, _ in tokens} == {1, 2, 3}
        if precision == "f32":
            ids = torch.tensor([PROMPT + [id_ for _, _, id_ in tokens]])
            for position, exit_, id_ in tokens:
                with torch.no_grad():
                    assert id_ == int(family.submodel(exit_)(ids[:, :position]).logits[0, -1].argmax())
