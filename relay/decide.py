"""From logits to tokens: pure functions of (logits, drafts, sampling, position)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from relay.errors import InternalError
from relay.messages import Logits, Logprobs, Question
from relay.policy import Rule
from relay.sampling import F32, sample


@dataclass(frozen=True)
class Decision:
    """The accepted drafts and one more token, with the largest probability behind each."""

    tokens: tuple[int, ...]
    confidence: tuple[float, ...]
    logprobs: tuple[Logprobs, ...] = ()
    """One per token, if asked for."""
    sure: bool = True
    """Whether the question's rule holds at every one of the tokens."""


def decide(logits: Logits, question: Question, position: int, exit_: int) -> Decision:
    """The tokens of consecutive positions from `position` on, by an exit's logits (want, vocab). Row i + 1 counts only
    if row i's token is draft i.
    """
    tokens: list[int] = []
    confidence: list[float] = []
    logprobs: list[Logprobs] = []
    sure = True
    for i, row in enumerate(logits):
        largest = float(row.max())
        if not math.isfinite(largest):
            raise InternalError("an exit's logits are no numbers; export the bundle again, from a sound base")
        token = sample(row if question.adjust is None else question.adjust(row), question.sampling, position + i)
        exponentials, total = softmax(row)
        tokens.append(token)
        confidence.append(float(1 / total))
        sure = sure and (question.rule is None or is_sure(question.rule, exit_, exponentials / total))
        if question.logprobs is not None:
            logprobs.append(_logprobs(row, largest + math.log(total), token, question.logprobs))
        if i < len(question.drafts) and question.drafts[i] != token:
            break
    return Decision(tuple(tokens), tuple(confidence), tuple(logprobs), sure)


def softmax(row: F32) -> tuple[F32, np.float32]:
    """The exponentials of logits (vocab,), before temperature, the largest being 1, and their sum: probabilities are
    the one over the other.
    """
    exponentials = row - row.max()
    np.exp(exponentials, out=exponentials)
    return exponentials, exponentials.sum(dtype=np.float32)


def is_sure(rule: Rule, exit_: int, probabilities: F32) -> bool:
    """Whether an exit with these probabilities, (vocab,), may decide by the rule."""
    return rule.allows(exit_, STATISTICS[rule.statistic](probabilities))


def _margin(probabilities: F32) -> float:
    second, first = np.partition(probabilities, -2)[-2:]
    return float(first - second)


def _entropy(probabilities: F32) -> float:
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum(dtype=np.float64))


STATISTICS: dict[str, Callable[[F32], float]] = {
    "max_probability": lambda probabilities: float(probabilities.max()),
    "margin": _margin,
    "entropy": _entropy,
}
"""What can be asked of an exit's probabilities, (vocab,): by `relay.policy.Statistic`."""


def _logprobs(row: F32, log_total: float, token: int, most: int) -> Logprobs:
    """The token's log-probability, and the `most` most probable tokens with theirs; ties go to the lower id."""
    top: Sequence[int] = ()
    if most:
        (candidates,) = np.nonzero(row >= np.partition(row, -most)[-most])
        top = candidates[np.argsort(-row[candidates], kind="stable")][:most].tolist()
    return Logprobs(float(row[token]) - log_total, tuple((t, float(row[t]) - log_total) for t in top))
