"""Segments and exits, relayed, are the model builder's uncut graph to the bit."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from exporter.build import MODEL_FILE, quiet, run_builder
from exporter.cut import norm_before
from exporter.errors import ExportError
from exporter.graphs import Part
from exporter.head import EMBEDDED
from exporter.huggingface import save_base
from family.graphs import INPUT_IDS, LOGITS
from relay.engine.graph import by_sequence, session_options
from relay.views import Forward
from tests.exporter.helpers import F32, I64, Bundle
from training.loaded import LoadedFamily

N = 40


def with_outputs(source: Path, names: list[str], target: Path) -> ort.InferenceSession:
    """A session of the model at `source` that also gives the named tensors; `target` is beside its data."""
    model = onnx.load(str(source), load_external_data=False)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(model, str(target))
    return ort.InferenceSession(str(target), session_options(2), providers=["CPUExecutionProvider"])


def embedded(bundle: Path, family: LoadedFamily, ids: I64) -> F32:
    """The rows that segment 1's embedding gives, [1, n, d_model]."""
    session = with_outputs(bundle / "segment-1.onnx", [EMBEDDED], bundle / "embedded.onnx")
    slots = np.zeros((1, family.spec.kv_heads, 2 * len(ids) + 1, family.spec.head_dim), np.float32)
    inputs = {i.name: slots for i in session.get_inputs() if i.name.startswith("past_")}
    view: Any = SimpleNamespace()
    inputs |= {INPUT_IDS: ids[None], **by_sequence([Forward(view, ids, 0)], [0], 1)}
    rows: F32 = session.run([EMBEDDED], inputs)[0]
    return rows


def uncut(family: LoadedFamily, source: Path, layers: list[int], rows: F32) -> tuple[list[F32], F32]:
    """The residual stream after these numbers of layers, and the logits, of the builder's own whole graph."""
    out = source.parent / "built"
    out.mkdir()
    run_builder(source, ["exclude_embeds=true"], out)
    names = [f"/model/layers.{layer}/input_layernorm/output_3" for layer in layers]
    session = with_outputs(out / MODEL_FILE, names, out / "whole.onnx")
    empty = np.zeros((1, family.spec.kv_heads, 0, family.spec.head_dim), np.float32)
    inputs = {i.name: empty for i in session.get_inputs() if i.name.startswith("past_")}
    inputs |= {EMBEDDED: rows, "attention_mask": np.ones((1, rows.shape[1]), np.int64)}
    *states, logits = session.run([*names, LOGITS], inputs)
    return [state[0] for state in states], logits[0]


def test_relayed_rows_and_logits_are_those_of_the_uncut_graph(
    tiny_family: LoadedFamily, tiny_bundle: Path, tmp_path: Path
) -> None:
    ids = np.random.default_rng(3).integers(0, 512, N)
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    bundle = Bundle(folder, ids)
    with quiet():
        source = save_base(tiny_family, tmp_path / "base")
    rows, logits = uncut(tiny_family, source, [2, 4], embedded(folder, tiny_family, ids))
    for found, expected in zip(bundle.rows[1:3], rows, strict=True):
        assert np.array_equal(found, expected)
    assert np.array_equal(bundle.one_shot(bundle.manifest.graph("exit", 3)), logits)


@pytest.mark.parametrize("g", [1, 2])
def test_an_early_exits_logits_are_those_of_the_uncut_sub_model(
    g: int, tiny_family: LoadedFamily, tiny_bundle: Path, tmp_path: Path
) -> None:
    ids = np.random.default_rng(4).integers(0, 512, N)
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    bundle = Bundle(folder, ids)
    tiny_family.submodel(g).save_pretrained(tmp_path / "sub")
    tiny_family.base.tokenizer.save_pretrained(tmp_path / "sub")
    (state,), logits = uncut(tiny_family, tmp_path / "sub", [2 * g], embedded(folder, tiny_family, ids))
    assert np.array_equal(bundle.rows[g], state)
    assert np.array_equal(bundle.one_shot(bundle.manifest.graph("exit", g)), logits)


def test_a_graph_without_the_expected_norms_is_refused() -> None:
    with pytest.raises(ExportError, match="no skip norm before layer 2"):
        norm_before(Part([], {}), 2)
