"""What exits cost: how much of the paper's gamma is truncation and how much interference, and the compute it comes to.

A family's loss is the mean over exits, and an early exit reads a smaller model; so part of G^gamma is there even where
every exit is as good as a dense model of its own size (`scaling.truncation`). Two answers:

- `paper`: eq. 2 of arXiv 2512.23407 on its own families (Table 2), at 1e20 and 1e21 FLOPs, D = C/(6N). The share of
  gamma = 0.041 that is truncation, with N total and N non-embedding (the paper does not say which); beyond 1 the exits
  are better than dense models of their size. And what G costs there at equal loss, for C = 6ND and exactly, with all
  heads on the trunks of Table 1 (at 1e20 N* is below the smallest of them: FLOPs per token are extrapolated).
- `sweep`: measured on `experiments/isoflop/cpu/rows.jsonl`, whatever rows are there:
  - `exponents`: gamma that fits, on the whole loss and on the reducible part, of the mean over exits and of the last
    exit alone;
  - `same_compute`: a family's loss over that of the dense run of the same trunk and C, exits evenly placed; no law;
  - `partners`: an early exit's loss over that of a dense model of its depth and tokens; no law. `families` splits
    gamma by these partners where all early exits have one;
  - `by_law`: the same split with the dense law in place of partners, for every family;
  - `compute`: how many times the compute a family needs for a dense model's loss, by several laws;
  - `exits`: the laws per exit M0 to M3, by what they say of runs, layers and budgets that they did not see;
  - `seed`: what another seed changes of log L (standard deviation), below which nothing is told.

Intervals are of 90%, from 4,000 draws of the runs; those of pairs draw families and dense runs.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import recovery, report
from family.cli import existing_file, positive

if TYPE_CHECKING:
    from scaling.budgets import Budgets, Figure
    from scaling.law import FittedLaw
    from scaling.runs import FloatArray, IntArray, Params, Runs
    from scaling.truncation import Factors
    from scaling.trunks import Trunks

ROWS = report.ROOT / "experiments" / "isoflop" / "cpu" / "rows.jsonl"
DRAWS = 4000
LEVEL = 0.9
PAPER_BUDGETS = (1e20, 1e21)
SWEEP_BUDGETS = (1e12, 9e12)
EXIT_LAWS = ("M0", "M1", "M3")
SAME_COMPUTE = 0.05
"""How near, in relative terms, the C of a family and of its dense partner are."""
PAPER_FAMILIES = {"family-2b": 2, "family-3b": 3, "family-4b": 4}


@dataclass(frozen=True)
class Rows:
    """A sweep's rows: one for each run, one for each exit, and each run's last exit with the run's N, D and G."""

    whole: "Runs"
    exits: "Runs"
    last: "Runs"


def measure(path: Path = ROWS, draws: int = DRAWS) -> dict[str, Any]:
    """All figures."""
    from family.strict import to_json

    return {"draws": draws, "level": LEVEL, "paper": to_json(paper()), "sweep": to_json(sweep(path, draws))}


def paper() -> dict[str, Any]:
    """Eq. 2 on the families of Table 2."""
    from scaling.forms import FULL
    from scaling.frontier import equal_loss_multiplier, surface
    from scaling.truncation import preset_factors
    from scaling.trunks import PAPER, even_depths, ladder, read_trunks
    from training.presets import PRESETS

    theta, c, gamma = _eq_2(), np.array(PAPER_BUDGETS), recovery.TRUTH["gamma"]
    conventions: tuple[Params, ...] = ("total", "non-embedding")
    dense, trunks = surface(FULL, theta), read_trunks(PAPER)
    one = ladder(trunks, even_depths(1), "total").cost
    share: dict[str, Any] = {params: {} for params in conventions}
    compute: dict[str, Any] = {"6ND": {}, "exact": {}}
    for (name, g), params in product(PAPER_FAMILIES.items(), conventions):
        family = surface(FULL, theta, g)
        truncation = preset_factors(dense, family, PRESETS[name], c, params).truncation_gamma[0]
        share[params][name] = _rounded(truncation / gamma)
        costs = (one, ladder(trunks, even_depths(g), "total").cost)
        compute["6ND"][str(g)] = _rounded(equal_loss_multiplier(dense, family, c)[0])
        compute["exact"][str(g)] = _rounded(equal_loss_multiplier(dense, family, c, costs)[0])
    return {"gamma": gamma, "budgets": list(PAPER_BUDGETS), "truncation_share": share, "compute": compute}


