"""Every error of the relay: what a user reads, and how it crosses the wire. One class per code.

RelayError                     (a family.FamilialError: its text is safe to print)
├── InvalidRequestError        the request cannot be served as it is
│   ├── PromptTooLongError     more tokens than the context holds
│   ├── UnknownExitError       the family has no such exit
│   ├── IdsUnknownError        an option needs the token ids where only rows are known
│   └── UnknownSessionError    no such text is under way
├── ForeignSessionError        the session is another peer's
├── PeerMismatchError          the upstream serves another family or export, or other segments
├── UpstreamError              the upstream answered what does not fit the question
├── NoUpstreamError            the exit lies upstream and this node has no upstream
├── NotReadyError              the node is still loading, or is shutting down
├── UnreachableError           nothing answers at the address
├── UntrustedError             the certificate at an address does not hold, or there is no TLS
├── BusyError                  the node holds as many sessions as it may
├── TimeoutExceededError       the deadline passed; every hop was told
├── ClosedError                the client, or this text, was closed on this side
├── ConfigurationError         a node or a client cannot start as it was told to (never crosses the wire)
└── InternalError              a defect; the details are in the node's log only
"""

import re
import uuid
from typing import Any, ClassVar, NoReturn

import grpc
from grpc import aio

from family.errors import FamilialError
from relay.names import is_name

CODE_KEY = "relay-code"
"""Trailing metadata key that carries the code of an error."""
REQUEST_KEY = "relay-request"
"""Metadata key that carries a request's id, from the client through every node and back with an error."""
_MOST_TEXT = 600
"""Characters of an error's text that cross the wire; in the worst case each takes 12 bytes of the trailers' 8 kB."""


class RelayError(FamilialError):
    """Base of every error that the relay raises."""

    code: ClassVar[str] = "internal"
    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    advice: ClassVar[str] = ""
    """What to do in general; an error's own text says what in particular."""
    request_id: str = ""
    """Of the request that failed, as every node's log has it; empty where none was sent."""

    @property
    def reference(self) -> str:
        return f"request {self.request_id}" if self.request_id else ""


class InvalidRequestError(RelayError):
    """The request cannot be served as it is; the text says what to change."""

    code = "invalid-request"
    advice = "change what the message names"
    status = grpc.StatusCode.INVALID_ARGUMENT


class PromptTooLongError(InvalidRequestError):
    """The prompt has more tokens than the context holds."""

    code = "prompt-too-long"
    advice = "send a shorter prompt, or forget the oldest turns of the conversation"


class UnknownExitError(InvalidRequestError):
    """The family has no such exit."""

    code = "unknown-exit"
    advice = "choose one of the exits that `relay describe` shows"


class IdsUnknownError(InvalidRequestError):
    """An option needs the ids of the text (penalties), and an exit may decide on a node that has only rows."""

    code = "ids-unknown"
    advice = "leave the penalties out, or choose exits of the entry node"


class UnknownSessionError(InvalidRequestError):
    """No text of that session is under way on the node."""

    code = "unknown-session"
    advice = "nothing: the text is complete, or was never begun on this node"
    status = grpc.StatusCode.NOT_FOUND


class ForeignSessionError(RelayError):
    """The session was opened by another peer, as the certificates of mutual TLS tell them apart."""

    code = "foreign-session"
    advice = "choose another session id, or ask with the certificate that opened the session"
    status = grpc.StatusCode.PERMISSION_DENIED


class PeerMismatchError(RelayError):
    """The upstream serves another family, another export of it, or segments that do not continue this node's."""

    code = "peer-mismatch"
    advice = "copy one bundle to all nodes; correct --upstream, --tier or --segments"
    status = grpc.StatusCode.FAILED_PRECONDITION


class UpstreamError(RelayError):
    """The upstream answered what does not fit the question: another release, or not a relay node at all."""

    code = "upstream"
    advice = "install the same release on both nodes; check what answers at --upstream"
    status = grpc.StatusCode.FAILED_PRECONDITION


class NoUpstreamError(RelayError):
    """The wanted exit lies upstream of a node that has no upstream."""

    code = "no-upstream"
    advice = "start the named node with --upstream HOST:PORT, or choose an exit in reach"
    status = grpc.StatusCode.FAILED_PRECONDITION


class NotReadyError(RelayError):
    """The node is still loading its graphs, or it is shutting down."""

    code = "not-ready"
    advice = "try again in a few seconds, or ask another node"
    status = grpc.StatusCode.UNAVAILABLE


class UnreachableError(RelayError):
    """Nothing answers at an address, or the connection broke and could not be made again."""

    code = "unreachable"
    advice = "start the node, or correct the address; `relay describe` shows how far the chain reaches"
    status = grpc.StatusCode.UNAVAILABLE

    @property
    def reference(self) -> str:
        return ""  # who did not answer has no log of it


class UntrustedError(RelayError):
    """The certificate at an address does not hold for who asks, or nothing there speaks TLS."""

    code = "untrusted"
    advice = "give the authority that signed that certificate (--ca, --upstream-ca) and a name that it has, or renew it"
    status = grpc.StatusCode.UNAUTHENTICATED


class BusyError(RelayError):
    """The node holds as many sessions, or positions of texts, as it may."""

    code = "busy"
    advice = "try again later, or raise --max-sessions or --kv-memory"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class TimeoutExceededError(RelayError):
    """The end-to-end timeout passed; every hop was told to stop."""

    code = "timeout"
    advice = "give a larger timeout"
    status = grpc.StatusCode.DEADLINE_EXCEEDED


