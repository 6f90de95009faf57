"""`rows.jsonl`: one line per finished run, with all that a fit of the law needs to know of it."""

import errno
import fcntl
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from family.strict import FieldError, canonical, from_json
from training.flops import parameters, training_flops
from training.report import library_versions
from training.sweep.errors import SweepError
from training.sweep.loop import Outcome
from training.sweep.plan import Plan, Run

ROW_VERSION = 1
ROWS_NAME = "rows.jsonl"


@dataclass(frozen=True)
class Row:
    """A finished run. Losses are nats per token on held-out text."""

    schema_version: int
    id: str
    """`Run.id`."""
    plan_sha256: str
    budget_flops: float
    flops: float
    """C, of the tokens that were really trained on."""
    flops_per_token: float
    parameters: int
    """N."""
    non_embedding: int
    head: int
    """H."""
    vocab_size: int
    tokens: int
    """D."""
    unique_tokens: int
    epochs: float
    granularity: int
    """G."""
    exit_layers: tuple[int, ...]
    placement: str
    branch: str
    """Kind of the early exits' branches; that of the last exit, `norm`, at G = 1."""
    weights: tuple[float, ...]
    """w_g of eq. 3."""
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    window: int
    batch: int
    steps: int
    lr: float
    seed: int
    exit_losses: tuple[float, ...]
    """L_1..L_G over all held-out text; empty if the run diverged."""
    held_out: Mapping[str, tuple[float, ...]]
    """The same by text."""
    held_out_tokens: int
    bytes_per_token: float
    """Of the held-out text: loss / bytes_per_token is nats per byte, whatever the vocabulary."""
    seconds: float
    """Of training."""
    threads: int
    device: str
    precision: str
    machine: str
    versions: Mapping[str, str]
    finished: str
    """UTC."""
    loss: float | None = None
    """Mean of `exit_losses`: L of the law. None if the run diverged."""
    rank: int | None = None
    """Of low-rank branches."""
    depth_of: str | None = None
    """`Run.depth_of`."""


def make_row(plan: Plan, run: Run, outcome: Outcome, device: str) -> Row:
    """The row of a run."""
    shape, recipe, corpus = plan.shape(run), plan.design.recipe, plan.corpus
    n = parameters(shape)
    per_token = training_flops(shape, recipe.window).total
    tokens = [text.tokens for text in corpus.held_out]
    exit_losses = _mean(outcome.held_out, tokens)
    return Row(
        schema_version=ROW_VERSION,
        id=run.id,
        plan_sha256=plan.sha256,
        budget_flops=run.budget_flops,
        flops=per_token * run.tokens,
        flops_per_token=per_token,
        parameters=n.total,
        non_embedding=n.non_embedding,
        head=n.head,
        vocab_size=shape.vocab_size,
        tokens=run.tokens,
        unique_tokens=corpus.unique_tokens,
        epochs=round(run.tokens / corpus.unique_tokens, 4),
        granularity=run.granularity,
        exit_layers=tuple(e.layer for e in run.exits),
        placement=run.placement,
        branch=run.exits[0].branch,
        rank=run.exits[0].rank,
        weights=(1 / run.granularity,) * run.granularity,
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        d_ff=shape.d_ff,
        window=recipe.window,
        batch=recipe.batch,
        steps=run.tokens // recipe.step_tokens,
        lr=run.lr,
        seed=run.seed,
        depth_of=run.depth_of,
        loss=sum(exit_losses) / len(exit_losses) if exit_losses else None,
        exit_losses=exit_losses,
        held_out=dict(zip((text.file for text in corpus.held_out), outcome.held_out, strict=False)),
        held_out_tokens=sum(tokens),
        bytes_per_token=sum(t.tokens * t.bytes_per_token for t in corpus.held_out) / sum(tokens),
        seconds=round(outcome.seconds, 2),
        threads=torch.get_num_threads(),
        device=device,
        precision=recipe.precision,
        machine=_machine(device),
        versions=library_versions(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def read_rows(folder: Path) -> list[Row]:
    """All rows of a sweep folder, none if there is no file. Half a line at the end, of a writer that died, is no row.

    Raises:
        SweepError: a line is malformed; the text names it.
    """
    path = folder / ROWS_NAME
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            rows.append(from_json(Row, json.loads(line)))
        except (FieldError, ValueError, TypeError) as error:
            raise SweepError(
                f"{path}, line {number}: {error}; mend that line, or delete it to do the run again"
            ) from None
    return rows


def append_row(folder: Path, row: Row) -> None:
    """Add a row: whole, on disk, one writer at a time. What a writer that died or a full disk left of one goes."""
    line = canonical(row) + b"\n"
    with (folder / ROWS_NAME).open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        file.truncate(end)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def _mean(held_out: tuple[tuple[float, ...], ...], tokens: list[int]) -> tuple[float, ...]:
    """Over texts, by their tokens."""
    return tuple(
        sum(x * n for x, n in zip(losses, tokens, strict=True)) / sum(tokens) for losses in zip(*held_out, strict=True)
    )


def _machine(device: str) -> str:
    """What computed it, without a name that only its owner knows."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    flags: Mapping[str, Any] = torch.cpu.get_capabilities()
    return f"{flags.get('cpu_name', platform.machine())}, {os.cpu_count()} cores"
