import pytest

from family.spec import Exit
from training.flops import parameters
from training.presets import PRESETS, TABLES, fits, norm_exits, small_shape, table


@pytest.mark.parametrize("name", [n for n in PRESETS if n.startswith(("dense", "family"))])
def test_the_papers_models_have_the_parameters_of_their_names(name: str) -> None:
    billions = int(name.split("-")[1].removesuffix("b"))
    assert parameters(PRESETS[name]).total == pytest.approx(billions * 1e9, rel=0.01)


def test_the_vocabulary_of_the_presets_is_among_the_two_that_fit_the_names_best() -> None:
    shape = PRESETS["dense-1b"]
    best, second, third = fits()[:3]
    reading = (shape.vocab_size, shape.tied, True, shape.n_heads // shape.kv_heads)
    assert reading in [(f.vocab_size, f.tied, f.gated, f.queries_per_key) for f in (best, second)]
    assert second.error < 0.01 < 0.02 < third.error


def test_the_exits_are_table_2s() -> None:
    layers = {n: tuple(e.layer for e in PRESETS[n].exits) for n in PRESETS if n.startswith("family")}
    assert layers == {"family-2b": (10, 27), "family-3b": (6, 20, 36), "family-4b": (4, 16, 18, 41)}


def test_heads_of_the_papers_models_are_128_wide() -> None:
    assert {PRESETS[f"dense-{size}"].head_dim for size in TABLES} == {128}


def test_the_smollm2_preset_is_the_real_models_shape() -> None:
    assert parameters(PRESETS["smollm2-135m"]).total == 134_515_008


def test_a_small_shape_keeps_the_paper_like_proportions() -> None:
    shape = small_shape(96, 8, 6, 512, norm_exits(4, 8))
    assert (shape.n_heads, shape.kv_heads, shape.d_ff) == (6, 6, 256)
    assert shape.exits == (Exit(4, "norm"), Exit(8, "norm"))


def test_the_table_has_every_preset_and_the_papers_beside_their_names() -> None:
    lines = {line.split()[0]: line for line in table().splitlines()[1 : 1 + len(PRESETS)]}
    assert lines.keys() == PRESETS.keys()
    assert "Table 1, 2B 1,981,396,992 -0.9%  151936" in lines["dense-2b"]
    assert "Table 2, 2B 1,981,399,040 -0.9%  151936" in lines["family-2b"]
    assert lines["family-2b"].endswith("10 norm, 27 norm")
    assert "Table" not in lines["smollm2-135m"] and "%" not in lines["smollm2-135m"]
    assert sum("Table" in line for line in lines.values()) == 7
