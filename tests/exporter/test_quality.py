"""`quality` is what training's evaluation finds, on the graphs that were written."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import exits, report
from exporter.bundle import Held, export
from exporter.cli import table
from exporter.quality import bundle_tokenizer, measure_quality
from exporter.runner import GraphRunner
from family.files import sha256_file
from family.manifest import load_manifest
from relay.codec import carried
from relay.names import Codec
from training.data import eval_ids
from training.errors import DataError
from training.evaluate import evaluate, family_logits
from training.loaded import LoadedFamily


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "held-out.txt"
    path.write_text("The relay begins on the phone, and nobody reads the question twice. " * 60)
    return path


def test_quality_has_the_figures_of_pytorch_and_the_protocol(
    tiny_family: LoadedFamily, text: Path, tmp_path: Path
) -> None:
    tokenizer = tiny_family.base.tokenizer
    said: list[str] = []
    export(tiny_family, tmp_path / "b", "f32", held=Held(text, 600), say=said.append)
    quality = load_manifest(tmp_path / "b").quality
    assert quality is not None
    expected = evaluate(family_logits(tiny_family.model), eval_ids(text, tokenizer, 601), 256, 256)
    assert (quality.tokens, quality.window, quality.stride) == (512, 256, 256)
    assert (quality.text, quality.text_sha256) == ("held-out.txt", sha256_file(text))
    for found, wanted in zip(quality.exits, expected.exits, strict=True):
        assert found.exit == wanted.exit
        assert found.cross_entropy == pytest.approx(wanted.cross_entropy, rel=1e-5)
        assert found.agreement == pytest.approx(wanted.agreement, abs=0.01)
    assert quality.exits[-1].agreement == 1.0
    assert np.isfinite([e.cross_entropy for e in quality.exits]).all()
    assert any("512 tokens" in line for line in said)


def test_eight_bits_cost_little(tiny_family: LoadedFamily, text: Path, tmp_path: Path) -> None:
    found = export(tiny_family, tmp_path / "b", "int8", held=Held(text, 600)).quality
    assert found is not None
    expected = evaluate(family_logits(tiny_family.model), eval_ids(text, tiny_family.base.tokenizer, 601), 256, 256)
    for whole, exact in zip(found.exits, expected.exits, strict=True):
        assert whole.cross_entropy == pytest.approx(exact.cross_entropy, rel=0.01)
        assert whole.agreement == pytest.approx(exact.agreement, abs=0.05)


def test_every_codec_is_measured_at_every_exit_that_rows_are_sent_to(
    tiny_family: LoadedFamily, text: Path, tmp_path: Path
) -> None:
    said = export(tiny_family, tmp_path / "b", "f32", held=Held(text, 600)).quality
    quality = load_manifest(tmp_path / "b").quality
    assert quality is not None and quality == said
    assert [(c.codec, c.exit) for c in quality.codecs] == [(c, g) for c in ("bf16", "int8", "int4") for g in (2, 3)]
    exact = {e.exit: e.cross_entropy for e in quality.exits}
    cost = {(c.codec, c.exit): abs(c.cross_entropy - exact[c.exit]) for c in quality.codecs}
    same = {(c.codec, c.exit): c.agreement for c in quality.codecs}
    assert 0 < max(cost["bf16", 2], cost["bf16", 3]) < 0.01
    assert min(same["bf16", 2], same["bf16", 3]) > 0.95
    assert same["int4", 3] < min(same["int8", 3], same["bf16", 3])
    assert f"3, int4     {quality.codecs[-1].cross_entropy:>15.3f}" in table(load_manifest(tmp_path / "b"))


def test_rows_arrive_rounded_as_a_codec_says(tiny_family: LoadedFamily, text: Path, tiny_bundle: Path) -> None:
    manifest = load_manifest(tiny_bundle)
    tokenizer = bundle_tokenizer(tiny_bundle, manifest)
    found = measure_quality(tiny_bundle, manifest.graphs, manifest.spec, tokenizer, text, 300, [Codec.INT4])
    ids = eval_ids(text, tokenizer, 257)
    runners = {graph.name: GraphRunner(tiny_bundle, graph, manifest.spec) for graph in manifest.graphs}
    rows = runners["segment-1"].run(ids[:-1], 0)
    for g in (2, 3):
        rows = runners[f"segment-{g}"].run(carried(rows, Codec.INT4), 0)
        logits = runners[f"exit-{g}"].run(rows, 0).astype(np.float64)
        nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(256), ids[1:]]
        assert found.codecs[g - 2].cross_entropy == pytest.approx(nats.mean(), abs=1e-5)


def test_the_benchmark_measures_a_bundle_by_itself(
    tiny_family: LoadedFamily, tiny_bundle: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = eval_ids(text, bundle_tokenizer(tiny_bundle, load_manifest(tiny_bundle)), 10_000)
    assert np.array_equal(ids, eval_ids(text, tiny_family.base.tokenizer, 10_000))
    monkeypatch.setattr(report, "bundle", lambda precision: tiny_bundle)
    monkeypatch.setattr(report, "data", lambda name: text)
    monkeypatch.setattr(exits, "TOKENS", 600)
    result = exits.measure()
    expected = evaluate(family_logits(tiny_family.model), ids[:601], 256, 256)
    assert result["f32"]["tokens"] == result["int4"]["tokens"] == 512
    for score in expected.exits:
        assert result["f32"]["cross_entropy"][f"exit_{score.exit}"] == pytest.approx(score.cross_entropy, abs=1e-3)
    assert "| f32 | 3 |" in exits.table(result)


def test_a_text_shorter_than_a_window_is_refused_and_nothing_is_written(
    tiny_family: LoadedFamily, tmp_path: Path
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Too short.")
    with pytest.raises(DataError, match="fewer than one window"):
        export(tiny_family, tmp_path / "b", "f32", held=Held(text, 600))
    assert [p.name for p in tmp_path.iterdir()] == ["short.txt"]
