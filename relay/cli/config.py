"""What `relay` is told about the relay that it asks: by flags, variables or a TOML file, see `relay.settings`."""

from dataclasses import dataclass, field

from relay.settings.kinds import ADDRESS, DEFAULT_ADDRESS, SECONDS
from relay.settings.table import setting, table_of


@dataclass(frozen=True)
class ClientConfig:
    """Where to ask, and how long to wait. The fields are the settings of `relay`; None: there is no value."""

    node: str = field(default=DEFAULT_ADDRESS, metadata=setting("node", ADDRESS, "entry node"))
    timeout_s: float | None = field(
        default=None, metadata=setting("timeout", SECONDS, "seconds for the whole answer, over every hop")
    )


CLIENT_SETTINGS = table_of(ClientConfig, command="relay", section="client")
