"""A profile survives its file, and every error says which file, which field, and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from family.errors import ProfileError
from family.profile import (
    PROFILE_VERSION,
    BundleProfile,
    ForwardTime,
    GraphProfile,
    MachineFacts,
    NodeMemory,
    Profile,
    SegmentMemory,
    TextTime,
    load_profile,
    save_profile,
)
from tests.family.test_spec import SPEC

Change = Callable[[dict[str, Any]], object]

BUNDLE = BundleProfile(
    spec=SPEC,
    family="f" * 64,
    export="e" * 64,
    precision="int4",
    graphs=tuple(
        GraphProfile(kind, g, (ForwardTime(1, 0, 0, 1, 0.5), ForwardTime(2, 9, 0, 2, 0.7)))
        for g in range(1, SPEC.granularity + 1)
        for kind in ("segment", "exit")
    ),
    memory=(SegmentMemory(1, 1000),),
    texts=tuple(TextTime(1, g, "f32", 16, 24, 12.0, 3.0) for g in (1, SPEC.granularity)),
    nodes=(NodeMemory((1,), 50_000_000),),
)
PROFILE = Profile(PROFILE_VERSION, MachineFacts("a cpu", 2, 2**34, "Linux", "1.32.0"), 1, 20.0, (BUNDLE,))


def test_a_profile_survives_the_file(tmp_path: Path) -> None:
    save_profile(PROFILE, tmp_path / "p.json")
    assert load_profile(tmp_path / "p.json") == PROFILE


def test_a_precision_that_was_not_measured_is_named_beside_those_that_were() -> None:
    assert PROFILE.bundle("int4") is BUNDLE
    with pytest.raises(ProfileError, match=r"a cpu has precisions int4, not f32"):
        PROFILE.bundle("f32")


def _edited(path: Path, **changes: Any) -> Path:
    save_profile(PROFILE, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def _forward(**changes: Any) -> Change:
    return lambda bundle: bundle["graphs"][1]["forwards"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bundle: bundle["graphs"].pop(), f"graphs: exit-{SPEC.granularity} is missing"),
        (lambda bundle: bundle["graphs"][0].update(forwards=[]), "graphs[0].forwards: expected one of a single row"),
        (lambda bundle: bundle["graphs"][0]["forwards"].pop(), "graphs[0].forwards: expected one of several sessions"),
        (_forward(ms=0.0), "graphs[1].forwards[0]: expected a time, and a row of each session"),
        (_forward(sessions=2), "graphs[1].forwards[0]: expected a time, and a row of each session"),
        (_forward(context=7), "graphs[1].forwards: expected one of a single row with nothing before it"),
        (lambda bundle: bundle["texts"].pop(), f"texts: expected one of exit {SPEC.granularity} with exact rows"),
        (lambda bundle: bundle.update(nodes=[]), "nodes: expected at least one"),
    ],
)
def test_what_a_cost_cannot_be_made_of_is_said(change: Change, said: str, tmp_path: Path) -> None:
    path = _edited(tmp_path / "p.json")
    data = json.loads(path.read_text())
    change(data["bundles"][0])
    path.write_text(json.dumps(data))
    with pytest.raises(ProfileError) as found:
        load_profile(path)
    assert said in str(found.value) and "write it again with relay-node profile" in str(found.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 99}, "schema_version: this release reads version 1, the file is of 99"),
        ({"bundles": []}, "bundles: expected at least one"),
        ({"threads": "two"}, "threads: expected an integer"),
        ({"surprise": 1}, "surprise: unknown field"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ProfileError) as error:
        load_profile(_edited(tmp_path / "p.json", **changes))
    assert said in str(error.value) and "p.json" in str(error.value) and "relay-node profile" in str(error.value)


def test_no_file_and_no_json_are_said(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ProfileError, match="not JSON"):
        load_profile(tmp_path / "bad.json")


def test_two_bundles_of_one_precision_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    save_profile(PROFILE, path)
    data = json.loads(path.read_text())
    data["bundles"] *= 2
    path.write_text(json.dumps(data))
    with pytest.raises(ProfileError, match="different precisions"):
        load_profile(path)
