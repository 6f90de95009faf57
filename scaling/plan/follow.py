"""`plan-family --online`: nodes that run already are told what to do as links and load change.

Places stay. Every look asks the entry node to describe the chain (`scaling.plan.observed`), plans again
(`scaling.plan.online`), and tells the entry node the policy and codec of texts that choose none themselves. It is told
at every look, so a node that was started again learns it too.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep, strftime
from typing import TYPE_CHECKING

from family.errors import FamilialError
from family.manifest import Manifest
from scaling.errors import ScalingError
from scaling.plan.asked import ask
from scaling.plan.bundledocument import policy_text
from scaling.plan.deployment import ConfidenceExit, Deployment, FixedExit, Place, SpeculativeExit, Statistics
from scaling.plan.fleet import Fleet, Link
from scaling.plan.observed import Way, look, observed, own, rows_of
from scaling.plan.online import Expected, Observed, Online, best_of, expected, observe, typical
from scaling.plan.place import Question, agreed, joined, policies, travels
from scaling.plan.wire import row_bytes

if TYPE_CHECKING:
    from relay.client.sync import RelayClient
    from relay.client.types import Node
    from relay.policy import Policy

LOOKS = 3
"""Descriptions of a look; the quickest round trip of each link is its own, the others waited for something."""
LEAST_S = 1e-3
"""Between two looks."""
LEAST_CHECKED = 20
"""Drafts after which a node knows better than the statistics how often they are right."""


def follow(
    fleet: Fleet, folder: Path, statistics: Path | None, address: str, every_s: float, tls: tuple[Path | None, ...]
) -> None:
    """Look every so many seconds, and print a line for each change, until Ctrl-C.

    Args:
        fleet: names the tiers of the chain; its links are believed until they are measured.
        folder: the bundle that the nodes serve.
        statistics: as `plan_bundle`.
        address: HOST:PORT of the entry node.
        every_s: between two looks.
        tls: authority, certificate and key for the entry node.

    Raises:
        FamilialError: at the begin, where node, fleet and bundle do not fit, or the node is not reached. Later, what
            goes wrong is printed once, and what was chosen stays.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core would add lines of its own
    from relay.client.sync import RelayClient

    ca, cert, key = tls
    with RelayClient(address, ca=ca, cert=cert, key=key) as client:
        watch = Watch(client, fleet, folder, statistics)
        try:
            _say(watch.begin())
            while True:
                sleep(every_s)
                for line in watch.look():
                    _say(line)
        except KeyboardInterrupt:
            _say(f"the node keeps {_choice(watch.state.deployment)}, until it stops")
            raise


class Watch:
    """One chain, and what its entry node was told. Raises as `follow`."""

    def __init__(self, client: "RelayClient", fleet: Fleet, folder: Path, statistics: Path | None) -> None:
        if fleet.goals.agreement is None:
            raise ScalingError(
                "--online: the fleet file has no goals.agreement, so the first exit would decide every token; give the "
                "least share of tokens that are to be the last exit's, for example agreement: 0.95"
            )
        asked = ask(fleet, folder, statistics)
        nodes = client.describe()
        _check(nodes, asked.manifest, fleet)
        self._client = client
        self._places = tuple(Place(node.tier, node.segments) for node in nodes)
        self._machines = asked.machines
        question = replace(asked.question, statistics=_with_paces(asked.question.statistics, nodes))
        choices = choices_on(question, self._places, _links(fleet, self._places), nodes, fleet.goals.agreement)
        if not choices:
            raise ScalingError(
                f"--online: nothing that this chain can do keeps goals.agreement {fleet.goals.agreement}; lower it, or "
                "export the bundle with --eval, so that its exits' agreement is known"
            )
        traffic = fleet.traffic
        self.state = Online(
            choices,
            self._machines,
            traffic.prompt_tokens,
            traffic.output_tokens,
            question.statistics,
            traffic.prompt_cv,
            fleet.goals,
        )
        self._rows, self._looked = [rows_of(node) for node in nodes], monotonic()
        self._ways = [Way(link, node.timed) for link, node in zip(choices[0].links, nodes, strict=False)]
        self._problem = ""

    def begin(self) -> str:
        """Tell the entry node what is best by the fleet file's links; a line that says so."""
        choices = self.state.choices
        found = [expected(self.state, choice, Observed(choice.links)) for choice in choices]
        best = best_of(found)
        self.state = replace(self.state, chosen=best, rival=best)
        self._tell()
        return (
            f"begins with {_choice(choices[best])}: by the fleet file's links a text takes {found[best].text_s:.3g} s"
            f"{_missed(found[best])}; {len(choices)} choices keep the agreement"
        )

    def look(self) -> Iterator[str]:
        """Look once and tell the entry node; lines that say what changed, and why."""
        try:
            before = self.state.deployment
            nodes = self._observe()
            self._tell()
        except FamilialError as error:
            if str(error) != self._problem:
                yield f"{error}; {_choice(self.state.deployment)} stays until that is mended"
            self._problem = str(error)
            return
        if self._problem:
            yield "the chain answers again"
        self._problem = ""
        if self.state.deployment != before:
            known = typical(self.state.seen)
            then, now = (expected(self.state, one, known) for one in (before, self.state.deployment))
            yield (
                f"{_choice(before)} -> {_choice(self.state.deployment)}: {_why(known, nodes)}: "
                f"a text takes {now.text_s:.3g} s{_missed(now)} in place of {then.text_s:.3g} s{_missed(then)}"
            )

    def _observe(self) -> "Sequence[Node]":
        looks = [self._client.describe() for _ in range(LOOKS)]
        nodes = looks[-1]
        for found in looks:
            for node in found:
                if node.upstream_error:
                    raise ScalingError(f"{node.tier}: its upstream is not reached ({node.upstream_error})")
            if tuple(Place(node.tier, node.segments) for node in found) != self._places:
                raise ScalingError("the chain has other nodes than when this began; give the command again")
        deployment, machines = self.state.deployment, [self._machines[place.tier] for place in self._places]
        size = row_bytes("ids" if deployment.send == "ids" else deployment.codec, deployment.spec.d_model)
        self._ways = [
            look(way, nodes[i], min(found[i].upstream_ms for found in looks), own(machines[i], machines[i + 1], size))
            for i, way in enumerate(self._ways)
        ]
        context = self.state.prompt_tokens + self.state.output_tokens / 2
        rows, now = [rows_of(node) for node in nodes], monotonic()
        passed_s = max(now - self._looked, LEAST_S)
        rates = [max(0.0, b - a) / passed_s for a, b in zip(self._rows, rows, strict=True)]
        self._rows, self._looked = rows, now
        seen = observed(self._ways, nodes, rates, self._places, self._machines, context)
        self.state = observe(replace(self.state, statistics=_with_paces(self.state.statistics, nodes)), seen)
        return nodes

    def _tell(self) -> None:
        deployment = self.state.deployment
        self._client.steer(_sdk(deployment), deployment.codec)


