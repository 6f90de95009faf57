"""Between the options of a request (sampling, penalties, policy, log-probabilities) and `relay.v1`."""

from relay.errors import InvalidRequestError, UnknownExitError
from relay.messages import Logprobs
from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, Policy, Rule, Statistic
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
            return pb.Policy(exit=_exit(given.exit))
        case ExitSchedule():
            if not 0 <= given.seed <= UINT64:
                raise InvalidRequestError(f"the seed of a schedule is a 64-bit number from 0 on, got {given.seed}")
            return pb.Policy(schedule=pb.Policy.Schedule(seed=given.seed))
        case ConfidenceExit():
            deepest = 0 if given.deepest is None else _exit(given.deepest)
            return pb.Policy(
                confidence=pb.Policy.Confidence(
                    rule=rule_message(Rule(given.statistic, given.threshold)), deepest=deepest
                )
            )
        case _:
            raise InvalidRequestError(f"{given!r} is no policy; give FixedExit, ConfidenceExit or ExitSchedule")


def _exit(number: int) -> int:
    if not 1 <= number <= UINT32:
        raise UnknownExitError(f"exit {number} is unknown; exits count from 1")
    return number


def policy(message: pb.Policy) -> Policy | None:
    """A policy off the wire; None where it has none. Raises `InvalidRequestError`."""
    match message.WhichOneof("kind"):
        case "exit":
            return FixedExit(message.exit)
        case "schedule":
            return ExitSchedule(message.schedule.seed)
        case "confidence":
            given = rule(message.confidence.rule)
            return ConfidenceExit(given.threshold, given.statistic, message.confidence.deepest or None)
        case _:
            return None


_STATISTICS: "dict[Statistic, pb.Statistic.ValueType]" = {
    "max_probability": pb.STATISTIC_MAX_PROBABILITY,
    "margin": pb.STATISTIC_MARGIN,
    "entropy": pb.STATISTIC_ENTROPY,
}


def rule_message(given: Rule) -> pb.Rule:
    """A rule on the wire."""
    return pb.Rule(statistic=_STATISTICS[given.statistic], threshold=given.threshold)


def rule(message: pb.Rule) -> Rule:
    """A rule off the wire. Raises `InvalidRequestError`."""
    known = next((name for name, value in _STATISTICS.items() if value == message.statistic), None)
    if known is None:
        raise InvalidRequestError(f"rule: statistic {message.statistic} is unknown; send one of relay.v1.Statistic")
    return Rule(known, message.threshold)


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
