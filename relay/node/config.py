"""What a node is told at its start: by flags, variables or a TOML file, see `relay.settings`."""

from dataclasses import dataclass, field
from pathlib import Path

from family.manifest import Manifest, check_segments
from family.strict import FieldError
from relay.names import Codec
from relay.settings.kinds import (
    ADDRESS,
    CODEC,
    COUNT,
    DEFAULT_ADDRESS,
    FILE,
    FOLDER,
    MEMORY,
    NAME,
    SECONDS,
    SEGMENTS,
    SENT,
    THREADS,
)
from relay.settings.table import setting, table_of


@dataclass(frozen=True)
class NodeConfig:
    """One `relay-node` process. The fields are its settings; None: there is no value."""

    tier: str = field(metadata=setting("tier", NAME, "the bundle's manifest says which segments the tier has"))
    bundle: Path = field(metadata=setting("bundle", FOLDER, "what export-family wrote"))
    listen: str = field(default=DEFAULT_ADDRESS, metadata=setting("listen", ADDRESS, "port 0: any free one"))
    upstream: str | None = field(
        default=None, metadata=setting("upstream", ADDRESS, "node that serves the next segments")
    )
    segments: tuple[int, ...] | None = field(
        default=None, metadata=setting("segments", SEGMENTS, "serve these instead of the tier's own")
    )
    threads: int | None = field(
        default=None, metadata=setting("threads", THREADS, "threads of a forward; by default one for each core")
    )
    max_sessions: int = field(default=64, metadata=setting("max-sessions", COUNT, "sessions held at a time"))
    kv_memory: int | None = field(
        default=None,
        metadata=setting(
            "kv-memory",
            MEMORY,
            "memory for keys and values: texts that may need more wait outside; by default half of the machine's",
        ),
    )
    grace_s: float = field(
        default=30.0, metadata=setting("grace", SECONDS, "seconds that a session outlives a stream that broke")
    )
    drain_s: float = field(
        default=30.0, metadata=setting("drain", SECONDS, "seconds that running requests may go on after SIGTERM")
    )
    tls_cert: Path | None = field(
        default=None, metadata=setting("tls-cert", FILE, "this node's certificate (PEM): it is asked over TLS only")
    )
    tls_key: Path | None = field(default=None, metadata=setting("tls-key", FILE, "its private key"))
    tls_client_ca: Path | None = field(
        default=None,
        metadata=setting("tls-client-ca", FILE, "serve only who has a certificate of this authority (mutual TLS)"),
    )
    upstream_ca: Path | None = field(
        default=None, metadata=setting("upstream-ca", FILE, "authority of the upstream's certificate: ask it over TLS")
    )
    upstream_cert: Path | None = field(
        default=None, metadata=setting("upstream-cert", FILE, "certificate to show the upstream (mutual TLS)")
    )
    upstream_key: Path | None = field(default=None, metadata=setting("upstream-key", FILE, "its private key"))
    codec: str = field(
        default=Codec.F32.label,
        metadata=setting("codec", CODEC, "how rows travel for a request that does not say: f32, bf16, int8 or int4"),
    )
    send: str = field(
        default="rows",
        metadata=setting(
            "send",
            SENT,
            "rows, when a deeper exit is asked; ahead: rows, at once, so that a deeper exit waits for one; or ids, to "
            "an upstream that serves the lower segments too: few bytes, its own compute",
        ),
    )


NODE_SETTINGS = table_of(NodeConfig, command="relay-node", section="node")


def segments_of(config: NodeConfig, manifest: Manifest) -> tuple[int, ...]:
    """The segments that the node serves. Raises `ConfigurationError` for an unknown tier or bad segments."""
    from relay.errors import ConfigurationError  # not above: it loads gRPC, and `relay-node --help` reads this module

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
