"""The client SDK: `AsyncRelayClient` and `RelayClient`."""
