"""Settings of a command, declared once: flags over `RELAY_*` variables over a TOML file over defaults."""
