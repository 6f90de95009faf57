"""A family specification is read strictly, and every error names the field."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from family.errors import FamilialError, SpecError
from family.spec import SPEC_VERSION, Base, Exit, FamilySpec, load_spec, save_spec
from family.strict import FieldError, to_json

SPEC = FamilySpec(
    schema_version=SPEC_VERSION,
    name="small",
    base=Base("someone/model", "0" * 64),
    architecture="LlamaForCausalLM",
    n_layers=6,
    d_model=64,
    d_ff=160,
    n_heads=4,
    kv_heads=2,
    head_dim=16,
    vocab_size=512,
    context=256,
    exits=(Exit(2, "block"), Exit(4, "lowrank", 8), Exit(6, "norm")),
)


def test_a_spec_survives_the_file(tmp_path: Path) -> None:
    save_spec(SPEC, tmp_path / "spec.json")
    assert load_spec(tmp_path / "spec.json") == SPEC


def test_segments_lie_between_the_exits() -> None:
    assert [(s.index, s.first_layer, s.last_layer, s.n_layers) for s in SPEC.segments] == [
        (1, 0, 2, 2),
        (2, 2, 4, 2),
        (3, 4, 6, 2),
    ]
    assert SPEC.granularity == 3
    assert SPEC.exit(2) == Exit(4, "lowrank", 8)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n_layers": 0}, "n_layers"),
        ({"context": -1}, "context"),
        ({"kv_heads": 3}, "kv_heads"),
        ({"exits": ()}, "exits"),
        ({"exits": (Exit(2, "block"), Exit(5, "norm"))}, "exits"),
        ({"exits": (Exit(4, "block"), Exit(2, "block"), Exit(6, "norm"))}, "exits"),
        ({"exits": (Exit(0, "block"), Exit(6, "norm"))}, "exits"),
        ({"exits": (Exit(2, "tree"), Exit(6, "norm"))}, "exits[0].branch"),
        ({"exits": (Exit(2, "block"), Exit(6, "block"))}, "exits[1].branch"),
        ({"exits": (Exit(2, "lowrank"), Exit(6, "norm"))}, "exits[0].rank"),
        ({"exits": (Exit(2, "lowrank", 65), Exit(6, "norm"))}, "exits[0].rank"),
        ({"exits": (Exit(2, "block", 8), Exit(6, "norm"))}, "exits[0].rank"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as error:
        replace(SPEC, **change)
    assert str(error.value).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("n_layers",), "6", 'n_layers: expected an integer, got a string ("6")'),
        (("n_layers",), True, "n_layers: expected an integer, got true or false (true)"),
        (("n_layers",), 6.0, "n_layers: expected an integer, got a number (6.0)"),
        (("name",), None, "name: expected a string, got null"),
        (("base",), [], "base: expected an object, got a list"),
        (("base", "weights_sha256"), 3, "base.weights_sha256: expected a string, got an integer (3)"),
        (("exits",), {}, "exits: expected a list, got an object"),
        (("exits", 1, "layer"), "4", 'exits[1].layer: expected an integer, got a string ("4")'),
        (("layers",), 6, "layers: unknown field"),
        (("schema_version",), 99, "schema_version: this release reads version 2, the file is of 99"),
        (("schema_version",), 1, "schema_version: this release reads version 2, the file is of 1"),
    ],
)
def test_a_wrong_value_is_named(path: tuple[Any, ...], value: object, told: str, tmp_path: Path) -> None:
    data = to_json(SPEC)
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (tmp_path / "spec.json").write_text(json.dumps(data))
    with pytest.raises(SpecError) as error:
        load_spec(tmp_path / "spec.json")
    assert f"spec.json: {told}" in str(error.value)


@pytest.mark.parametrize("field", ["name", "base", "exits", "schema_version"])
def test_a_missing_field_is_named(field: str, tmp_path: Path) -> None:
    data = to_json(SPEC)
    del data[field]
    (tmp_path / "spec.json").write_text(json.dumps(data))
    with pytest.raises(SpecError, match=f"{field}: missing"):
        load_spec(tmp_path / "spec.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe"])
def test_a_file_that_is_no_spec_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_bytes(content)
    with pytest.raises(SpecError, match=r"spec\.json"):
        load_spec(tmp_path / "spec.json")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a family folder holds"):
        load_spec(tmp_path / "spec.json")
    assert issubclass(SpecError, FamilialError)
