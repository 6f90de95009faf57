"""The runs of a sweep on many machines, through Ray (docs.ray.io); needs the extra `ray`.

The machines share no folder: texts travel once to each of them as token ids, and rows come back to the machine that
began, which alone writes and holds the claims. So a local `sweep-family run` of the same folder does not interfere.
"""

import importlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from training.sweep.corpus import Corpus
from training.sweep.errors import SweepError
from training.sweep.loop import train_run
from training.sweep.plan import Plan, Run
from training.sweep.rows import Row, append_row, make_row
from training.sweep.work import Effort, Place, claim, finished, open_corpus, tell, unfinished


def do_runs_on_ray(place: Place, plan: Plan, effort: Effort, address: str) -> None:
    """Do what is left of a plan on a Ray cluster; returns when all of it is done.

    Args:
        place: folder and texts, on this machine.
        plan: what is to be done.
        effort: threads of a run, its device (`cuda`: one GPU each), and how much is done; `workers` is the cluster's.
        address: of the cluster's head, as `ray.init` takes it; `local` makes one of this machine.

    Raises:
        SweepError: Ray is missing or cannot be reached, no machine is large enough for a run, a run failed, or the
            texts are not the plan's.
    """
    ray = _ray()
    corpus = open_corpus(place, plan)
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except Exception as error:  # what Ray raises has no common base
        raise SweepError(f"--ray {address}: no cluster there ({error}); start one with: ray start --head") from error
    try:
        _check_machines(ray.nodes(), effort, address)
        _do_all(ray, place, plan, corpus, effort)
    finally:
        ray.shutdown()


def _check_machines(nodes: Sequence[Mapping[str, Any]], effort: Effort, address: str) -> None:
    """Refuse runs that no machine of the cluster could ever begin."""
    needs = {"CPU": effort.threads, "GPU": int(effort.device == "cuda")}
    if not any(node["Alive"] and all(node["Resources"].get(k, 0) >= n for k, n in needs.items()) for node in nodes):
        gpu = " and a GPU" if needs["GPU"] else ""
        raise SweepError(
            f"--ray {address}: no machine there has {effort.threads} CPUs{gpu} for a run; start one, or lower --threads"
        )


def _do_all(ray: Any, place: Place, plan: Plan, corpus: Corpus, effort: Effort) -> None:
    remote = ray.remote(num_cpus=effort.threads, num_gpus=1 if effort.device == "cuda" else 0, max_retries=3)(_one)
    shared = ray.put((plan, corpus))
    deadline = None if effort.budget_s is None else time.time() + effort.budget_s
    failed: list[str] = []
    with ExitStack() as claims:
        runs = [r for r in unfinished(plan, place.folder, effort.limit) if claims.enter_context(claim(place.folder, r))]
        waiting = {remote.remote(shared, run, effort, deadline): run for run in runs if not finished(place.folder, run)}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            run = waiting.pop(done)
            try:
                row: Row | None = ray.get(done)
            except ray.exceptions.RayError as error:
                failed.append(f"{run}: {str(error).strip().splitlines()[-1]}")
                continue
            if row is not None:
                append_row(place.folder, row)
                tell(plan, run, row)
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(runs)} runs failed, the first of them {failed[0]}; finished rows are kept, run it "
            "again"
        )


def _one(shared: tuple[Plan, Corpus], run: Run, effort: Effort, deadline: float | None) -> Row | None:
    """One run, on whatever machine this is; None where it would begin after the deadline, a time of the epoch."""
    if deadline is not None and time.time() > deadline:
        return None
    plan, corpus = shared
    torch.set_num_threads(effort.threads)
    return make_row(plan, run, train_run(plan, run, corpus, effort.device), effort.device)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it otherwise sends facts on clusters home
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise SweepError("--ray needs the package ray; install it with: pip install 'familial[ray]'") from None
