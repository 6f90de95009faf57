"""Between the nouns of `relay.messages` and the bytes of `relay.v1`. Every check of a peer's input is here."""

import math

import numpy as np

from family.spec import FamilySpec
from relay import codec, options
from relay.chain import VALUE_BYTES
from relay.errors import InvalidRequestError, UpstreamError
from relay.fence import Stale
from relay.hop import Envelope
from relay.log import Ids, Mark, Rows
from relay.messages import Advance, Answer, Behind, Question
from relay.names import NAME_RULE, Codec, is_name
from relay.sampling import GREEDY
from relay.session import MOST_ANSWERS
from relay.v1 import relay_pb2 as pb

_F32 = np.dtype("<f4")
EPOCH_LIMIT = 1 << 63
"""Epochs are below: the next one must fit 64 bits."""


def request(session: str, envelope: Envelope, peer: pb.Peer | None) -> pb.AdvanceRequest:
    """The message of one `Advance` from a hop; `peer` goes with a stream's first."""
    message, question = envelope.message, envelope.message.question
    assert question.adjust is None, "what needs token ids is decided where they are known"
    return pb.AdvanceRequest(
        session=session,
        epoch=envelope.epoch,
        seq=envelope.seq,
        peer=peer,
        base=message.base,
        anchor=message.anchor,
        rows=_rows_message(message),
        chain=b"".join(message.chain),
        drafts=question.drafts,
        target_exit=question.exit,
        want=question.want,
        logits=question.logits,
        sampling=None if question.sampling == GREEDY else options.sampling_message(question.sampling),
        rule=None if question.rule is None else options.rule_message(question.rule),
        draft_exit=question.draft_exit,
        more=question.more,
        logprobs=question.logprobs,
    )


def _rows_message(message: Advance) -> pb.Rows:
    count, form = len(message.rows), pb.Codec.ValueType(message.codec)
    if message.rows.ndim == 1:
        return pb.Rows(codec=form, count=count, ids=message.rows.tolist())
    data = codec.encode(message.rows.astype(np.float32, copy=False), message.codec)
    return pb.Rows(codec=form, count=count, width=message.rows.shape[1], data=data)


def check_positions(peer: pb.Peer, spec: FamilySpec) -> None:
    """Raise `InvalidRequestError` for a text that no context holds."""
    _require(peer.positions <= spec.context, f"peer.positions: {peer.positions}, the context is {spec.context}")


def envelope(message: pb.AdvanceRequest, spec: FamilySpec, positions: int, first_exit: int) -> Envelope:
    """The checked content of a message to a node whose first exit is `first_exit`.

    Raises `InvalidRequestError` for anything that does not fit together.
    """
    rows, count, form = message.rows, message.rows.count, options.codec(message.rows.codec)
    d_model, granularity = spec.d_model, spec.granularity
    name("session", message.session)
    _require(count > 0, "rows: a message has at least one")
    _require(len(message.chain) == count * VALUE_BYTES, "chain: one value for each row is needed")
    _require(len(message.anchor) == VALUE_BYTES, f"anchor: expected {VALUE_BYTES} bytes")
    exit_ = message.target_exit or (0 if message.want else first_exit)
    _require(first_exit <= exit_ <= granularity, f"target_exit: expected {first_exit}..{granularity}")
    _require(message.want <= count, "want: more answers than rows")
    _require(message.want <= MOST_ANSWERS, f"want: {message.want} answers at once, expected at most {MOST_ANSWERS}")
    _require(len(message.drafts) == max(0, message.want - 1), "drafts: expected one fewer than `want`")
    alone = message.want == 1 and not message.HasField("rule")
    _require(message.more == 0 or alone, "more: only after one wanted row, and without a rule")
    _require(message.more < MOST_ANSWERS, f"more: {message.more} tokens at once, expected fewer than {MOST_ANSWERS}")
    end = message.base + count + message.more
    _require(end <= positions, f"rows: positions up to {end}, the text has at most {positions}")
    _require(message.epoch > 0 and message.seq > 0, "epoch, seq: counted from 1")
    _require(message.epoch < EPOCH_LIMIT, f"epoch: {message.epoch} leaves no room for a next one")
    return Envelope(
        epoch=message.epoch,
        seq=message.seq,
        message=Advance(
            base=message.base,
            anchor=message.anchor,
            chain=tuple(message.chain[i : i + VALUE_BYTES] for i in range(0, len(message.chain), VALUE_BYTES)),
            rows=_ids(rows, spec.vocab_size) if first_exit == 1 else _rows(rows, form, d_model),
            question=Question(
                message.target_exit,
                message.want,
                tuple(message.drafts),
                sampling=options.sampling(message.sampling) if message.HasField("sampling") else GREEDY,
                rule=options.rule(message.rule) if message.HasField("rule") else None,
                draft_exit=message.draft_exit,
                more=message.more,
                logprobs=options.logprobs_wanted(message, spec.vocab_size),
                logits=message.logits,
            ),
            codec=form,
        ),
    )


def _ids(rows: pb.Rows, vocab_size: int) -> Ids:
    _require(len(rows.ids) == rows.count, f"rows: {rows.count} ids are expected, there are {len(rows.ids)}")
    _require(max(rows.ids) < vocab_size, f"rows: id {max(rows.ids)} is outside the vocabulary")
    return np.array(rows.ids, np.int64)


def _rows(rows: pb.Rows, form: Codec, width: int) -> Rows:
    _require(rows.width == width, f"rows: {rows.count} of width {rows.width}, expected width {width}")
    try:
        return codec.decode(rows.data, form, rows.count, width)
    except codec.CodecError as problem:
        raise InvalidRequestError(f"rows: {problem}") from None


