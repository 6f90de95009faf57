"""A frozen trunk's rows are computed once for every window and are the trunk's own, whatever happened on the way."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from training.errors import CheckpointError
from training.keptrows import KEY_BYTES, KeptRows
from training.loaded import LoadedFamily
from training.objective import Objective

IDS = torch.tensor([[5, 99, 300, 42], [7, 180, 501, 33], [7, 180, 501, 33], [8, 8, 8, 8]])


def same(family: LoadedFamily, kept: KeptRows, ids: torch.Tensor) -> bool:
    found, context = kept.states(family.model, ids)
    expected, own = family.model.states(ids)
    assert torch.equal(context.position_ids, own.position_ids)
    return all(torch.allclose(found[g], expected[g], atol=1e-5) for g in (1, 2, 3))


def test_rows_are_the_trunks_and_it_runs_once_for_a_window(
    family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptRows(tmp_path / "rows", "run")
    assert same(family, kept, IDS[:3]) and same(family, kept, IDS[1:])
    first, _ = kept.states(family.model, IDS)
    monkeypatch.setattr(type(family.model), "states", lambda *_: pytest.fail("the trunk ran again"))
    again, _ = kept.states(family.model, IDS.flip(0))
    assert all(torch.equal(first[g], again[g].flip(0)) for g in first)


def test_a_killed_run_finds_its_whole_rows_and_no_others(family: LoadedFamily, tmp_path: Path) -> None:
    kept = KeptRows(tmp_path, "run")
    kept.states(family.model, IDS)
    kept.close()
    whole = (tmp_path / "rows").stat().st_size
    os.truncate(tmp_path / "rows", whole - 5)
    again = KeptRows(tmp_path, "run")
    assert same(family, again, IDS[:2]) and (tmp_path / "rows").stat().st_size == whole // 3 * 2
    assert same(family, again, IDS) and (tmp_path / "rows").stat().st_size == whole
    again.close()
    other = KeptRows(tmp_path, "another run")
    assert same(family, other, IDS[:1]) and (tmp_path / "rows").stat().st_size == whole // 3


def test_processes_share_what_they_keep(family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = KeptRows(tmp_path, "run"), KeptRows(tmp_path, "run")
    assert same(family, one, IDS[:1]) and same(family, two, IDS[1:]) and same(family, one, IDS[3:])
    assert (tmp_path / "keys").stat().st_size == 3 * KEY_BYTES
    monkeypatch.setattr(type(family.model), "states", lambda *_: pytest.fail("the trunk ran again"))
    first, _ = one.states(family.model, IDS)
    second, _ = two.states(family.model, IDS)
    assert all(torch.equal(first[g], second[g]) for g in first)


def test_processes_that_add_at_the_same_time_mix_nothing_up(family: LoadedFamily, tmp_path: Path) -> None:
    ids = torch.arange(240).view(60, 4)
    stores = [KeptRows(tmp_path, "run") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found in [pool.submit(keep_all, store, family, ids.roll(15 * k, 0)) for k, store in enumerate(stores)]:
            found.result()
    assert (tmp_path / "keys").stat().st_size == 60 * KEY_BYTES
    assert all(same(family, store, ids) for store in (*stores, KeptRows(tmp_path, "run")))


def keep_all(store: KeptRows, family: LoadedFamily, ids: torch.Tensor) -> None:
    for windows in ids.split(3):
        store.states(family.model, windows)


def test_a_full_disk_is_told_and_leaves_whole_rows(
    family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptRows(tmp_path, "run")
    kept.states(family.model, IDS[:1])
    write = os.write

    def full(file: int, content: memoryview) -> int:
        if len(content) < 2000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content[:1000])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*make room.*--passes 1"):
        kept.states(family.model, IDS[1:2])
    monkeypatch.undo()
    kept.close()
    assert same(family, KeptRows(tmp_path, "run"), IDS)


def test_rows_that_have_no_room_are_refused_before_the_first(family: LoadedFamily, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be kept \(3072000000\.0 GB are needed and .* free\); make room"):
        KeptRows(tmp_path, "run", windows=10**15).states(family.model, IDS)
    assert same(family, KeptRows(tmp_path, "run", windows=4), IDS)


def test_the_loss_and_its_gradient_are_those_without(family: LoadedFamily, tmp_path: Path) -> None:
    model = family.model
    model.requires_grad_(False)
    model.branches.requires_grad_(True)
    model.objective = Objective(kind="kl")
    found = []
    for kept in (None, KeptRows(tmp_path, "run")):
        model.kept_rows = kept
        output = model(IDS, labels=IDS)
        found.append((output.loss.detach(), torch.autograd.grad(output.loss, list(model.branches.parameters()))))
    (loss, grads), (other, others) = found
    torch.testing.assert_close(loss, other)
    for grad, again in zip(grads, others, strict=True):
        torch.testing.assert_close(grad, again)