def choices_on(
    question: Question, places: tuple[Place, ...], links: tuple[Link, ...], nodes: "Sequence[Node]", agreement: float
) -> tuple[Deployment, ...]:
    """Every policy and codec of a chain whose places stay that keeps the agreement, as far as the nodes know them."""
    send = "ids" if places[1].segments[0] == 1 else "rows"
    known = [codec for codec in nodes[0].codecs if all(codec in node.codecs for node in nodes)]
    found = []
    for deepest in range(1, places[-1].segments[-1] + 1):
        reached = _upto(places, deepest)
        for policy in policies(question, reached, send if len(reached) > 1 else "rows"):
            for codec in known if send == "rows" and travels(policy, reached) else ["f32"]:
                one = Deployment(question.spec, places, links, policy, codec, "ids" if send == "ids" else "rows")
                share = agreed(question, one)
                if share is not None and share >= agreement:
                    found.append(one)
    return tuple(found)


def _upto(places: tuple[Place, ...], deepest: int) -> tuple[Place, ...]:
    """The chain as a text sees it that asks no exit beyond one."""
    last = next(i for i, place in enumerate(places) if place.segments[-1] >= deepest)
    cut = Place(places[last].tier, tuple(g for g in places[last].segments if g <= deepest))
    return (*places[:last], cut)


def _check(nodes: "Sequence[Node]", manifest: Manifest, fleet: Fleet) -> None:
    entry, names = nodes[0], [tier.name for tier in fleet.tiers]
    if entry.segments[0] != 1:
        raise ScalingError(f"--online: {entry.tier} begins with segment {entry.segments[0]}; give the entry node")
    if entry.export_fingerprint != manifest.export_fingerprint:
        raise ScalingError("--online: the nodes serve another export than --bundle; give the one that they serve")
    for node in nodes:
        if node.upstream_error:
            raise ScalingError(f"--online: {node.tier} does not reach its upstream: {node.upstream_error}")
        if node.tier not in names:
            raise ScalingError(
                f"--online: the chain has tier {node.tier!r}, the fleet file {', '.join(names)}; name the tiers alike"
            )
    order = [names.index(node.tier) for node in nodes]
    if sorted(set(order)) != order:
        raise ScalingError("--online: the fleet file has the chain's tiers in another order; list the entry's first")
    if len(nodes) == 1:
        raise ScalingError(f"--online: {entry.tier} has no upstream, so there is no link that could change")


def _links(fleet: Fleet, places: Sequence[Place]) -> tuple[Link, ...]:
    """Between the places, as the fleet file has them."""
    names = [tier.name for tier in fleet.tiers]
    at = [names.index(place.tier) for place in places]
    return tuple(joined(fleet.links[a:b]) for a, b in pairwise(at))


def _with_paces(statistics: Statistics, nodes: "Sequence[Node]") -> Statistics:
    """With the acceptance that the entry node measured, where it has seen enough."""
    seen = {(p.draft_exit, p.target_exit): p.right for p in nodes[0].paces if p.checked >= LEAST_CHECKED}
    return replace(statistics, acceptance={**statistics.acceptance, **seen})


def _sdk(deployment: Deployment) -> "Policy":
    from relay import policy as sdk

    match deployment.policy:
        case FixedExit(exit=exit_, burst=burst):
            return sdk.FixedExit(exit_, burst)
        case ConfidenceExit(epsilon=epsilon):
            return sdk.ConfidenceExit(epsilon=epsilon)
        case SpeculativeExit(exit=exit_, draft_exit=draft_exit, length=length):
            return sdk.SpeculativeExit(exit_, draft_exit, length)


def _choice(deployment: Deployment) -> str:
    return f"{policy_text(deployment.policy)}, rows as {deployment.codec}"


def _missed(found: Expected) -> str:
    return f" and misses {', '.join(found.misses)}" if found.misses else ""


def _why(known: Observed, nodes: "Sequence[Node]") -> str:
    links = (
        f"{below.tier}-{above.tier} {link.rtt_s * 1e3:.3g} ms, {link.up_bps / 1e6:.3g} Mbit/s up"
        for link, below, above in zip(known.links, nodes, nodes[1:], strict=False)
    )
    return f"{'; '.join(links)}; load {known.load:.3g}"


def _say(line: str) -> None:
    sys.stdout.write(f"{strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()