def name(field: str, text: str) -> str:
    """The name that a peer gave in `field`. Raises `InvalidRequestError` for one that is not fit to be shown."""
    _require(is_name(text), f"{field}: {NAME_RULE}")
    return text


def reply(received: Envelope, result: Answer | Behind | Stale) -> pb.AdvanceReply:
    """The reply to a message."""
    message = pb.AdvanceReply(epoch=received.epoch, seq=received.seq)
    match result:
        case Answer():
            message.cached = result.cached
            message.answer.tokens.extend(result.tokens)
            message.answer.confidence.extend(result.confidence)
            message.answer.exit = result.exit
            message.answer.tier = result.tier
            message.answer.engine_ms = result.engine_ms
            message.answer.link_ms = result.link_ms
            message.answer.logprobs.extend(options.logprobs_message(entry) for entry in result.logprobs)
            if result.logits is not None:
                message.answer.logits = result.logits.astype(_F32, copy=False).tobytes()
        case Behind():
            message.cached = result.cached
            message.behind.SetInParent()
            message.behind.marks.extend(pb.Behind.Mark(position=m.position, chain=m.chain) for m in result.marks)
        case Stale():
            message.stale.current_epoch = result.current_epoch
    return message


def result(message: pb.AdvanceReply, sent: Envelope, spec: FamilySpec, address: str) -> Answer | Behind | Stale:
    """The checked content of the reply of the upstream at `address` to what was sent.

    Raises `ConnectionError` for the reply to another message: the stream is out of step, so only a new one helps.
    `UpstreamError`: it does not fit what was sent.
    """
    if (message.epoch, message.seq) != (sent.epoch, sent.seq):
        raise ConnectionError(f"the node at {address} answered another message than the one that was sent")
    try:
        match message.WhichOneof("result"):
            case "answer":
                return _answer(message.cached, message.answer, sent.message, spec)
            case "behind":
                return _behind(message.cached, message.behind, spec)
            case "stale":
                current = message.stale.current_epoch
                _fits(sent.epoch <= current < EPOCH_LIMIT, f"stale: epoch {current}")
                return Stale(current)
            case _:
                raise _MisfitError("no result")
    except _MisfitError as misfit:
        raise UpstreamError(
            f"the node at {address} answered what does not fit the question ({misfit}); both ends need the same release"
        ) from None


def _answer(cached: int, answer: pb.Answer, sent: Advance, spec: FamilySpec) -> Answer:
    question, count = sent.question, len(answer.tokens)
    consumed = sent.base + len(sent.rows)
    least = consumed - len(question.drafts) if question.draft_exit else consumed
    _fits(least <= cached <= consumed + question.more, f"cached: {cached} rows")
    asked = f"{question.want} wanted" + (f" and {question.more} more" if question.more else "")
    _fits(min(1, question.want) <= count <= question.want + question.more, f"tokens: {count} for {asked}")
    _fits(all(token < spec.vocab_size for token in answer.tokens), "tokens: an id outside the vocabulary")
    accepted = () if question.more else tuple(answer.tokens[:-1])
    _fits(accepted == question.drafts[: len(accepted)], "tokens: other drafts than were sent")
    _fits(len(answer.confidence) == count, f"confidence: {len(answer.confidence)} for {count} tokens")
    _fits(all(0 <= value <= 1 for value in answer.confidence), "confidence: no probability")
    _fits(0 <= answer.engine_ms < math.inf, f"engine_ms: {answer.engine_ms}")
    _fits(math.isfinite(answer.link_ms), f"link_ms: {answer.link_ms}")
    wanted = 0 if question.logprobs is None else count
    _fits(len(answer.logprobs) == wanted, f"logprobs: {len(answer.logprobs)}, expected {wanted}")
    for entry in answer.logprobs:
        _fits(len(entry.top_ids) == len(entry.top) == question.logprobs, f"logprobs: {len(entry.top)} alternatives")
        _fits(all(token < spec.vocab_size for token in entry.top_ids), "logprobs: an id outside the vocabulary")
    size = count * spec.vocab_size * _F32.itemsize if question.logits else 0
    _fits(len(answer.logits) == size, f"logits: {len(answer.logits)} bytes, expected {size}")
    if count:
        first = question.exit if question.rule is None else 1
        _fits(first <= answer.exit <= question.exit, f"exit: {answer.exit}")
        _fits(is_name(answer.tier), "tier: no name that can be shown")
    return Answer(
        cached=cached,
        tokens=tuple(answer.tokens),
        confidence=tuple(answer.confidence),
        exit=answer.exit,
        tier=answer.tier,
        engine_ms=answer.engine_ms,
        link_ms=answer.link_ms,
        logprobs=tuple(options.logprobs(entry) for entry in answer.logprobs),
        logits=np.frombuffer(answer.logits, _F32).reshape(count, spec.vocab_size) if answer.logits else None,
    )


def _behind(cached: int, behind: pb.Behind, spec: FamilySpec) -> Behind:
    _fits(cached <= spec.context, f"cached: {cached} rows")
    for mark in behind.marks:
        _fits(mark.position < cached and len(mark.chain) == VALUE_BYTES, f"behind: a mark at {mark.position}")
    return Behind(cached, tuple(Mark(mark.position, mark.chain) for mark in behind.marks))


class _MisfitError(Exception):
    """What of a reply does not fit."""


def _fits(holds: bool, problem: str) -> None:
    if not holds:
        raise _MisfitError(problem)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise InvalidRequestError(problem)
