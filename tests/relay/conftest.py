"""What the tests of the relay share: a chain of nodes on a tiny bundle, for clients that block."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.relay.processes import in_background
from tests.relay.servers import Chain, chain


@pytest.fixture(scope="module")
def nodes(tiny_bundle: Path) -> Iterator[Chain]:
    """Device, edge and cloud on an event loop in a thread."""
    with in_background(chain(tiny_bundle)) as served:
        yield served