def sweep(path: Path, draws: int) -> dict[str, Any]:
    """What a sweep's rows show."""
    from scaling.exitreport import summarise_exits
    from scaling.exits import compare
    from scaling.fit import fit
    from scaling.forms import DENSE
    from scaling.trunks import read_trunks

    rows = _read(path)
    dense = fit(rows.whole.take(rows.whole.g == 1), "dense", bootstraps=draws)
    of_mean = {form: fit(rows.whole, form, bootstraps=draws) for form in ("full", "reducible")}
    of_last = {form: fit(rows.last, form, bootstraps=draws) for form in ("full", "reducible")}
    of_exit = {form: fit(rows.exits, form, bootstraps=draws) for form in EXIT_LAWS}
    thetas = np.concatenate([dense.theta[None], dense.draws])
    assert dense.form == DENSE
    return {
        "runs": len(rows.whole),
        "families": int((rows.whole.g > 1).sum()),
        "largest_c": float(rows.whole.c.max()),
        "seed": _seed_noise(rows.exits),
        "exponents": {
            **{f"gamma of the mean, {form}": _estimate(law, "gamma") for form, law in of_mean.items()},
            **{f"gamma of the last exit, {form}": _estimate(law, "gamma") for form, law in of_last.items()},
            "gamma of M1": _estimate(of_exit["M1"], "gamma"),
            "delta of M3": _estimate(of_exit["M3"], "delta"),
        },
        "same_compute": _same_compute(rows, draws),
        "partners": _partner_ratios(rows.exits, thetas, draws),
        "by_law": _by_law(rows.exits, thetas),
        "compute": _compute(of_mean, of_last, of_exit, read_trunks(str(path))),
        "exits": summarise_exits(compare(rows.exits)),
        "findings": {law.form.name: [f.text for f in law.findings if f.warning] for law in of_mean.values()},
    }


def _read(path: Path) -> Rows:
    from dataclasses import replace

    from scaling.read import read_runs

    whole, exits = read_runs(path), read_runs(path, exits=True)
    assert exits.exit_layer is not None
    last = exits.take(exits.exit_layer == exits.n_layers)
    bare = replace(last, exit_layer=None, n_layers=None, exit_weight=None, n_exit=None)
    return Rows(whole, exits, bare)


def _eq_2() -> "FloatArray":
    truth = recovery.TRUTH
    return np.array([[*np.log([truth[name] for name in "EAB"]), *(truth[n] for n in ("alpha", "beta", "gamma"))]])


def _rounded(values: "FloatArray") -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _figure(value: float, low: float, high: float) -> "Figure":
    from scaling.budgets import Figure

    return Figure(*(float(f"{number:.5g}") for number in (value, low, high)))


def _estimate(law: "FittedLaw", name: str) -> "Figure":
    found = next(estimate for estimate in law.estimates(LEVEL) if estimate.name == name)
    return _figure(found.value, found.low, found.high)


def _layouts(exits: "Runs") -> dict[int, tuple[float, ...]]:
    """By cluster, the relative depths of its exits."""
    assert exits.exit_layer is not None and exits.n_layers is not None
    depth = exits.exit_layer / exits.n_layers
    return {int(k): tuple(sorted(depth[exits.cluster == k].tolist())) for k in np.unique(exits.cluster)}


def _seed_noise(exits: "Runs") -> dict[str, Any]:
    """What another seed changes of log L: standard deviation of the last exits' and of all losses, and the most."""
    assert exits.exit_layer is not None and exits.n_layers is not None
    layouts = _layouts(exits)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, cluster in enumerate(exits.cluster):
        key = (exits.n[i], exits.d[i], layouts[int(cluster)], exits.n_layers[i], exits.exit_layer[i])
        groups.setdefault(key, []).append(i)
    repeated = [np.array(rows) for rows in groups.values() if len(rows) > 1]
    last = [rows for rows in repeated if exits.exit_layer[rows[0]] == exits.n_layers[rows[0]]]
    most = max((float(np.ptp(np.log(exits.loss[rows]))) for rows in repeated), default=0.0)
    return {"configurations": len(last), "sd_last": _pooled(exits, last), "sd": _pooled(exits, repeated), "most": most}


def _pooled(runs: "Runs", groups: "list[IntArray]") -> float | None:
    """Standard deviation of log L within groups."""
    if not groups:
        return None
    squares = sum(((np.log(runs.loss[rows]) - np.log(runs.loss[rows]).mean()) ** 2).sum() for rows in groups)
    return round(float(np.sqrt(squares / sum(len(rows) - 1 for rows in groups))), 5)


