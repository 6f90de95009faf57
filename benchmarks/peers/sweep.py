"""Finds each rival's best settings: every type in every setting, its speeds and its cross-entropy, kept on disk."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.catalogue import Peer
from benchmarks.peers.child import Child
from benchmarks.peers.folders import made_once
from family.files import write_atomic

TURNS = 3


@dataclass(frozen=True)
class Trial:
    """A rival in one setting."""

    type: str
    settings: Mapping[str, Any]
    nats: float
    """Cross-entropy per token."""
    prefill_tps: float
    """Tokens per second, alone on the machine; for choosing, not for comparing."""
    decode_tps: float


@dataclass(frozen=True)
class Task:
    """What is measured: the same for all engines."""

    prompt: tuple[int, ...]
    tokens: int
    """Decoded after the prompt."""
    windows: tuple[tuple[int, ...], ...]
    """Scored; each begins at position 0."""
    key: str
    """Of the source weights, the task and the machine: trials with another one do not count."""


@dataclass(frozen=True)
class Rival:
    """A rival and what runs it."""

    peer: Peer
    python: Path
    source: Path
    """What its exporter reads."""
    cache: Path
    """Folder of its exported models and trials."""

    def child(self) -> Child:
        return Child(self.peer.name, self.peer.module, self.python)

    def model(self, type_: str) -> Path:
        """The folder of the exported model, made if it is not there. Raises `PeerError`."""

        def export(folder: Path) -> None:
            with self.child() as child:
                child.ask("export", source=str(self.source), type=type_, out=str(folder))

        return made_once(self.cache / type_, export)


def sweep(
    rival: Rival,
    task: Task,
    threads: int,
    alone: Callable[[], AbstractContextManager[None]],
    say: Callable[[str], None],
) -> list[Trial]:
    """All trials of a rival: every type and option at `threads` threads, then the fastest ones with fewer.

    `alone` is held while a trial is timed. Raises `PeerError`.
    """
    trials = _Trials(rival, task, alone, say)
    found = [trials.run(type_, settings) for type_ in rival.peer.types for settings in rival.peer.settings(threads)]
    for best in distinct(max(found, key=lambda t: t.decode_tps), max(found, key=lambda t: t.prefill_tps)):
        found += [trials.run(best.type, {**best.settings, "threads": fewer}) for fewer in _fewer(threads)]
    return found


def finalists(trials: Sequence[Trial], nats: float) -> list[Trial]:
    """The fastest at decode and at prefill of those with at most this cross-entropy; of all, where none has."""
    good = [trial for trial in trials if trial.nats <= nats] or list(trials)
    return distinct(max(good, key=lambda t: t.decode_tps), max(good, key=lambda t: t.prefill_tps))


def distinct(*trials: Trial) -> list[Trial]:
    """Each once."""
    return [trial for i, trial in enumerate(trials) if trial not in trials[:i]]


class _Trials:
    """Trials, each written to disk when it is done, so that a sweep that was cut goes on."""

    def __init__(
        self, rival: Rival, task: Task, alone: Callable[[], AbstractContextManager[None]], say: Callable[[str], None]
    ) -> None:
        self._rival, self._task, self._alone, self._say = rival, task, alone, say
        self._path = rival.cache / "trials.json"
        self._kept: list[dict[str, Any]] = _kept_trials(self._path, task.key)

    def run(self, type_: str, settings: dict[str, Any]) -> Trial:
        for kept in self._kept:
            if kept["type"] == type_ and kept["settings"] == settings:
                return Trial(**kept)
        trial = self._measure(type_, settings)
        self._say(
            f"{self._rival.peer.name} {type_} {settings}: prefill {trial.prefill_tps:.0f}, "
            f"decode {trial.decode_tps:.1f} tokens/s, {trial.nats:.3f} nats"
        )
        self._kept.append(asdict(trial))
        write_atomic(self._path, json.dumps({"key": self._task.key, "trials": self._kept}, indent=1))
        return trial

    def _measure(self, type_: str, settings: dict[str, Any]) -> Trial:
        task = self._task
        with self._rival.child() as child:
            child.ask("open", model=str(self._rival.model(type_)), settings=settings)
            nats = self._known_nats(type_, settings)
            if nats is None:
                nats = child.ask("score", windows=task.windows)["nats"]
            with self._alone():
                turns = [child.ask("turn", ids=task.prompt, tokens=task.tokens) for _ in range(1 + TURNS)][1:]
        prefill_s = median(turn["prefill_s"] for turn in turns)
        decode_s = median(turn["decode_s"] for turn in turns)
        return Trial(type_, settings, nats, len(task.prompt) / prefill_s, task.tokens / decode_s)

    def _known_nats(self, type_: str, settings: dict[str, Any]) -> float | None:
        """The number of threads does not change what is computed."""
        for kept in self._kept:
            if kept["type"] == type_ and {**kept["settings"], "threads": settings["threads"]} == settings:
                return float(kept["nats"])
        return None


def _kept_trials(path: Path, key: str) -> list[dict[str, Any]]:
    """What an earlier run wrote, if it measured the same."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return list(kept["trials"]) if kept["key"] == key else []
    except (OSError, ValueError, KeyError, TypeError):
        return []  # only speeds that can be measured again


def _fewer(threads: int) -> Iterator[int]:
    while threads > 1:
        threads //= 2
        yield threads


def default_threads() -> int:
    """One for each core, as a node has by default."""
    return os.cpu_count() or 1