class ClosedError(RelayError):
    """The client or the text was closed on this side (never crosses the wire)."""

    code = "closed"
    advice = "open another client, or ask for the text again"
    status = grpc.StatusCode.CANCELLED


class ConfigurationError(RelayError):
    """A node or a client cannot start as it was told to."""

    code = "configuration"
    advice = "correct the setting that the message names; `relay-node --print-config`, `relay config` show them all"
    status = grpc.StatusCode.FAILED_PRECONDITION


class InternalError(RelayError):
    """A defect of the node; the client gets no details, the node's log has them."""

    code = "internal"
    advice = "look for the request's id in the nodes' logs, and report what they say"


CATALOGUE: dict[str, type[RelayError]] = {
    cls.code: cls
    for cls in (
        InvalidRequestError,
        PromptTooLongError,
        UnknownExitError,
        IdsUnknownError,
        UnknownSessionError,
        ForeignSessionError,
        PeerMismatchError,
        UpstreamError,
        NoUpstreamError,
        NotReadyError,
        UnreachableError,
        UntrustedError,
        BusyError,
        TimeoutExceededError,
        ClosedError,
        ConfigurationError,
        InternalError,
    )
}
"""Code to class; a test proves it complete."""


def table() -> str:
    """The catalogue as Markdown: what README.md shows, and `relay errors`."""
    rows = []
    for kind in CATALOGUE.values():
        happened = " ".join((kind.__doc__ or "").split(".")[0].split())
        rows.append(f"| `{kind.code}` | `{kind.__name__}` | {kind.status.name} | {happened} | {kind.advice} |")
    return "\n".join(["| code | class | gRPC status | what happened | what to do |", "|---|---|---|---|---|", *rows])


_FOREIGN: dict[grpc.StatusCode, type[RelayError]] = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimeoutExceededError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: InvalidRequestError,
    grpc.StatusCode.UNIMPLEMENTED: UnreachableError,
}
"""Statuses that gRPC itself makes, without a code of ours."""


def public(error: BaseException, request_id: str) -> RelayError:
    """The error that may leave a server: ours as it is, anything else without its text."""
    if isinstance(error, RelayError):
        return error
    return InternalError(f"the node failed; its log has the details under request {request_id}")


def _shown(text: str) -> str:
    """A text as one line of bounded length that changes no terminal's state."""
    return "".join(c if c.isprintable() else " " for c in text[:_MOST_TEXT])


def request_id_of(context: "aio.ServicerContext[Any, Any]") -> str:
    """The id that the caller gave its request, or a fresh one."""
    given = str(dict(context.invocation_metadata() or ()).get(REQUEST_KEY, ""))
    return given if is_name(given) else new_request_id()


def new_request_id() -> str:
    """An id that no other request has."""
    return uuid.uuid4().hex[:16]


async def refuse(context: "aio.ServicerContext[Any, Any]", error: RelayError, request_id: str) -> NoReturn:
    """End a call on the server's side with this error."""
    context.set_trailing_metadata(((CODE_KEY, error.code), (REQUEST_KEY, request_id)))
    await context.abort(error.status, _shown(str(error)))
    raise AssertionError("unreachable: aborting raises")


def from_rpc(error: aio.AioRpcError, address: str, request_id: str = "") -> RelayError:
    """Our error for one that came over gRPC from `address`, as the answer to the request of this id."""
    translated = _translated(error, address)
    translated.request_id = request_id
    return translated


def _translated(error: aio.AioRpcError, address: str) -> RelayError:
    trailing = dict(error.trailing_metadata() or ())
    known = CATALOGUE.get(str(trailing.get(CODE_KEY, "")))
    if known is not None:
        return known(_shown(error.details() or ""))
    foreign = _FOREIGN.get(error.code())
    if foreign is UnreachableError:
        return no_connection(error.details() or "", address)
    if foreign is TimeoutExceededError:
        return TimeoutExceededError("the timeout passed before the text was complete; give a larger timeout")
    if foreign is InvalidRequestError:
        return InvalidRequestError(f"what was sent to {address} is larger than a message may be; send a shorter prompt")
    return InternalError(f"the node at {address} failed: {error.code().name}")


_TLS = re.compile(r"OPENSSL_internal:([A-Z0-9_]+)(?:: ([a-z -]+))?|(Hostname Verification)")
"""How gRPC tells of a handshake that failed: OpenSSL's error, with its reason; or a name that the certificate lacks."""


def no_connection(details: str, address: str) -> RelayError:
    """What kept gRPC, which has one status for it all, from a connection."""
    if failed := _TLS.search(details):
        error, reason, other_name = failed.groups()
        if error == "WRONG_VERSION_NUMBER":
            return UntrustedError(
                f"the node at {address} does not speak TLS; start it with --tls-cert and --tls-key, or leave the "
                "authority (ca, upstream-ca) out"
            )
        if other_name or error == "CERTIFICATE_VERIFY_FAILED":
            return UntrustedError(
                f"the certificate of the node at {address} does not hold: {reason or 'it is of another name'}; give "
                "the authority that signed it (ca, upstream-ca) and a name that it has, or renew it"
            )
        return UntrustedError(f"TLS with the node at {address} failed: {error.lower().replace('_', ' ')}")
    if details.startswith("failed to connect") and "Socket closed" in details:
        return UnreachableError(
            f"what answers at {address} hangs up at once: it may want TLS (ca, upstream-ca), a certificate of an "
            "authority that it knows (cert, upstream-cert), or be on its way down"
        )
    return UnreachableError(f"no relay node answers at {address}; start one there, or correct the address")
