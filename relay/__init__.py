"""Relay inference: nodes that pass a sentence's hidden states from device to edge to cloud, and the client for them.

    async with AsyncRelayClient("localhost:7001") as client:
        async for token in client.generate("The tide comes in", max_tokens=32):
            print(token.text, end="")

Importing this package loads neither torch, transformers, onnxruntime nor scipy; the names below load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.client.aio import AsyncRelayClient
    from relay.client.sync import RelayClient
    from relay.client.types import Finish, Node, Token
    from relay.errors import RelayError
    from relay.messages import Logprobs
    from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, SpeculativeExit

_HOMES = {
    "AsyncRelayClient": "relay.client.aio",
    "RelayClient": "relay.client.sync",
    "Finish": "relay.client.types",
    "Node": "relay.client.types",
    "Token": "relay.client.types",
    "RelayError": "relay.errors",
    "Logprobs": "relay.messages",
    "ConfidenceExit": "relay.policy",
    "ExitSchedule": "relay.policy",
    "FixedExit": "relay.policy",
    "SpeculativeExit": "relay.policy",
}

__all__ = [
    "AsyncRelayClient",
    "ConfidenceExit",
    "ExitSchedule",
    "Finish",
    "FixedExit",
    "Logprobs",
    "Node",
    "RelayClient",
    "RelayError",
    "SpeculativeExit",
    "Token",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'relay' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
