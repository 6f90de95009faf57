"""The public runs that laws are measured on, as `Runs`: what the columns are, and which rows belong together."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import report

if TYPE_CHECKING:
    from scaling.runs import FloatArray, Runs

CHINCHILLA = "scaling/epoch-chinchilla/svg_extracted_data.csv"
HIGHEST = 5
"""Points of highest loss that the replication leaves out (arXiv 2404.10102)."""
KYO = "scaling/kyo-chinchilla-llm/df.csv"
GADRE = "scaling/gadre-overtraining/gadre_final_losses.csv"
GEMSTONES = "scaling/gemstones/wandb_df_for_fitting_cool_end.jsonl"
ROUTING = "scaling/deepmind-routing/curves.csv.gz"
PORIAN = "scaling/porian/porian_optimal_pairs.csv"

C4_EVAL = "c4_val"
TEXTS = {
    "C4": ("c4_original", "paloma_c4_en"),
    "RedPajama": ("rpj", "paloma_redpajama"),
    "RefinedWeb": ("rw_original", "paloma_falcon-refinedweb"),
}
"""Of Gadre et al., by training text, its name in the file and the evaluation set of the same text."""

ROUTERS = ("S-Base", "Hash", "RL-R")
BASE_GRID = {"k": 1.0, "flop_increase": 1.0, "routing_frequency": 0.5}
"""The rows that Clark et al. (arXiv 2202.01169) fit their law to."""
ROUTED_TOKENS = 130e9
"""That every one of these runs has seen at its last step."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """One experiment of Porian et al. (arXiv 2406.19146): the best size of each of P budgets, as they found it."""

    name: str
    """Data set and how it was done."""
    c: "FloatArray"
    """(P,), FLOPs."""
    n: "FloatArray"
    """(P,), N*."""
    d: "FloatArray"
    """(P,), tokens at N*."""
    loss: "FloatArray"
    """(P,), at N*."""
    log_std: "FloatArray"
    """(P,), of log N*, by their bootstrap."""
    exponent: float
    """a of N* ~ C^a that they publish."""

    @property
    def runs(self) -> "Runs":
        """The pairs as runs, with the C that was given."""
        from scaling.runs import make_runs

        return make_runs(self.n, self.d, self.loss, c=self.c)


def chinchilla() -> "Runs":
    """240 points of Hoffmann et al.'s figure 4, as Besiroglu et al. read them off."""
    from scaling.read import read_runs

    return read_runs(report.data(CHINCHILLA)).without_highest(HIGHEST)


def kyo() -> "Runs":
    """234 points of the same figure, chosen by another author."""
    from scaling.read import read_runs

    return read_runs(report.data(KYO))


def gadre(train_set: str, evaluation: str = C4_EVAL) -> "Runs":
    """The 34 or 35 runs of one training text, measured on one evaluation set."""
    from scaling.read import read_runs

    columns = {"n": "params", "d": "tokens", "loss": "loss"}
    return read_runs(report.data(GADRE), columns=columns, where={"train_set": train_set, "val": evaluation})


def gemstones() -> "Runs":
    """Cooled-down losses of 22 shapes along their training (arXiv 2502.06857); a shape's rows are one run."""
    from scaling.read import read_runs

    columns = {"n": "params_active_precise", "loss": "final_loss", "run": "run_name"}
    return read_runs(report.data(GEMSTONES), columns=columns)


def routing(router: str) -> "Runs":
    """The base grid of one router and the dense models at their last step: N without experts, G the experts."""
    from scaling.runs import make_runs
    from scaling.table import read_table

    last: dict[str, Mapping[str, object]] = {}
    for row in read_table(report.data(ROUTING)).rows:
        run = str(row["hyper_id"])
        if run not in last or _number(row, "step") > _number(last[run], "step"):
            last[run] = row
    rows = [
        row
        for row in last.values()
        if row["router_type"] in (router, "Dense") and all(_number(row, k) == v for k, v in BASE_GRID.items())
    ]
    n, loss, experts = (
        np.array([_number(row, name) for row in rows])
        for name in ("dense_parameter_count", "loss_validation", "num_experts")
    )
    return make_runs(n, np.full(len(n), ROUTED_TOKENS), loss, experts)


def porian() -> list[Pairs]:
    """All experiments, in the file's order; pairs for which no N* was found are left out."""
    with report.data(PORIAN).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["n"] and row["n_star_std"]]
    experiments: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        experiments.setdefault(_experiment(row), []).append(row)
    return [_pairs(name, mine) for name, mine in experiments.items()]


def _experiment(row: Mapping[str, str]) -> str:
    """What tells one from another, in the file's words."""
    how = f"{row['hparams']} settings, {row['warmup']} warm-up, {row['decay']} decay, {row['param_count']} count"
    return f"{row['dataset']}, {how}"


def _pairs(name: str, rows: Sequence[Mapping[str, str]]) -> Pairs:
    c, n, d, loss, log_std = (
        np.array([float(row[column]) for row in rows]) for column in ("flops", "n", "t", "loss", "n_star_std")
    )
    return Pairs(name, c, n, d, loss, log_std, float(rows[0]["fit_n_exponent"]))


def _number(row: Mapping[str, object], name: str) -> float:
    return float(str(row[name]))


SETS: Mapping[str, Callable[[], Mapping[str, "Runs"]]] = {
    "epoch-chinchilla": lambda: {"": chinchilla()},
    "gadre-overtraining": lambda: {text: gadre(name) for text, (name, _) in TEXTS.items()},
    "gemstones": lambda: {"": gemstones()},
    "kyo-chinchilla-llm": lambda: {"": kyo()},
    "deepmind-routing": lambda: {router: routing(router) for router in ROUTERS},
    "porian": lambda: {pairs.name: pairs.runs for pairs in porian()},
}
"""By folder of the data, its parts by name: runs that one law may hold for."""
