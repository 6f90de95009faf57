"""What `relay` is told about the relay that it asks: by flags, variables or a TOML file, see `relay.settings`."""

from dataclasses import dataclass, field
from pathlib import Path

from relay.settings.kinds import ADDRESS, DEFAULT_ADDRESS, FILE, SECONDS
from relay.settings.table import setting, table_of


@dataclass(frozen=True)
class ClientConfig:
    """Where to ask, and how long to wait. The fields are the settings of `relay`; None: there is no value."""

    node: str = field(default=DEFAULT_ADDRESS, metadata=setting("node", ADDRESS, "entry node"))
    timeout_s: float | None = field(
        default=None, metadata=setting("timeout", SECONDS, "seconds for the whole answer, over every hop")
    )
    ca: Path | None = field(
        default=None, metadata=setting("ca", FILE, "authority of the node's certificate (PEM): ask it over TLS")
    )
    cert: Path | None = field(default=None, metadata=setting("cert", FILE, "certificate to show the node (mutual TLS)"))
    key: Path | None = field(default=None, metadata=setting("key", FILE, "its private key"))


CLIENT_SETTINGS = table_of(ClientConfig, command="relay", section="client")
