"""What was measured of a family's exits on texts: a JSON file that deployments' policies are predicted with."""

import json
from dataclasses import dataclass
from pathlib import Path

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
    """Read the file. Raises `ProfileError` that names it and the field."""
    try:
        return from_json(MeasuredStatistics, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read ({error.strerror})") from None
    except (FieldError, ValueError) as error:
        raise ProfileError(f"{path}: no statistics of exits ({error})") from None


def certified(manifest: Manifest) -> Statistics:
    """What a bundle itself says: the shares of its certificate's rules; nothing of drafts."""
    rules = manifest.certificate.rules if manifest.certificate else ()
    return Statistics(shares={rule.epsilon: rule.shares for rule in rules if rule.statistic == STATISTIC})
