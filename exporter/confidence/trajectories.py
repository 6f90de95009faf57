"""The text that a bundle writes after a prompt when its exits decide by a rule, and where its last exit disagrees.

Nothing is decided here: what an exit says of its logits is `relay.decide`'s, whether it may decide `Rule.allows`, and
the levels are those of a node's `Session`. What is added is a memory. At temperature 0 everything that an exit says
after a prefix is a function of the prefix, so texts of many rules on one prompt share what they have in common.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from relay.batch import alone
from relay.decide import STATISTICS, softmax
from relay.policy import Rule
from relay.sampling import F32, GREEDY, sample
from relay.session import Level
from relay.views import Engine

Text = tuple[int, ...]
"""Token ids that follow a prompt."""


@dataclass(frozen=True)
class Reading:
    """What an exit says after a prefix."""

    token: int
    """Its choice at temperature 0."""
    values: dict[str, float]
    """Of its probabilities, by statistic; none of the last exit's, which nothing is asked about."""


@dataclass(frozen=True)
class Trajectory:
    """The text of a prompt under a rule."""

    tokens: Text
    exits: tuple[int, ...]
    """Which decided each token."""
    wrong: int
    """Tokens that the last exit would not have chosen after the same tokens."""


class Reader:
    """Reads what may follow one prompt, at every exit of a bundle, each row in each graph as seldom as it can.

    Exits are asked lazily, as in a `Session`: rows that a deeper one has not read are read together when it is asked.
    """

    def __init__(self, engine: Engine, prompt: Sequence[int]) -> None:
        self.depth = engine.segments[-1]
        """Number of the last exit."""
        self._prompt = tuple(prompt)
        self._levels = [Level(engine, index) for index in engine.segments]
        self._path = Text()
        """Ids that the first level has consumed."""
        self._seen: dict[Text, dict[int, Reading]] = {}

    def at(self, text: Text, exit_: int) -> Reading:
        """What an exit says after the prompt and these tokens."""
        if exit_ not in self._seen.get(text, ()):
            self._read(text, exit_)
        return self._seen[text][exit_]

    def _read(self, text: Text, exit_: int) -> None:
        """Read the text's reading, and those of its beginnings back to the first that is known."""
        self._go_to(self._prompt + text)
        unknown = [text]
        while unknown[-1] and exit_ not in self._seen.get(unknown[-1][:-1], ()):
            unknown.append(unknown[-1][:-1])
        levels = self._levels[:exit_]
        for below, level in pairwise(levels):
            alone(level.consume(below.log.rows(len(level.log), len(below.log))))
        logits = alone(levels[-1].answer(len(unknown)))
        for prefix, row in zip(unknown, logits[::-1], strict=True):
            self._seen.setdefault(prefix, {})[exit_] = self._reading(exit_, row, len(self._prompt) + len(prefix))

    def _reading(self, exit_: int, row: F32, position: int) -> Reading:
        token = sample(row, GREEDY, position)
        if exit_ == self.depth:
            return Reading(token, {})
        exponentials, total = softmax(row)
        probabilities = exponentials / total
        return Reading(token, {name: statistic(probabilities) for name, statistic in STATISTICS.items()})

    def _go_to(self, ids: Text) -> None:
        shared = next((i for i, (a, b) in enumerate(zip(self._path, ids, strict=False)) if a != b), len(self._path))
        shared = min(shared, len(ids))
        for level in self._levels:
            level.truncate(shared)
        alone(self._levels[0].consume(np.array(ids[shared:], np.int64)))
        self._path = ids


def follow(reader: Reader, rule: Rule | None, stop_ids: Collection[int], most: int) -> Trajectory:
    """The text of a prompt up to a stop id or `most` tokens, each decided by the first exit that the rule allows; by
    the last exit where it allows none, or where there is no rule.
    """
    text, exits = Text(), list[int]()
    while len(text) < most and (not text or text[-1] not in stop_ids):
        first = reader.depth if rule is None else 1
        for exit_ in range(first, reader.depth + 1):
            reading = reader.at(text, exit_)
            if exit_ == reader.depth or (rule and rule.allows(exit_, reading.values[rule.statistic])):
                text = (*text, reading.token)
                exits.append(exit_)
                break
    ends = range(len(text) - 1, -1, -1)  # the last one first: the last exit reads what it lacks in one forward
    wrong = sum(reader.at(text[:end], reader.depth).token != text[end] for end in ends)
    return Trajectory(text, tuple(exits), wrong)