def _pair_mean(runs: "Runs", first: "IntArray", second: "IntArray", draws: int) -> dict[str, Any]:
    """Geometric mean of loss(first) / loss(second); runs are drawn on either side, a pair as often as both its runs."""
    from scaling.bootstrap import resampled
    from scaling.quantiles import bounds

    log = np.log(runs.loss[first] / runs.loss[second])
    weights = resampled(runs.cluster[first], draws, 0) * resampled(runs.cluster[second], draws, 1)
    some = weights.sum(axis=1) > 0
    low, high = bounds(weights[some] @ log / weights[some].sum(axis=1), log.mean(), LEVEL)
    return {"pairs": len(log), "ratio": _figure(*np.exp([log.mean(), float(low), float(high)]))}


def _same_compute(rows: Rows, draws: int) -> dict[str, Any]:
    """By G, loss over that of the dense run of the same trunk and C: the mean over exits, and the last exit."""
    from scaling.truncation import SAME_SIZE
    from scaling.trunks import even_depths

    runs, layouts = rows.whole, _layouts(rows.exits)
    even = np.array([np.allclose(layouts[int(k)], even_depths(len(layouts[int(k)]))) for k in runs.cluster])
    near = (np.abs(runs.n[:, None] / runs.n - 1) < SAME_SIZE) & (np.abs(runs.c[:, None] / runs.c - 1) < SAME_COMPUTE)
    found = {}
    for g in np.unique(runs.g[runs.g > 1]):
        first, second = np.nonzero(near & ((runs.g == g) & even)[:, None] & (runs.g == 1))
        if len(first):
            of = {"mean": _pair_mean(runs, first, second, draws), "last": _pair_mean(rows.last, first, second, draws)}
            found[f"{g:g}"] = of
    return found


def _partner_ratios(exits: "Runs", thetas: "FloatArray", draws: int) -> dict[str, Any]:
    """Early exits beside dense models of their depth and tokens, and gamma split by them."""
    from scaling.truncation import partner_factors, partners

    assert exits.exit_layer is not None and exits.n_layers is not None
    found = partners(exits)
    early = exits.exit_layer[found.row] < exits.n_layers[found.row]
    row, dense = found.row[early], found.dense[early]
    by_layer = {
        f"{layer:g}": _pair_mean(
            exits, row[exits.exit_layer[row] == layer], dense[exits.exit_layer[row] == layer], draws
        )
        for layer in np.unique(exits.exit_layer[row])
    }
    clusters, factors = partner_factors(exits, thetas[:1])
    names = [exits.names(exits.cluster == k)[0].partition(",")[0] for k in clusters]
    families = [
        {
            "run": name,
            "g": float(g),
            "whole": round(float(whole), 4),
            "truncation": round(float(truncation), 4),
            "interference": round(float(interference), 4),
            "last": round(float(last), 4),
        }
        for name, g, whole, truncation, interference, last in zip(
            names, factors.g, factors.whole[0], factors.truncation[0], factors.interference[0], factors.last[0],
            strict=True,
        )
    ]  # fmt: skip
    return {**_pair_mean(exits, row, dense, draws), "by_layer": by_layer, "families": families}


def _by_law(exits: "Runs", thetas: "FloatArray") -> dict[str, Any]:
    """By G, gamma and its parts in the mean over families, by the dense law; families are drawn too."""
    from scaling.truncation import run_factors

    factors = run_factors(exits, thetas)
    return {f"{g:g}": _split(factors, factors.g == g) for g in np.unique(factors.g)}


def _split(factors: "Factors", chosen: Any) -> dict[str, Any]:
    from scaling.bootstrap import resampled
    from scaling.quantiles import bounds

    log_g = np.log(factors.g[chosen])
    parts = {
        "gamma": np.log(factors.whole[:, chosen]) / log_g,
        "truncation": np.log(factors.truncation[:, chosen]) / log_g,
        "interference": np.log(factors.interference[:, chosen]) / log_g,
        "last": np.log(factors.last[:, chosen]) / log_g,
    }
    count = int(chosen.sum())
    drawn = resampled(np.arange(count), len(factors.truncation) - 1, 1) / count
    found: dict[str, Any] = {"families": count}
    for name, exponents in parts.items():
        value = exponents[0].mean()
        low, high = bounds((exponents[1:] * drawn).sum(axis=1), value, LEVEL)
        found[name] = _figure(value, float(low), float(high))
    return found


