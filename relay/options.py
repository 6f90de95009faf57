"""Between the options of a request (sampling, penalties, policy, log-probabilities) and `relay.v1`."""

from relay.errors import InvalidRequestError, UnknownExitError
from relay.messages import Logprobs
from relay.names import Codec
from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, Policy, Rule, SpeculativeExit, Statistic
from relay.sampling import NO_PENALTIES, UINT32, UINT64, Penalties, Sampling
from relay.v1 import relay_pb2 as pb

MOST_LOGPROBS = 64
"""Alternatives of a token that a request may ask for."""


def sampling_message(given: Sampling) -> pb.Sampling:
    """A sampling on the wire."""
    return pb.Sampling(
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        min_p=given.min_p,
        seed=given.seed,
        index=given.index,
    )


def sampling(message: pb.Sampling) -> Sampling:
    """A sampling off the wire. Raises `InvalidRequestError`."""
    top_p = message.top_p if message.HasField("top_p") else 1.0
    return Sampling(message.temperature, message.top_k, top_p, message.min_p, message.seed, message.index)


def penalties_message(given: Penalties) -> pb.Penalties:
    """Penalties on the wire."""
    return pb.Penalties(repetition=given.repetition, presence=given.presence, frequency=given.frequency)


def penalties(message: pb.Penalties) -> Penalties:
    """Penalties off the wire. Raises `InvalidRequestError`."""
    repetition = message.repetition if message.HasField("repetition") else NO_PENALTIES.repetition
    return Penalties(repetition, message.presence, message.frequency)


def policy_message(given: Policy) -> pb.Policy:
    """A policy on the wire. Raises `InvalidRequestError` for a number that the wire cannot hold."""
    match given:
        case FixedExit():
            return pb.Policy(exit=_exit(given.exit), burst=given.burst)
        case ExitSchedule():
            if not 0 <= given.seed <= UINT64:
                raise InvalidRequestError(f"the seed of a schedule is a 64-bit number from 0 on, got {given.seed}")
            return pb.Policy(schedule=pb.Policy.Schedule(seed=given.seed))
        case ConfidenceExit():
            deepest = 0 if given.deepest is None else _exit(given.deepest)
            asked = pb.Rule(statistic=_STATISTICS[given.statistic]) if given.epsilon else rule_message(given.rule())
            return pb.Policy(confidence=pb.Policy.Confidence(rule=asked, deepest=deepest, epsilon=given.epsilon or 0))
        case SpeculativeExit():
            return pb.Policy(speculative=_speculative(given))
        case _:
            raise InvalidRequestError(
                f"{given!r} is no policy; give FixedExit, ConfidenceExit, SpeculativeExit or ExitSchedule"
            )


def _speculative(given: SpeculativeExit) -> pb.Policy.Speculative:
    exit_, draft_exit = (0 if number is None else _exit(number) for number in (given.exit, given.draft_exit))
    length = 0 if given.length is None else given.length
    return pb.Policy.Speculative(exit=exit_, draft_exit=draft_exit, length=length, shorten=given.shorten)


def _exit(number: int) -> int:
    if not 1 <= number <= UINT32:
        raise UnknownExitError(f"exit {number} is unknown; exits count from 1")
    return number


def policy(message: pb.Policy) -> Policy | None:
    """A policy off the wire; None where it has none. Raises `InvalidRequestError`."""
    match message.WhichOneof("kind"):
        case "exit":
            return FixedExit(message.exit, message.burst)
        case "schedule":
            return ExitSchedule(message.schedule.seed)
        case "confidence":
            given = message.confidence
            return ConfidenceExit(
                threshold=tuple(given.rule.thresholds) or None,
                statistic=_statistic(given.rule.statistic),
                deepest=given.deepest or None,
                epsilon=given.epsilon or None,
            )
        case "speculative":
            asked = message.speculative
            return SpeculativeExit(asked.exit or None, asked.draft_exit or None, asked.length or None, asked.shorten)
        case _:
            return None


def codec(number: int) -> Codec:
    """A codec off the wire. Raises `InvalidRequestError`."""
    if number not in set(Codec):
        known = ", ".join(known.label for known in Codec)
        raise InvalidRequestError(f"codec {number} is unknown here; this release knows {known}")
    return Codec(number)


_STATISTICS: "dict[Statistic, pb.Statistic.ValueType]" = {
    "max_probability": pb.STATISTIC_MAX_PROBABILITY,
    "margin": pb.STATISTIC_MARGIN,
    "entropy": pb.STATISTIC_ENTROPY,
}


def rule_message(given: Rule) -> pb.Rule:
    """A rule on the wire."""
    return pb.Rule(statistic=_STATISTICS[given.statistic], thresholds=given.thresholds)


def rule(message: pb.Rule) -> Rule:
    """A rule off the wire. Raises `InvalidRequestError`."""
    return Rule(_statistic(message.statistic), tuple(message.thresholds))


def _statistic(number: int) -> Statistic:
    known = next((name for name, value in _STATISTICS.items() if value == number), None)
    if known is None:
        raise InvalidRequestError(f"rule: statistic {number} is unknown; send one of relay.v1.Statistic")
    return known


def logprobs_wanted(message: pb.AdvanceRequest | pb.GenerateRequest, vocab_size: int) -> int | None:
    """How many log-probabilities a request wants beside the token's; None: none at all."""
    if not message.HasField("logprobs"):
        return None
    most = min(MOST_LOGPROBS, vocab_size)
    if message.logprobs > most:
        raise InvalidRequestError(f"logprobs cannot be {message.logprobs}; give at most {most}")
    return message.logprobs


def logprobs_message(entry: Logprobs) -> pb.Logprobs:
    """Log-probabilities on the wire."""
    return pb.Logprobs(token=entry.token, top_ids=[i for i, _ in entry.top], top=[value for _, value in entry.top])


def logprobs(message: pb.Logprobs) -> Logprobs:
    """Log-probabilities off the wire."""
    return Logprobs(message.token, tuple(zip(message.top_ids, message.top, strict=True)))
