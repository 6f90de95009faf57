"""A profile survives its file, and every error says which file, which field, and what to do."""

import json
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

BUNDLE = BundleProfile(
    spec=SPEC,
    family="f" * 64,
    export="e" * 64,
    precision="int4",
    graphs=(GraphProfile("segment", 1, (ForwardTime(1, 0, 0, 1, 0.5),)),),
    memory=(SegmentMemory(1, 1000),),
    texts=(TextTime(1, 1, "f32", 16, 24, 12.0, 3.0),),
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
