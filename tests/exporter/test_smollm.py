"""The real model, on this machine's kernels: chunks change no bit, and parity is what the exporter demands."""

import os
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from exporter.parity import TEXT
from family.manifest import load_manifest, verify_files
from tests.conftest import EXPORTER, ROOT, is_current
from tests.exporter.helpers import Bundle, chunks, wandering

N = 96


@pytest.fixture(scope="module", params=["smollm_f32", "smollm_int8", "smollm_int4"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_every_split_gives_the_bits_of_one_shot(folder: Path, threads: int) -> None:
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    bundle = Bundle(folder, np.array(ids[:N]))
    assert len(bundle.rows[0]) == N
    for graph in bundle.manifest.graphs:
        expected = bundle.one_shot(graph)
        runner = bundle.runner(graph, threads)
        for history in (chunks([N - 16, *[1] * 16], N), chunks(cycle([2, 7, 1]), N), wandering(0, N)):
            assert np.array_equal(bundle.replay(runner, history), expected), graph.name


def test_the_bundle_is_as_it_was_written(folder: Path) -> None:
    manifest = load_manifest(folder)
    verify_files(manifest, folder, manifest.files)
    assert [e.layer for e in manifest.spec.exits] == [10, 24, 30]
    exact = manifest.precision == "f32"
    errors = [p.max_error if exact else p.rms_error for p in manifest.parity.values()]
    assert len(errors) == 6 and max(errors) < {"f32": 1e-5, "int8": 0.05, "int4": 0.03}[manifest.precision]
    assert max(p.f32_error for p in manifest.parity.values()) < (1e-5 if exact else 0.06)


def test_a_bundle_older_than_its_exporter_or_its_family_is_made_again(tmp_path: Path) -> None:
    bundle, family = tmp_path / "bundle", tmp_path / "family"
    paths = [bundle / "manifest.json", family / "spec.json", family / "branch-1.safetensors", family / "report.json"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    manifest, _, branch, report = paths
    written = manifest.stat().st_mtime
    assert is_current(bundle, family)
    os.utime(report, (written + 9, written + 9))
    assert is_current(bundle, family)
    os.utime(branch, (written + 9, written + 9))
    assert not is_current(bundle, family)
    os.utime(branch, (written, written))
    os.utime(manifest, (0, 0))
    assert not is_current(bundle, family)
    manifest.unlink()
    assert not is_current(bundle, family)


def test_make_and_the_tests_agree_on_what_a_bundle_is_made_by() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    line = next(line for line in lines if line.startswith("EXPORTER :="))
    assert line.rpartition(",")[2].rstrip(")").split() == list(EXPORTER)
