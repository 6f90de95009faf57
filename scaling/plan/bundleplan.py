"""The second use: a family that is trained and exported, placed on a fleet by what was measured of it. Of several
exports, at a precision each, the best is chosen too.

Times are those of each tier's profile (`relay-node profile`), or of its hardware's figures where the fleet names none;
agreement, shares of exits and acceptance of drafts are the bundle's own. Every deployment is scored by the model of a
relay (`scaling.plan.place`), with machines and money (`scaling.plan.bundlescore`), and all are ranked by the objective.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from scaling.errors import ScalingError
from scaling.findings import Finding, note, warning
from scaling.plan.asked import Asked
from scaling.plan.asked import ask as ask
from scaling.plan.bundledocument import BUNDLE_PLAN_VERSION, BundleChoice, BundleDocument
from scaling.plan.bundleexplain import explain_bundle
from scaling.plan.bundlegoals import bindings
from scaling.plan.bundlescore import LEAST, rank, ranked
from scaling.plan.fleet import Fleet
from scaling.plan.fronts import best_rows
from scaling.plan.money import unpriced
from scaling.plan.statistics import load_statistics

SHOWN = 10


@contextmanager
def _uncollected() -> Iterator[None]:
    """A plan makes many small things and no cycles: the collector would look through them again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def plan_bundle(
    fleet: Fleet,
    folders: Sequence[Path],
    statistics: Path | None = None,
    strict: bool = False,
    explained: bool = False,
) -> BundleDocument:
    """The best way to run a bundle on a fleet.

    Args:
        fleet: the question; its `training` is done already.
        folders: the bundle, or several of one family, at a precision each.
        statistics: how often exits decide and drafts are right (`benchmarks.plan.statistics`, or what `relay describe
            --json` printed of nodes that have speculated); what it lacks is as the bundle's certificate has it.
        strict: refuse tiers without a profile, and a best deployment that lies beyond what was measured.
        explained: also say which goals bind, and what more of each resource would buy.

    Raises:
        ManifestError, ProfileError: a bundle or a profile cannot be read, or a profile is of another family.
        ScalingError: bundles of two families, or two of one precision; no deployment keeps all goals: the text says
            which fails and the nearest that holds.
    """
    questions = [ask(fleet, folder, statistics) for folder in folders]
    _check(folders, questions)
    order = sorted(
        ((i, one) for i, asked in enumerate(questions) for one in ranked(asked)),
        key=lambda found: rank(fleet, found[1]),
    )
    (number, best), *others = order[:SHOWN]
    asked, folder = questions[number], folders[number]
    guessed = [name for name, basis in asked.basis.items() if basis == "hardware"]
    if strict and guessed:
        raise ScalingError(
            f"--strict: nothing was measured on {', '.join(guessed)}; write a profile there with relay-node profile, "
            "and name it in the fleet file: profile: FILE"
        )
    if best.misses:
        missed = (f"{g.goal}: {g.asked} asked, {g.has}" for g in bindings(fleet, best) if g.left < 0)
        raise ScalingError(
            f"no deployment of {', '.join(map(str, folders))} keeps all goals; the nearest has {'; '.join(missed)}"
        )
    if strict and best.outside:
        raise ScalingError(f"--strict: the best deployment lies beyond what was measured: {'; '.join(best.outside)}")
    return BundleDocument(
        BUNDLE_PLAN_VERSION,
        fleet.name,
        folder.name,
        asked.manifest.family_fingerprint,
        asked.manifest.precision,
        tuple(exit_.layer for exit_ in asked.manifest.spec.exits),
        fleet.objective,
        fleet.goals.percentile,
        len(order),
        best,
        tuple(one for _, one in others),
        tuple(front([one for _, one in order if not one.misses])),
        tuple(_findings(asked, questions, statistics, guessed)),
        explain_bundle(asked, best) if explained else None,
    )


def _check(folders: Sequence[Path], questions: Sequence[Asked]) -> None:
    """Raise `ScalingError` for bundles that are not exports of one family at a precision each."""
    named = ", ".join(map(str, folders))
    if len({asked.manifest.family_fingerprint for asked in questions}) > 1:
        raise ScalingError(f"--bundle {named}: of different families; plan each by itself")
    if len({asked.manifest.precision for asked in questions}) < len(questions):
        raise ScalingError(f"--bundle {named}: two of one precision; leave one out")


def _findings(
    asked: Asked, questions: Sequence[Asked], statistics: Path | None, guessed: Sequence[str]
) -> Iterator[Finding]:
    """What a plan for `asked`, the best of the questions, rests on and leaves out."""
    fleet = asked.fleet
    yield from (warning("no-profile", f"{name}: times are those of its hardware's figures") for name in guessed)
    yield from unpriced(fleet)
    yield from _compared(questions)
    if fleet.goals.agreement is None:
        told = (
            "no goals.agreement is given, so any exit may decide, whatever its tokens are worth; give agreement: 0.95"
        )
        yield warning("no-agreement", told)
    unread = [
        name for name, given in (("goals.loss", fleet.goals.loss), ("traffic.decided", fleet.traffic.decided)) if given
    ]
    if unread:
        yield note("not-judged", f"{' and '.join(unread)}: of a family that is to be trained, not judged here")
    if not asked.question.statistics.shares:
        yield note("no-certificate", "no shares of exits are known, so no confidence policy was tried")
    if statistics is not None and (of := load_statistics(statistics).precision) != asked.manifest.precision:
        yield note("statistics", f"{statistics}: of precision {of}, taken for {asked.manifest.precision} too")


def _compared(questions: Sequence[Asked]) -> Iterator[Finding]:
    """What agreement does not say of several exports."""
    if len(questions) == 1:
        return
    manifests = [asked.manifest for asked in questions]
    nats = [
        f"{m.precision} {m.quality.exits[-1].cross_entropy:.3f}" if m.quality else f"{m.precision} not measured"
        for m in manifests
    ]
    told = f"agreement is with each export's own last exit; nats per token of these: {', '.join(nats)}"
    yield note("exports", told)


def front(found: Sequence[BundleChoice]) -> list[BundleChoice]:
    """Those that no other beats in cost, time, agreement and power at once, by cost."""
    if not found:
        return []
    table = np.array([[LEAST[name](one) for name in ("cost", "latency", "quality", "energy")] for one in found])
    return sorted((found[i] for i in best_rows(table).tolist()), key=lambda one: (one.cost_per_hour, one.text_s))
