"""Bytes on a link, as TCP carries them: rows in their codecs, and what gRPC and `relay.v1` add.

The sizes of rows follow from the codecs' records (`relay.codec`); the rest was counted on links of this project.
"""

from dataclasses import dataclass

from scaling.plan.cost import Number
from scaling.plan.fleet import Link

CHAIN_BYTES = 16
"""A row's chain value."""
ID_BYTES = 3
"""A token id of five digits as a varint."""
BLOCK = 32
"""Channels of `int8` and `int4` that share a step."""
LEAST_RTO_S = 0.2
"""What a lost message waits beside its round trip, where none follows it (Linux's least retransmission timeout)."""
ROOT_TWO = 2**0.5
"""The mean of two exponentials over the standard deviation of their sum."""
KEPT_BYTES = 17
"""Of a row's exponent and the channels that are taken out of it."""


@dataclass(frozen=True)
class Framing:
    """What messages take beside their rows, in bytes."""

    up: float
    """A message to the next node."""
    down: float
    """Its reply with one token."""
    token: float
    """A further token of a reply."""
    opening: float
    """A text's stream, both ways: opened, and closed with a goodbye."""


FRAMING = Framing(up=95.0, down=110.0, token=8.0, opening=350.0)
"""As links counted them (experiments/plan): 6,600 to 6,900 bytes of a text of 32 messages on a near link, 1 to 2 more
for each message on a far one.
"""


def row_bytes(codec: str, d_model: int) -> float:
    """A row of `d_model` channels, its chain value included."""
    if codec == "ids":
        return ID_BYTES + CHAIN_BYTES
    if codec in ("f32", "bf16"):
        return d_model * (4 if codec == "f32" else 2) + CHAIN_BYTES
    blocks = -(-d_model // BLOCK)
    return KEPT_BYTES + blocks * (1 + BLOCK * (8 if codec == "int8" else 4) // 8) + CHAIN_BYTES


def transfer_s(size: Number, bps: Number) -> Number:
    """Seconds that so many bytes take at a rate."""
    return 8 * size / bps


def reply_s(link: Link) -> Number:
    """What a message waits for beside its own bytes: the way there and back with what disturbs it, and the reply."""
    late_s = ROOT_TWO * link.jitter_s + 2 * link.loss * (link.rtt_s + LEAST_RTO_S)
    return link.rtt_s + late_s + transfer_s(FRAMING.down, link.down_bps)


def request_s(link: Link, prompt_tokens: Number) -> Number:
    """What a client waits for beside its node: the prompt's ids on their way there, and the first token's way back."""
    return transfer_s(prompt_tokens * ID_BYTES + FRAMING.up, link.up_bps) + reply_s(link)


def reply_var(link: Link) -> Number:
    """Variance of that, s²: jitter, and that one of the two messages is lost."""
    lost = 1 - (1 - link.loss) ** 2
    var: Number = link.jitter_s**2 + lost * (1 - lost) * (link.rtt_s + LEAST_RTO_S) ** 2
    return var
