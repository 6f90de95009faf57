"""What a node is told at its start."""

from dataclasses import dataclass
from pathlib import Path

from family.manifest import Manifest, check_segments
from family.strict import FieldError
from relay.errors import ConfigurationError


@dataclass(frozen=True)
class NodeConfig:
    """One `relay-node` process."""

    tier: str
    bundle: Path
    listen: str
    """HOST:PORT; port 0 takes a free one."""
    upstream: str | None = None
    """HOST:PORT of the node that serves the next segments."""
    segments: tuple[int, ...] | None = None
    """Consecutive segments; None: the manifest's for the tier."""
    threads: int = 0
    """Threads of a forward; 0: one for each core."""
    max_sessions: int = 64
    grace_s: float = 30.0
    """How long the views of a session outlive a stream that broke."""
    drain_s: float = 30.0
    """How long running requests may go on after SIGTERM."""


def segments_of(config: NodeConfig, manifest: Manifest) -> tuple[int, ...]:
    """The segments that the node serves. Raises `ConfigurationError` for an unknown tier or bad segments."""
    if config.segments is None:
        if config.tier not in manifest.tiers:
            tiers = ", ".join(f"{tier} (segments {given[0]}-{given[-1]})" for tier, given in manifest.tiers.items())
            raise ConfigurationError(
                f"the bundle has no tier {config.tier!r}; it has {tiers}. Give one of these, or --segments A-B"
            )
        return manifest.tiers[config.tier]
    try:
        check_segments(config.segments, manifest.spec.granularity, "--segments")
    except FieldError as error:
        raise ConfigurationError(str(error)) from None
    return config.segments
