from pathlib import Path

import pytest
import torch

from benchmarks.placement import marks, measure, own_texts, table
from training.base import LoadedBase, load_base


@pytest.fixture(scope="module")
def base(tiny_base_dir: Path) -> LoadedBase:
    return load_base(str(tiny_base_dir))


def test_layers_know_the_more_of_the_next_token_the_deeper_they_are(base: LoadedBase) -> None:
    result = measure(own_texts(base), base)
    layers = {r["layer"]: r for r in result["layers"]}
    assert sorted(layers) == [1, 2, 3, 4, 5] and result["sequences"] == 64
    assert layers[1]["agreement"] < layers[3]["agreement"] < layers[5]["agreement"] < 1
    assert all(r["agreement"] <= r["coverage"] + 0.1 for r in layers.values()) and layers[5]["saved"] == 0
    assert table(result).count("\n") == 7


def test_a_probe_on_what_it_is_to_predict_finds_it() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, other = (torch.randn(n, 16, generator=generator) for n in (4000, 100))
    head = torch.nn.Linear(16, 50, bias=False).requires_grad_(False)
    labels = torch.zeros(100, dtype=torch.long)
    probe, exact = (marks(seen, other, rows, head, labels) for seen in (rows.clone(), rows))
    assert (probe.top == exact.top).mean() > 0.85
