"""Measures the risk of every prompt under every rule, on the bundle's own graphs, in several processes.

Results do not depend on the number of processes, nor on whether the measurement was stopped and went on.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from exporter.confidence.errors import ConfidenceError
from exporter.confidence.table import TABLE_VERSION, Header, RuleTested, Table, load_table, save_table
from exporter.confidence.tuning import candidates
from exporter.confidence.worker import count, observe, start
from family.files import sha256_file
from family.manifest import load_manifest
from relay.policy import Rule, Statistic

CHECK_EVERY = 8
"""Every so many prompts a session as nodes have it writes one of the texts too."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and on what."""

    bundle: Path
    prompts: Path
    statistics: tuple[Statistic, ...]
    epsilons: tuple[float, ...]
    """What the rules to be tested are made for."""
    tuning_prompts: int
    tokens: int
    """Most tokens of a text."""
    seed: int = 0
    """Of the order of the prompts."""
    most: int | None = None
    """Most prompts beside those for tuning."""
    workers: int = 1
    """Processes, each with the bundle in memory."""
    threads: int = 1
    """Of each."""


def measure(plan: Plan, path: Path, say: Callable[[str], None] = lambda _: None) -> Table:
    """Measure what the table at `path` lacks, and write it there prompt by prompt.

    `say` is told what is being done. Raises `ConfidenceError` for prompts that cannot be used, and for a table of
    another measurement.
    """
    prompts = read_prompts(plan.prompts)
    order = [int(i) for i in np.random.default_rng(plan.seed).permutation(len(prompts))]
    tuning, rest = order[: plan.tuning_prompts], order[plan.tuning_prompts :][: plan.most]
    if not rest:
        raise ConfidenceError(
            f"{plan.prompts}: {len(prompts)} prompts, and {plan.tuning_prompts} of them are for tuning; give more of "
            "them, or a smaller --tuning"
        )
    with _processes(plan) as pool:
        header = _header(plan)
        table = load_table(path) if path.is_file() else None
        if table is not None and replace(table.header, rules=()) != header:
            raise ConfidenceError(f"{path}: of another bundle, file or setting; remove it, or give another --table")
        if table is None:
            table = Table(replace(header, rules=_rules(plan, pool, [prompts[i] for i in tuning], say)), ())
            save_table(table, path)
        rules = tuple(Rule(rule.statistic, rule.thresholds) for rule in table.header.rules)  # type: ignore[arg-type]
        rows = {row.prompt: row for row in table.rows}
        tasks = []
        for number, i in enumerate(rest):
            check = rules[number // CHECK_EVERY % len(rules)] if number % CHECK_EVERY == 0 else None
            if i not in rows:
                tasks.append(pool.submit(count, i, prompts[i], rules, plan.tokens, check))
        for task in as_completed(tasks):
            row = task.result()
            rows[row.prompt] = row
            save_table(Table(table.header, tuple(rows[i] for i in rest if i in rows)), path)
            say(f"measuring: {len(rows)} of {len(rest)} prompts")
    return Table(table.header, tuple(rows[i] for i in rest))


def read_prompts(path: Path) -> list[str]:
    """The first turns of a JSON-lines file (`turns`, as Spec-Bench has them). Raises `ConfidenceError`."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfidenceError(f"{path}: not readable as UTF-8 text ({error})") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            text = json.loads(line)["turns"][0]
        except (ValueError, KeyError, TypeError, IndexError):
            text = None
        if not isinstance(text, str):
            raise ConfidenceError(f'{path}, line {number}: expected an object such as {{"turns": ["a question"]}}')
        prompts.append(text)
    return prompts


def _header(plan: Plan) -> Header:
    """All of a table's header but its rules."""
    manifest = load_manifest(plan.bundle)
    return Header(
        schema_version=TABLE_VERSION,
        family=manifest.family_fingerprint,
        precision=manifest.precision,
        export=manifest.export_fingerprint,
        prompts=plan.prompts.name,
        prompts_sha256=sha256_file(plan.prompts),
        seed=plan.seed,
        tuning_prompts=plan.tuning_prompts,
        tokens=plan.tokens,
        statistics=plan.statistics,
        epsilons=plan.epsilons,
        rules=(),
    )


def _rules(plan: Plan, pool: Executor, prompts: list[str], say: Callable[[str], None]) -> tuple[RuleTested, ...]:
    """The rules to be tested, made of these prompts."""
    seen = []
    for one in pool.map(observe, prompts, [plan.tokens] * len(prompts)):
        seen.append(one)
        say(f"tuning: {len(seen)} of {len(prompts)} prompts")
    return tuple(
        RuleTested(statistic, found.rule.thresholds, found.accepted, found.expected)
        for statistic in plan.statistics
        for found in candidates(seen, statistic, plan.epsilons)
    )


@contextmanager
def _processes(plan: Plan) -> Iterator[Executor]:
    pool = ProcessPoolExecutor(plan.workers, get_context("spawn"), start, (plan.bundle, plan.threads))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
