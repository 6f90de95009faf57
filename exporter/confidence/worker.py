"""One process of a measurement: a bundle's engine, and what is asked of it prompt by prompt."""

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.confidence import tuning
from exporter.confidence.errors import ConfidenceError
from exporter.confidence.table import PromptCounts
from exporter.confidence.trajectories import Reader, Text, follow
from family.manifest import load_manifest
from relay import chain
from relay.engine.engine import BundleEngine
from relay.errors import PromptTooLongError
from relay.messages import Advance, Answer, Question
from relay.node.text import TextCodec
from relay.policy import Rule
from relay.session import Session


@dataclass(frozen=True)
class _Turn:
    content: str
    role: str = "user"


class Worker:
    """All segments of a bundle in one process."""

    def __init__(self, bundle: Path, threads: int) -> None:
        self.manifest = load_manifest(bundle)
        self.engine = BundleEngine(bundle, self.manifest, tuple(range(1, self.manifest.spec.granularity + 1)), threads)
        self._text = TextCodec(bundle, self.manifest)

    def ids(self, prompt: str, most: int) -> list[int]:
        """Token ids of what a user says, up to where the assistant speaks.

        Raises `ConfidenceError` if the context has no room for it and `most` tokens.
        """
        room = self.manifest.spec.context - most
        try:
            ids = self._text.encode_chat([_Turn(prompt)])
        except PromptTooLongError:
            ids = [0] * (room + 1)
        if len(ids) > room:
            raise ConfidenceError(
                f"a prompt is too long for a text of {most} tokens in a context of {self.manifest.spec.context}: "
                f"{prompt[:60]!r}...; leave it out"
            )
        return ids

    async def served(self, prompt: Sequence[int], rule: Rule, most: int) -> Text:
        """The text that a node with all segments writes."""
        session = Session(self.engine, chain.genesis(self.manifest.export_fingerprint), "all", None)
        ids, text, values = list(prompt), Text(), list[bytes]()
        question = Question(self.engine.segments[-1], want=1, rule=rule)
        while len(text) < most and (not text or text[-1] not in self.manifest.stop_ids):
            base = len(values)
            anchor = session.history.value(base - 1)
            values += chain.extend(anchor, ids[base:], codec=1)
            answer = await session.advance(
                Advance(base, anchor, tuple(values[base:]), np.array(ids[base:], np.int64), question)
            )
            assert isinstance(answer, Answer)
            text = (*text, answer.tokens[0])
            ids.append(answer.tokens[0])
        return text


_worker: list[Worker] = []
"""This process's."""


def start(bundle: Path, threads: int) -> None:
    """Open the bundle, once in a process. Ctrl-C is for the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.append(Worker(bundle, threads))


def observe(prompt: str, most: int) -> tuning.Observed:
    """For tuning: what all exits say along the last one's text."""
    (worker,) = _worker
    return tuning.observe(Reader(worker.engine, worker.ids(prompt, most)), worker.manifest.stop_ids, most)


def count(number: int, prompt: str, rules: Sequence[Rule], most: int, check: Rule | None) -> PromptCounts:
    """The texts of prompt `number` under all rules.

    Raises `ConfidenceError` if a node would write another text under the rule `check`.
    """
    (worker,) = _worker
    ids = worker.ids(prompt, most)
    reader = Reader(worker.engine, ids)
    texts = {rule: follow(reader, rule, worker.manifest.stop_ids, most) for rule in rules}
    if check is not None and asyncio.run(worker.served(ids, check, most)) != texts[check].tokens:
        raise ConfidenceError(
            f"prompt {number}: a node writes another text than was measured, since this machine's kernels are not "
            "chunk-invariant (`relay describe` says so of a node); calibrate on another machine"
        )
    return PromptCounts(
        prompt=number,
        wrong=tuple(texts[rule].wrong for rule in rules),
        exits=tuple(tuple(texts[rule].exits.count(g) for g in worker.engine.segments) for rule in rules),
    )