def _compute(
    of_mean: Mapping[str, "FittedLaw"],
    of_last: Mapping[str, "FittedLaw"],
    of_exit: Mapping[str, "FittedLaw"],
    trunks: "Trunks",
) -> list[dict[str, Any]]:
    """Compute at equal loss, law by law."""
    from scaling.budgets import read_budgets
    from scaling.trunks import even_depths

    def read(law: "FittedLaw") -> "Budgets":
        return read_budgets(law, SWEEP_BUDGETS, [even_depths(2), even_depths(4)], trunks)

    found = []
    for name, law in of_mean.items():
        of_whole, of_alone = read(law), read(of_last[name])
        for basis in of_whole.readings:
            for mean, last in zip(of_whole.readings[basis], of_alone.readings[basis], strict=True):
                found.append(_price(name, basis, mean.granularity, mean.flops, mean.mean, last.mean))
    for name, law in of_exit.items():
        for basis, readings in read(law).readings.items():
            found += [_price(name, basis, of.granularity, of.flops, of.mean, of.last) for of in readings]
    return found


def _price(law: str, basis: str, g: int, c: float, mean: "Figure | None", last: "Figure | None") -> dict[str, Any]:
    return {"law": law, "c_counts": basis, "g": g, "c": c, "mean": mean, "last": last}


def table(result: dict[str, Any]) -> str:
    """The figures as text and Markdown tables."""
    lines = [*_paper_lines(result["paper"]), "", *_sweep_lines(result["sweep"])]
    lines += ["", "| law | C counts | G | C | mean over exits | last exit |", "|---" * 6 + "|"]
    for price in result["sweep"]["compute"]:
        cells = [price["law"], price["c_counts"], str(price["g"]), f"{price['c']:.0e}"]
        lines.append("| " + " | ".join([*cells, _shown(price.get("mean")), _shown(price.get("last"))]) + " |")
    lines += ["", "| form | split | error | standard error | chosen |", "|---" * 5 + "|"]
    for score in result["sweep"]["exits"]["scores"]:
        cells = [score["form"], score["split"], f"{score['error']:.2%}", f"{score['standard_error']:.2%}"]
        lines.append("| " + " | ".join([*cells, "yes" if score["chosen"] else ""]) + " |")
    return "\n".join(lines) + "\n"


def _paper_lines(found: dict[str, Any]) -> Iterator[str]:
    yield "| truncation's share of 0.041 | " + " | ".join(PAPER_FAMILIES) + " |"
    yield "|---" * 4 + "|"
    for params, shares in found["truncation_share"].items():
        cells = (" to ".join(f"{share:.0%}" for share in sorted(of)) for of in shares.values())
        yield f"| N {params} | {' | '.join(cells)} |"
    yield ""
    for basis, by_g in found["compute"].items():
        cells = (f"G = {g} {' to '.join(f'{times:.2f}' for times in of)}" for g, of in by_g.items())
        yield f"compute for a dense model's loss by eq. 2, C {basis}: {', '.join(cells)}"


def _sweep_lines(found: dict[str, Any]) -> Iterator[str]:
    seed, pairs = found["seed"], found["partners"]
    yield f"sweep: {found['runs']} runs, {found['families']} of them families, C up to {found['largest_c']:.3g}"
    if seed["configurations"]:
        yield (
            f"another seed ({seed['configurations']} configurations) changes log L of the last exit by "
            f"{seed['sd_last']:.2%}, of all exits by {seed['sd']:.2%}, one by {seed['most']:.2%}"
        )
    for name, figure in found["exponents"].items():
        yield f"{name}: {_shown(figure)}"
    for g, kinds in found["same_compute"].items():
        texts = [f"{kind} {_shown(of['ratio'])}" for kind, of in kinds.items()]
        yield f"G = {g}, loss over that of a dense run of the same trunk and C: {', '.join(texts)}"
    yield f"early exits over dense partners of their depth: {_shown(pairs['ratio'])}, {pairs['pairs']} pairs"
    for layer, of in pairs["by_layer"].items():
        yield f"  after layer {layer}: {_shown(of['ratio'])}, {of['pairs']} pairs"
    for family in pairs["families"]:
        yield "  " + ", ".join(f"{name} {value}" for name, value in family.items())
    for g, split in found["by_law"].items():
        texts = [f"{name} {_shown(figure)}" for name, figure in split.items() if name != "families"]
        yield f"G = {g}, exponents by the dense law, {split['families']} families: {', '.join(texts)}"


def _shown(figure: Mapping[str, float] | None) -> str:
    if not figure:
        return ""
    value, low, high = (f"{figure[name]:.4g}" if name in figure else "no end" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _parser() -> ArgumentParser:
    parser = report.parser("interference", __doc__)
    parser.add_argument("--rows", type=existing_file, default=ROWS, metavar="FILE", help="rows.jsonl of a sweep")
    parser.add_argument("--draws", type=positive, default=DRAWS, help="of the runs (default %(default)s)")
    return parser


if __name__ == "__main__":
    options = _parser().parse_args()
    report.publish("interference", options, lambda: measure(options.rows, options.draws), table)
