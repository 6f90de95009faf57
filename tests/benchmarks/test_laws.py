"""Published laws come out of the public data again, to the digits that were printed."""

from functools import cache
from typing import Any

import pytest

from benchmarks import laws, public
from tests.scaling.runs import real


@cache
def result() -> dict[str, Any]:
    for name in (public.CHINCHILLA, public.PORIAN, public.GADRE):
        real(name.removeprefix("scaling/"))
    return laws.measure(draws=400)


def rows(law: str, data: str = "") -> dict[str, dict[str, Any]]:
    """By data and quantity."""
    found = [row for row in result()["rows"] if row["law"] == law and data in row["data"]]
    return {f"{row['data']}: {row['quantity']}": row for row in found}


def test_the_replications_law_and_its_standard_errors() -> None:
    found = {row["quantity"]: row for row in rows("Chinchilla").values()}
    assert list(found) == list(laws.REPLICATION)
    for name, row in found.items():
        assert row["low"] < row["published"] < row["high"], name
        assert abs(row["value"] - row["published"]) < 0.1 * row["published_error"], name
        if name not in ("A", "B"):  # heavy tails
            assert row["error_ratio"] == pytest.approx(1, abs=0.15), name  # 0.1 with 4,000 draws


def test_all_three_approaches_stand_beside_what_hoffmann_et_al_found() -> None:
    found = list(rows("Hoffmann et al.").values())
    assert [row["published"] for row in found] == [0.50, 0.49, 0.46]
    assert all(row["low"] < row["value"] < row["high"] for row in found)


def test_porians_exponents_of_all_experiments() -> None:
    found = rows("Porian et al.")
    assert len(found) == 15
    for name, row in found.items():
        assert row["value"] == pytest.approx(row["published"], abs=1e-4), name
        assert row["low"] < row["published"] < row["high"], name


@pytest.mark.parametrize("text", public.TEXTS)
def test_gadres_fit_of_five_runs_comes_out_as_printed(text: str) -> None:
    found = rows("Gadre et al.", f"{text}, 5 runs")
    units = {"E": 0.01, "A": 1.0, "b": 1.0, "eta": 0.001}
    assert len(found) == 7
    for name, row in found.items():
        unit = units.get(row["quantity"], 0.001)  # errors are printed as 0.8%; 2 eta is printed, once 0.272 for 0.273
        assert row["value"] == pytest.approx(row["published"], abs=0.51 * unit), name


def test_eta_of_all_runs_has_an_interval_and_no_invented_publication() -> None:
    found = rows("Gadre et al.", "all ")
    assert len(found) == 6 and all(0.1 < row["low"] < row["value"] < row["high"] < 0.2 for row in found.values())
    assert [name for name, row in found.items() if row["published"] is None] == [
        f"{text}, all {count} runs on Paloma's {text}: eta"
        for text, count in (("C4", 34), ("RedPajama", 35), ("RefinedWeb", 35))
    ]


def test_the_table_has_every_number() -> None:
    lines = laws.table(result()).splitlines()
    assert len(lines) == 2 + len(result()["rows"]) + 2
    assert "| Chinchilla | 240 points | alpha | 0.3473 | " in laws.table(result())
