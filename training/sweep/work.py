"""Who does which run: any number of workers on one machine, each taking the next run that nobody has.

A run is claimed by a lock on a file of its id, which the kernel frees when its owner ends, however it ends: a killed
run is simply not done, and the next worker to come by does it from the start. Rows decide what is finished.
"""

import fcntl
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from family.cli import run as run_command
from training.sweep.corpus import Corpus, load_corpus
from training.sweep.errors import SweepError
from training.sweep.loop import train_run
from training.sweep.plan import Plan, Run
from training.sweep.rows import Row, append_row, make_row, read_rows

CLAIMS_NAME = ".claims"


@dataclass(frozen=True)
class Place:
    """Where a sweep lies and where its texts are."""

    folder: Path
    data: Path
    cache: Path
    """For token files."""


@dataclass(frozen=True)
class Effort:
    """How much is done, and by whom."""

    workers: int
    threads: int
    """Of each worker."""
    device: str
    limit: int | None = None
    """Only the plan's first so many runs."""
    budget_s: float | None = None
    """No run is begun after so many seconds."""


def open_corpus(place: Place, plan: Plan) -> Corpus:
    """The texts of a plan. Raises `SweepError` if they are not those that the plan was made with."""
    corpus = load_corpus(plan.design.texts, place.data, place.folder, place.cache)
    if corpus.facts != plan.corpus:
        raise SweepError(
            f"{place.data}: other texts than the plan was made with, or another tokenizer; make the plan anew with: "
            f"sweep-family plan {place.folder}"
        )
    return corpus


def unfinished(plan: Plan, folder: Path, limit: int | None) -> list[Run]:
    """Runs among the plan's first `limit` that have no row yet."""
    done = {row.id for row in read_rows(folder)}
    return [run for run in plan.runs[:limit] if run.id not in done]


def do_runs(place: Place, plan: Plan, effort: Effort) -> None:
    """Do what is left of a plan, with as many processes as `effort` says; returns when nothing is left for them.

    Raises:
        SweepError: the texts are not the plan's, there is no such device, or a worker failed.
    """
    if effort.device == "cuda" and not torch.cuda.is_available():
        raise SweepError("--device cuda: PyTorch finds no GPU here")
    if not unfinished(plan, place.folder, effort.limit):
        return
    corpus = open_corpus(place, plan)  # tokenizes once, before there are workers
    if effort.workers == 1:
        work(place, plan, corpus, effort)
        return
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(place, plan, effort)) for _ in range(effort.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = sum(1 for worker in workers if worker.exitcode)
    if failed:
        raise SweepError(f"{failed} of {len(workers)} workers failed, see above; finished rows are kept, run it again")


def work(place: Place, plan: Plan, corpus: Corpus, effort: Effort) -> None:
    """Be one worker."""
    torch.set_num_threads(effort.threads)
    started = time.monotonic()
    for run in unfinished(plan, place.folder, effort.limit):
        late = effort.budget_s is not None and time.monotonic() - started > effort.budget_s
        if late or _orphaned():
            return
        with claim(place.folder, run) as mine:
            if mine and not finished(place.folder, run):
                row = make_row(plan, run, train_run(plan, run, corpus, effort.device), effort.device)
                append_row(place.folder, row)
                tell(plan, run, row)


@contextmanager
def claim(folder: Path, run: Run) -> Iterator[bool]:
    """Whether this process, and no other, may do the run while the block lasts."""
    claims = folder / CLAIMS_NAME
    claims.mkdir(exist_ok=True)
    with (claims / run.id).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def finished(folder: Path, run: Run) -> bool:
    """Whether the run has a row."""
    return any(row.id == run.id for row in read_rows(folder))


def tell(plan: Plan, run: Run, row: Row) -> None:
    """One line on stderr about a finished run."""
    number = next(i for i, other in enumerate(plan.runs, 1) if other.id == run.id)
    losses = "diverged" if row.loss is None else f"loss {row.loss:.4f} ({_join(row.exit_losses)})"
    print(f"[{number}/{len(plan.runs)}] {run}: {losses}, {row.seconds:.0f} s", file=sys.stderr, flush=True)  # noqa: T201


def _join(losses: Sequence[float]) -> str:
    return " ".join(f"{loss:.3f}" for loss in losses)


def _worker(place: Place, plan: Plan, effort: Effort) -> None:
    def command() -> None:
        work(place, plan, open_corpus(place, plan), effort)

    run_command(command, name="sweep-family", extra="train")


def _orphaned() -> bool:
    """Whether this is a worker whose `sweep-family run` was killed: it goes away after the run at hand."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
