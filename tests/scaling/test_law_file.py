import base64
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.fit import fit
from scaling.law import FittedLaw
from scaling.lawfile import load_law, save_law
from tests.scaling.runs import grid_runs


@cache
def law() -> FittedLaw:
    return fit(grid_runs().without_highest(1), "full", bootstraps=40, seed=1)


def test_a_law_comes_back_as_it_was(tmp_path: Path) -> None:
    save_law(law(), tmp_path / "law.json")
    back = load_law(tmp_path / "law.json")
    for name in ("form", "method", "seed", "objective", "sigma", "conventions", "certificate", "data", "findings"):
        assert getattr(back, name) == getattr(law(), name), name
    assert back.theta.tolist() == law().theta.tolist()
    assert back.covariance is not None and np.array_equal(back.covariance, np.asarray(law().covariance))
    assert back.draws == pytest.approx(law().draws, rel=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["law.json"]


def test_a_file_is_strict_json_that_says_what_it_was_made_with(tmp_path: Path) -> None:
    save_law(law(), tmp_path / "law.json")
    data = json.loads((tmp_path / "law.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert data["schema_version"] == 2 and data["versions"].keys() == {"python", "familial", "numpy", "scipy"}
    assert list(data["parameters"]) == ["e", "a", "b", "alpha", "beta", "gamma"]
    assert len(base64.b64decode(data["draws"]["data"])) == 40 * 6 * 4


def test_the_same_law_is_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_law(fit(grid_runs(), "full", bootstraps=10, seed=1), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def _nan(data: dict[str, Any]) -> None:
    data["draws"]["data"] = base64.b64encode(np.full(240, np.nan, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda d: d.update(schema_version=1),
            "schema_version: this release reads version 2, the file is of 1; fit it",
        ),
        (lambda d: d.pop("theta", None) or d.pop("sigma"), "sigma: missing"),
        (lambda d: d.update(extra=1), "extra: unknown field"),
        (lambda d: d.update(form="cubic"), "form: expected one of dense, tied, full, reducible, M0"),
        (
            lambda d: d.update(form="dense"),
            "parameters: expected e, a, b, alpha, beta, got e, a, b, alpha, beta, gamma",
        ),
        (lambda d: d["parameters"].update(alpha="0.3"), 'parameters.alpha: expected a number, got a string ("0.3")'),
        (lambda d: d["parameters"].update(alpha=float("nan")), "NaN is no JSON number"),
        (lambda d: d["parameters"].update(alpha=10**400), "parameters.alpha: expected a number that fits a float"),
        (lambda d: d["parameters"].update(alpha=0.3), "sha256: the file was changed after fit-law wrote it"),
        (lambda d: d["covariance"].pop(), "covariance: expected 6 rows of 6 numbers"),
        (lambda d: d["draws"].update(count=41), "draws.data: expected 41 draws of 6 numbers, got 960 bytes"),
        (lambda d: d["draws"].update(data="?"), "draws.data: "),
        (lambda d: d["draws"].update(encoding="hex"), "draws.encoding: expected 'base64 of"),
        (_nan, "draws.data: expected finite numbers"),
        (lambda d: d["conventions"].update(params="some"), "conventions.params: expected one of total, non-embedding"),
    ],
)
def test_a_file_that_is_no_law_of_this_release_is_refused_with_advice(
    tmp_path: Path, change: Any, problem: str
) -> None:
    path = tmp_path / "law.json"
    save_law(law(), path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ScalingError) as refused:
        load_law(path)
    assert problem in str(refused.value) and str(refused.value).endswith(
        f"; fit it again with: fit-law RUNS --out {path}"
    )


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each number, text and truth value stands; of a list the first."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(1, len(value))):
            yield from _places(value[key], (*path, key))
    else:
        yield path


def _changed(value: Any) -> list[Any]:
    """Other values of the same type, impossible ones among them."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [value + "x", "", "\ud800"]
    return [2 * value + 1, -value - 1, 10**9 if isinstance(value, int) else 1e300]


def test_a_file_in_which_anything_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    save_law(law(), path)
    text = path.read_text()
    places = list(_places(json.loads(text)))
    assert {place[0] for place in places} == json.loads(text).keys()
    for *folders, name in places:
        for new in [*_changed(_at(json.loads(text), (*folders, name))), None]:
            data = json.loads(text)
            _at(data, folders)[name] = new
            path.write_text(json.dumps(data))
            with pytest.raises(ScalingError, match="fit it again with"):
                load_law(path)
    path.write_text(text)
    assert load_law(path).seed == law().seed


def _at(value: Any, path: Iterable[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def test_a_file_that_another_program_wrote_again_is_still_the_law(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    save_law(law(), path)
    path.write_text(json.dumps(_whole(json.loads(path.read_text())), sort_keys=True, separators=(",", ":")))
    assert load_law(path).theta.tolist() == law().theta.tolist()


def _whole(value: Any) -> Any:
    """1.0 as 1, as some programs write it."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize("content", ["", "[]", "N,D,loss\n1,2,3\n", "[" * 100_000])
def test_what_is_no_json_object_is_refused_and_nobody_is_told_to_write_over_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "runs.csv").write_text(content)
    with pytest.raises(ScalingError, match=r"is no law file; write one with: fit-law RUNS --out law\.json"):
        load_law(tmp_path / "runs.csv")


@pytest.mark.parametrize("content", [b"{", b'{"a": ' * 100_000, b"{}", b'{"a": "\xff"}'])
def test_half_a_law_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "law.json").write_bytes(content)
    with pytest.raises(ScalingError, match="fit it again with"):
        load_law(tmp_path / "law.json")


def test_a_folder_is_no_law(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match="is a folder; name a law file in it"):
        load_law(tmp_path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ScalingError, match=r"none\.json: no such file; write one with: fit-law RUNS --out none\.json"):
        load_law(Path("none.json"))
