"""The benchmark of codecs measures a bundle by itself."""

from pathlib import Path

import pytest

from benchmarks import codecs, report
from relay.codec import row_bytes
from relay.names import Codec


def test_costs_are_those_of_the_worst_exit_and_sizes_those_of_the_wire(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "held-out.txt"
    text.write_text("The relay begins on the phone, and nobody reads the question twice. " * 60)
    monkeypatch.setattr(report, "bundle", lambda precision: tiny_bundle)
    monkeypatch.setattr(report, "data", lambda name: text)
    monkeypatch.setattr(codecs, "TOKENS", 600)
    monkeypatch.setattr(codecs, "ROUNDS", 1)
    result = codecs.measure()
    assert result["tokens"] == 512
    for name, per in result["exits"].items():
        assert sorted(per) == ["exit_2", "exit_3"]
        assert result[f"nats_{name}"] == max(e["nats"] for e in per.values())
        assert result["agreement"][name] == min(e["agreement"] for e in per.values())
    assert result["bytes_per_row"] == {codec.label: row_bytes(codec, result["d_model"]) for codec in Codec}
    assert all(us > 0 for per in result["microseconds_per_row"].values() for us in per.values())
    text = codecs.table(result)
    assert "| int4 | 3 | " in text and f"| bf16 | {result['bytes_per_row']['bf16']} | " in text
