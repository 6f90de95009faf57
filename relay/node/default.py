"""What a text does that chooses nothing itself."""

from dataclasses import dataclass

from relay.names import Codec
from relay.policy import Policy


@dataclass(frozen=True)
class Default:
    """A caller's default on a node: `Steer` without a session sets it."""

    policy: Policy
    """Checked: this node can follow it, in a text without penalties."""
    codec: Codec
