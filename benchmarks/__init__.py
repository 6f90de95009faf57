"""Every published figure has a command here: `python -m benchmarks.NAME --json` prints one JSON object."""
