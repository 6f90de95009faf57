"""Which of the tested rules keep which epsilon: Learn then Test (arXiv 2110.01052) with fixed-sequence testing.

For each rule the null hypothesis is that its expected risk is over epsilon. The prompts of the table are a random
part of the file and were not used to make the rules, so for every single rule their risks are independent draws of
that rule's risk on new prompts like these (at temperature 0 a text is a function of its prompt and the rule), and the
test is valid. Rules are tested from the strictest on, each at level delta, up to the first that fails; the one before
it is taken. Then a rule whose expected risk is over epsilon is taken with probability at most delta: only if the
first such rule of the sequence passed. Nothing is assumed about how risk goes with the thresholds, which matters
here: each rule writes texts of its own, so a laxer rule may do better on a prompt. Conformal risk control (arXiv
2208.02814) needs each prompt's risk to be monotone in the thresholds, and bounds the mean over calibrations, not the
risk of the one at hand.

Each promise holds by itself, for an epsilon and a statistic that were chosen before looking.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.confidence import DELTA
from exporter.confidence.bets import is_below
from exporter.confidence.table import Table, load_table
from family.certificate import Certificate, CertifiedRule

TABLES = "confidence-*.jsonl"
"""In a family's folder: tables of its bundles, which export-family takes certificates from."""
METHOD = "Learn then Test (arXiv 2110.01052), fixed sequence; tests by betting (arXiv 2505.22422)"


def last_kept(risks: NDArray[np.float64], epsilon: float, delta: float) -> int | None:
    """Which of the rules of one statistic is certified, by risks (prompts, rules); None: not even the first."""
    held = itertools.takewhile(lambda i: is_below(risks[:, i].tolist(), epsilon, delta), range(risks.shape[1]))
    return max(held, default=None)


def certificates_of(folder: Path) -> list[Certificate]:
    """What was measured of bundles of a family, by its folder's `confidence-*.jsonl`. Raises `ConfidenceError`."""
    tables = [load_table(path) for path in sorted(folder.glob(TABLES))]
    return [certify(table, table.header.epsilons, DELTA) for table in tables]


def certify(table: Table, epsilons: Iterable[float], delta: float) -> Certificate:
    """The certificate of all that was measured: a rule for each epsilon and statistic that one was found for."""
    header, risks, shares = table.header, table.risks, table.shares
    found = []
    for epsilon in sorted(epsilons):
        for statistic in dict.fromkeys(rule.statistic for rule in header.rules):
            own = [i for i, rule in enumerate(header.rules) if rule.statistic == statistic]
            kept = last_kept(risks[:, own], epsilon, delta)
            if kept is None:
                continue
            i = own[kept]
            found.append(
                CertifiedRule(
                    epsilon=epsilon,
                    statistic=statistic,
                    thresholds=header.rules[i].thresholds,
                    risk=round(float(risks[:, i].mean()), 6),
                    shares=tuple(round(float(share), 4) for share in shares[:, i].mean(axis=0)),
                )
            )
    return Certificate(
        family=header.family,
        precision=header.precision,
        export=header.export,
        prompts=header.prompts,
        prompts_sha256=header.prompts_sha256,
        tuning_prompts=header.tuning_prompts,
        calibration_prompts=len(table.rows),
        tokens=header.tokens,
        temperature=0.0,
        delta=delta,
        method=METHOD,
        rules=tuple(found),
    )
