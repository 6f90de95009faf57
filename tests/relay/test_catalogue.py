"""The catalogue of errors is complete, each crosses the wire as itself, and the public names are frozen."""

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc import aio

import relay
from family.errors import BundleError
from relay import errors
from relay.errors import CATALOGUE, CODE_KEY, BusyError, InternalError, RelayError


def test_only_errors_of_the_relay_leave_a_server_with_their_text() -> None:
    for error in (BundleError("/srv/secret.data: altered"), OSError("secret"), KeyError("secret")):
        public = errors.public(error, "s")
        assert type(public) is InternalError and "secret" not in str(public)
    assert str(errors.public(BusyError("full"), "s")) == "full"


def every_kind(kind: type[RelayError] = RelayError) -> Iterator[type[RelayError]]:
    for child in kind.__subclasses__():
        yield child
        yield from every_kind(child)


def test_the_catalogue_has_every_error_under_a_code_of_its_own() -> None:
    kinds = set(every_kind())
    assert set(CATALOGUE.values()) == kinds
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all("code" in vars(kind) for kind in kinds)
    assert all(kind.advice for kind in kinds)
    assert {f"{kind.__name__} " for kind in kinds} <= set(re.findall(r"\w+Error ", errors.__doc__ or ""))


def test_the_readme_has_the_catalogue_as_it_is() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert errors.table() in readme.read_text(encoding="utf-8")
    assert errors.table().count("\n") == len(CATALOGUE) + 1


@pytest.mark.parametrize("kind", list(every_kind()), ids=lambda kind: kind.code)
def test_every_error_is_itself_again_on_the_other_side(kind: type[RelayError]) -> None:
    sent = aio.AioRpcError(kind.status, aio.Metadata(), aio.Metadata((CODE_KEY, kind.code)), details="what to do")
    received = errors.from_rpc(sent, "here:1")
    assert type(received) is kind and str(received) == "what to do"


def test_a_peers_text_stays_one_line_that_changes_no_terminal() -> None:
    trailers = aio.Metadata((CODE_KEY, "busy"))
    sent = aio.AioRpcError(BusyError.status, aio.Metadata(), trailers, details="full\n\x1b[2J\x9b" + "!" * 10_000)
    received = str(errors.from_rpc(sent, "here:1"))
    assert received.startswith("full  [2J !") and received.isprintable() and len(received) == 600


def test_a_status_that_is_not_ours_still_becomes_one_of_ours() -> None:
    for status in grpc.StatusCode:
        received = errors.from_rpc(aio.AioRpcError(status, aio.Metadata(), aio.Metadata(), details="raw"), "here:1")
        assert isinstance(received, RelayError) and "raw" not in str(received)


def test_the_public_names_are_these() -> None:
    assert relay.__all__ == [
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
    assert all(getattr(relay, name).__name__ == name for name in relay.__all__)
