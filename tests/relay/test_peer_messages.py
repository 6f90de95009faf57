"""What a peer may send: every message that does not fit is refused with a reason, and leaves nothing behind."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from family.manifest import Manifest, load_manifest
from relay import wire
from relay.chain import genesis
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.processes import raw_error, until
from tests.relay.servers import Chain, address


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return load_manifest(tiny_bundle)


def advance(manifest: Manifest, **changes: Any) -> pb.AdvanceRequest:
    """Two rows that the edge node takes, but for `changes`."""
    width = manifest.spec.d_model
    row_changes = {key: changes.pop(key) for key in ("codec", "count", "width", "data") if key in changes}
    rows = {"codec": pb.CODEC_F32, "count": 2, "width": width, "data": bytes(2 * width * 4), **row_changes}
    fields: dict[str, Any] = {
        "session": "peer",
        "epoch": 1,
        "seq": 1,
        "base": 0,
        "anchor": genesis(manifest.export_fingerprint),
        "chain": bytes(32),
        "target_exit": 2,
        "want": 1,
        "peer": pb.Peer(
            tier="device",
            family_fingerprint=manifest.family_fingerprint,
            export_fingerprint=manifest.export_fingerprint,
            boundary=1,
            positions=changes.pop("positions", 0),
        ),
    }
    return pb.AdvanceRequest(rows=pb.Rows(**rows), **{**fields, **changes})


def test_the_message_that_the_malformed_ones_are_made_from_is_answered(nodes: Chain, manifest: Manifest) -> None:
    with grpc.insecure_channel(address(nodes.edge)) as channel:
        (reply,) = rpc.HopStub(channel).Advance(iter([advance(manifest)]))
    assert (reply.cached, len(reply.answer.tokens), reply.answer.tier) == (2, 1, "edge")


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"session": ""}, "session: expected a name of 1 to 128 printable characters"),
    ({"session": "s" * 129}, "session: expected a name of 1 to 128 printable characters"),
    ({"session": "bad\x1b[2J"}, "session: expected a name of 1 to 128 printable characters"),
    ({"codec": 0}, "codec 0 is unknown here; this release knows f32, bf16, int8, int4"),
    ({"codec": 99}, "codec 99 is unknown here; this release knows f32, bf16, int8, int4"),
    ({"count": 0, "data": b"", "chain": b""}, "rows: a message has at least one"),
    ({"width": 65}, "width 65, expected width 64"),
    ({"data": bytes(7)}, "data and shape disagree"),
    ({"data": np.full(128, np.nan, "<f4").tobytes()}, "rows: not all of them are finite numbers"),
    ({"codec": pb.CODEC_BF16, "data": np.full(128, 0x7F80, "<u2").tobytes()}, "rows: not all of them are finite"),
    ({"codec": pb.CODEC_INT8, "data": bytes(7)}, "rows: data and shape disagree"),
    ({"codec": pb.CODEC_INT4, "data": b"\xff" * 102}, "rows: scales or channels that no row has"),
    ({"chain": bytes(16)}, "chain: one value for each row"),
    ({"anchor": b"short"}, "anchor: expected 16 bytes"),
    ({"base": 255}, "positions up to 257, the text has at most 256"),
    ({"positions": 300}, "peer.positions: 300, the context is 256"),
    ({"positions": 1}, "positions up to 2, the text has at most 1"),
    ({"base": 2**32 - 1}, "the text has at most 256"),
    ({"target_exit": 0}, r"target_exit: expected 2\.\.3"),
    ({"target_exit": 1, "want": 0}, r"target_exit: expected 2\.\.3"),
    ({"target_exit": 1}, r"target_exit: expected 2\.\.3"),
    ({"target_exit": 4}, r"target_exit: expected 2\.\.3"),
    ({"want": 3}, "want: more answers than rows"),
    ({"count": 65, "data": bytes(65 * 64 * 4), "chain": bytes(65 * 16), "want": 65}, "want: 65 answers .* at most 64"),
    ({"drafts": [7]}, "drafts: expected one fewer than `want`"),
    ({"want": 2}, "drafts: expected one fewer than `want`"),
    ({"epoch": 0}, "epoch, seq: counted from 1"),
    ({"epoch": 1 << 63}, "epoch: 9223372036854775808 leaves no room for a next one"),
    ({"seq": 0}, "epoch, seq: counted from 1"),
    ({"sampling": pb.Sampling(temperature=-1)}, "temperature cannot be -1.0; give 0"),
    ({"sampling": pb.Sampling(temperature=1, top_p=0)}, "top_p cannot be 0.0; give more than 0"),
    ({"rule": pb.Rule(thresholds=[0.5])}, "rule: statistic 0 is unknown; send one of relay.v1.Statistic"),
    ({"rule": pb.Rule(statistic=pb.STATISTIC_MARGIN, thresholds=[float("nan")])}, "threshold .* cannot be nan"),
    ({"base": 250, "more": 5}, "positions up to 257, the text has at most 256"),
    ({"more": 3, "want": 2, "drafts": [1]}, "more: only after one wanted row, and without a rule"),
    (
        {"more": 3, "rule": pb.Rule(statistic=pb.STATISTIC_MARGIN, thresholds=[0.5])},
        "more: only after one wanted row, and without a rule",
    ),
    ({"more": 64}, "more: 64 tokens at once, expected fewer than 64"),
    ({"logprobs": 65}, "logprobs cannot be 65; give at most 64"),
]


@pytest.mark.parametrize(("changes", "says"), MALFORMED, ids=[str(c)[:40] for c, _ in MALFORMED])
def test_a_malformed_message_is_refused_and_leaves_nothing(
    nodes: Chain, manifest: Manifest, changes: dict[str, Any], says: str
) -> None:
    with grpc.insecure_channel(address(nodes.edge)) as channel:
        refused = raw_error(rpc.HopStub(channel).Advance(iter([advance(manifest, **{"session": "bad", **changes})])))
    assert refused[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
    assert re.search(says, refused[2])
    assert "bad" not in nodes.edge.node.sessions


def test_every_check_of_the_wire_has_a_malformed_message_here() -> None:
    checks = Path(wire.__file__).read_text(encoding="utf-8").count("    _require(")
    assert len({says for _, says in MALFORMED}) >= checks


@pytest.mark.parametrize("tier", ["", "t" * 20_000, "dev\nice"], ids=["empty", "long", "two lines"])
def test_a_tier_whose_name_cannot_be_shown_is_refused_without_it(nodes: Chain, manifest: Manifest, tier: str) -> None:
    message = advance(manifest)
    message.peer.tier, message.peer.boundary = tier, 2
    with grpc.insecure_channel(address(nodes.edge)) as channel:
        refused = raw_error(rpc.HopStub(channel).Advance(iter([message])))
    assert refused[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
    assert refused[2] == "peer.tier: expected a name of 1 to 128 printable characters"


@pytest.mark.parametrize("boundary", [0, 2])
def test_rows_of_another_boundary_are_refused(nodes: Chain, manifest: Manifest, boundary: int) -> None:
    message = advance(manifest)
    message.peer.boundary = boundary
    with grpc.insecure_channel(address(nodes.edge)) as channel:
        status, code, details = raw_error(rpc.HopStub(channel).Advance(iter([message])))
    assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "peer-mismatch")
    assert "correct --upstream" in details


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (pb.Rows(codec=pb.CODEC_F32, count=2, ids=[1]), "rows: 2 ids are expected, there are 1"),
        (pb.Rows(codec=pb.CODEC_F32, count=2, ids=[1, 512]), "rows: id 512 is outside the vocabulary"),
    ],
)
def test_ids_that_are_none_are_refused(nodes: Chain, manifest: Manifest, rows: pb.Rows, says: str) -> None:
    message = advance(manifest)
    message.peer.boundary = 0
    message.rows.CopyFrom(rows)
    with grpc.insecure_channel(address(nodes.device)) as channel:
        refused = raw_error(rpc.HopStub(channel).Advance(iter([message])))
    assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-request", says)


def test_a_stream_serves_one_session(nodes: Chain, manifest: Manifest) -> None:
    messages = [advance(manifest), advance(manifest, session="other", seq=2)]
    with grpc.insecure_channel(address(nodes.edge)) as channel:
        refused = raw_error(rpc.HopStub(channel).Advance(iter(messages)))
    assert refused[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
    assert "one session" in refused[2]


GARBAGE = b"\xff\xff\xff"


@pytest.mark.parametrize("method", ["Relay/Generate", "Relay/Describe", "Hop/Advance"])
def test_bytes_that_are_no_message_are_refused_like_anything_else(nodes: Chain, method: str) -> None:
    with grpc.insecure_channel(address(nodes.device)) as channel:  # bytes are bytes, whatever the kind of the call
        refused = raw_error(channel.stream_stream(f"/relay.v1.{method}")(iter([GARBAGE])))
    assert refused[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
    assert refused[2].startswith("not a relay.v1 message; write it with protos/relay/v1/relay.proto")


def test_bytes_that_are_no_message_end_a_stream_and_free_its_session(nodes: Chain, manifest: Manifest) -> None:
    def messages() -> Iterator[bytes]:
        yield advance(manifest, session="half").SerializeToString()
        yield GARBAGE

    with grpc.insecure_channel(address(nodes.edge)) as channel:
        call = channel.stream_stream("/relay.v1.Hop/Advance")(messages())
        assert pb.AdvanceReply.FromString(next(call)).cached == 2
        refused = raw_error(call)
    assert refused[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
    until(lambda: "half" not in nodes.edge.node.sessions)
