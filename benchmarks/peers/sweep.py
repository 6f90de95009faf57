"""Finds each rival's best settings: every type in every setting, its speeds and its cross-entropy, kept on disk."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import Peer
from benchmarks.peers.child import Child
from benchmarks.peers.folders import made_once
from benchmarks.peers.rounds import Seat, play
from family.files import write_atomic

TURNS = 2
QUIET = 0.05
"""Trials during which others used more of the machine than this share serve this run only."""
Alone = Callable[[], AbstractContextManager[None]]


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


def sweep(rival: Rival, task: Task, threads: int, alone: Alone, say: Callable[[str], None]) -> list[Trial]:
    """All trials of a rival: every type and option at `threads` threads, then the fastest ones with fewer.

    `alone` is held while trials are timed. Raises `PeerError`.
    """
    trials = _Trials(rival, task, alone, say)
    found = trials.run([(type_, settings) for type_ in rival.peer.types for settings in rival.peer.settings(threads)])
    best = distinct(max(found, key=lambda t: t.decode_tps), max(found, key=lambda t: t.prefill_tps))
    fewer = [(trial.type, {**trial.settings, "threads": count}) for trial in best for count in _fewer(threads)]
    return found + trials.run(fewer)


def finalists(trials: Sequence[Trial], nats: float) -> list[Trial]:
    """The fastest at decode and at prefill of those with at most this cross-entropy; of all, where none has."""
    good = [trial for trial in trials if trial.nats <= nats] or list(trials)
    return distinct(max(good, key=lambda t: t.decode_tps), max(good, key=lambda t: t.prefill_tps))


def distinct(*trials: Trial) -> list[Trial]:
    """Each once."""
    return [trial for i, trial in enumerate(trials) if trial not in trials[:i]]


Setting = tuple[str, dict[str, Any]]
"""A type and its settings."""


class _Trials:
    """Trials, written to disk when they are done and were not disturbed, so that a sweep that was cut goes on."""

    def __init__(self, rival: Rival, task: Task, alone: Alone, say: Callable[[str], None]) -> None:
        self._rival, self._task, self._alone, self._say = rival, task, alone, say
        self._path = rival.cache / "trials.json"
        self._nats, self._kept = _kept_trials(self._path, task.key)

    def run(self, settings: Sequence[Setting]) -> list[Trial]:
        """A trial of each: those that are new are scored one by one, then timed in turns with one another."""
        new = [setting for setting in settings if self._find(setting) is None]
        for setting in new:
            self._score(setting)
        if new:
            self._time(new)
        return [trial for setting in settings if (trial := self._find(setting))]

    def _find(self, setting: Setting) -> Trial | None:
        return next((trial for trial in self._kept if (trial.type, trial.settings) == setting), None)

    def _score(self, setting: Setting) -> None:
        if _name(setting) not in self._nats:
            with self._open(setting) as child:
                self._nats[_name(setting)] = child.ask("score", windows=self._task.windows)["nats"]
            self._say(f"{self._rival.peer.name} {_name(setting)}: {self._nats[_name(setting)]:.3f} nats")
            self._keep()

    def _time(self, settings: Sequence[Setting]) -> None:
        task = self._task
        with ExitStack() as stack:
            seats = [Seat(_name(s), stack.enter_context(self._open(s))) for s in settings]
            disturbed = play(seats, [task.prompt] * TURNS, task.tokens, lambda: None, self._alone)
        for (type_, options), seat in zip(settings, seats, strict=True):
            figures = seat.figures()
            trial = Trial(type_, options, self._nats[seat.label], figures["prefill_tps"], figures["decode_tps"])
            self._kept.append(trial)
            self._say(f"{self._rival.peer.name} {type_} {options}: {trial.prefill_tps}, {trial.decode_tps} tokens/s")
        if max(disturbed) <= QUIET:
            self._keep()

    def _open(self, setting: Setting) -> Child:
        type_, options = setting
        model = self._rival.model(type_)
        child = self._rival.child()
        try:
            child.ask("open", model=str(model), settings=options)
        except BaseException:
            child.close()
            raise
        return child

    def _keep(self) -> None:
        kept = {"key": self._task.key, "nats": self._nats, "trials": [asdict(trial) for trial in self._kept]}
        write_atomic(self._path, json.dumps(kept, indent=1))


def _name(setting: Setting) -> str:
    """Of what decides the results: not the number of threads."""
    type_, options = setting
    return " ".join([type_, *(f"{key}={value}" for key, value in options.items() if key != "threads")])


def _kept_trials(path: Path, key: str) -> tuple[dict[str, float], list[Trial]]:
    """Cross-entropies and trials that an earlier run wrote, if it measured the same."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["nats"], [Trial(**trial) for trial in kept["trials"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # only what can be measured again
    return {}, []


def _fewer(threads: int) -> Iterator[int]:
    while threads > 1:
        threads //= 2
        yield threads


def default_threads() -> int:
    """One for each core, as a node has by default."""
    return os.cpu_count() or 1
