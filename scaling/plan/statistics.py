"""What was measured of a family's exits on texts: a JSON file that deployments' policies are predicted with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from family.errors import ProfileError
from family.manifest import Manifest
from family.strict import FieldError, from_json
from scaling.plan.deployment import Statistics

STATISTIC = "max_probability"
"""Of a certificate's rules, those that a `ConfidenceExit` takes."""


@dataclass(frozen=True)
class Shares:
    """By exit, of the tokens that a rule's texts have."""

    epsilon: float
    every: tuple[float, ...]
    first: tuple[float, ...]
    """Of the texts' first tokens alone."""


@dataclass(frozen=True)
class Acceptance:
    """Drafts of one exit that were compared with another's choice."""

    draft_exit: int
    exit: int
    checked: int
    accepted: int


@dataclass(frozen=True)
class MeasuredStatistics:
    """The file."""

    family: str
    precision: str
    shares: tuple[Shares, ...]
    acceptance: tuple[Acceptance, ...]

    def statistics(self) -> Statistics:
        """As the model takes them."""
        return Statistics(
            shares={s.epsilon: s.every for s in self.shares},
            first={s.epsilon: s.first for s in self.shares},
            acceptance={(a.draft_exit, a.exit): a.accepted / a.checked for a in self.acceptance if a.checked},
        )


def load_statistics(path: Path) -> MeasuredStatistics:
    """Read the file; also what `relay describe --json` printed of nodes that have speculated: they know of drafts only.

    Raises `ProfileError` that names the file and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        nodes = _nodes(text)
        return _of_nodes(nodes) if nodes else from_json(MeasuredStatistics, json.loads(text))
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read ({error.strerror})") from None
    except (FieldError, KeyError, ValueError) as error:
        raise ProfileError(f"{path}: no statistics of exits ({error})") from None


def statistics_for(manifest: Manifest, path: Path | None) -> Statistics:
    """What is known of a bundle's exits: what the file has, and for the rest the shares of its certificate's rules.

    Nodes refuse an epsilon that the bundle's certificate does not have, so what the file says of others is left out.

    Raises `ProfileError` for a file of another family.
    """
    rules = manifest.certificate.rules if manifest.certificate else ()
    certified = Statistics(shares={rule.epsilon: rule.shares for rule in rules if rule.statistic == STATISTIC})
    if path is None:
        return certified
    found = load_statistics(path)
    if found.family != manifest.family_fingerprint:
        raise ProfileError(
            f"{path}: of family {found.family[:12]}, the bundle is of {manifest.family_fingerprint[:12]}"
        )
    measured = found.statistics()
    allowed = {epsilon: measured.shares.get(epsilon, shares) for epsilon, shares in certified.shares.items()}
    return replace(measured, shares=allowed)


def _nodes(text: str) -> list[dict[str, Any]]:
    """The nodes of a chain, an object a line; none if the text is something else."""
    try:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return []
    return found if found and all(isinstance(node, dict) and "paces" in node for node in found) else []


def _of_nodes(nodes: Sequence[Mapping[str, Any]]) -> MeasuredStatistics:
    data = {
        "family": nodes[0]["family_fingerprint"],
        "precision": nodes[0]["precision"],
        "shares": [],
        "acceptance": [
            {
                "draft_exit": p["draft_exit"],
                "exit": p["target_exit"],
                "checked": p["checked"],
                "accepted": p["accepted"],
            }
            for node in nodes
            for p in node["paces"]
        ],
    }
    return from_json(MeasuredStatistics, data)
