"""Requests: when they come, how long their prompts and answers are. Drawn, or read from a trace of a real service."""

import csv
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from scaling.errors import ScalingError
from scaling.runs import FloatArray, IntArray

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""Columns of Azure's traces of LLM inference (Splitwise, ISCA 2024)."""
MOONCAKE = ("timestamp", "input_length", "output_length")
"""Fields of Mooncake's traces (FAST 2025); milliseconds."""


@dataclass(frozen=True, eq=False)
class Requests:
    """R requests in the order in which they come."""

    arrival_s: FloatArray
    """(R,), from 0, ascending."""
    prompt_tokens: IntArray
    """(R,)."""
    output_tokens: IntArray
    """(R,)."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate(self) -> float:
        """Requests per second, the mean."""
        return len(self) / float(self.arrival_s[-1])

    def peak(self, window_s: float = 60.0) -> float:
        """The busiest window's rate over the mean; windows of that many seconds, one after the other."""
        whole = int(self.arrival_s[-1] // window_s)
        if whole < 1:
            raise ScalingError(f"the trace is shorter than a window of {window_s:g} s; give a shorter one")
        counts = np.bincount((self.arrival_s // window_s).astype(np.int64))[:whole]
        return float(counts.max() / counts.mean())

    @property
    def prompt_cv(self) -> float:
        """Standard deviation of the prompts' lengths over their mean."""
        return float(self.prompt_tokens.std() / self.prompt_tokens.mean())

    def first(self, count: int) -> "Requests":
        """The first of them."""
        return Requests(self.arrival_s[:count], self.prompt_tokens[:count], self.output_tokens[:count])


def poisson(
    rate: float, count: int, prompt_tokens: float, output_tokens: float, prompt_cv: float = 1.0, seed: int = 0
) -> Requests:
    """Requests that come independently of each other: lognormal prompts, geometric outputs of these means."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    spread = np.log1p(prompt_cv**2)
    prompts = rng.lognormal(np.log(prompt_tokens) - spread / 2, np.sqrt(spread), count)
    outputs = rng.geometric(1 / output_tokens, count)
    return Requests(arrival, np.maximum(prompts.round(), 1).astype(np.int64), outputs.astype(np.int64))


def read_trace(path: Path) -> Requests:
    """A trace: Azure's CSV or Mooncake's JSON lines, by what the first line says.

    Raises:
        ScalingError: there is no such file, or it is neither; the text names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ScalingError(f"{path}: {error.strerror or error}; expected a trace of requests") from None
    except UnicodeDecodeError:
        raise ScalingError(f"{path}: not UTF-8 text; expected a trace of requests") from None
    if not lines:
        raise ScalingError(f"{path}: the file is empty")
    if lines[0].startswith("{"):
        rows = [_mooncake(path, number, line) for number, line in enumerate(lines, 1)]
    elif tuple(lines[0].split(",")) == AZURE:
        rows = [_azure(path, number, line) for number, line in enumerate(lines[1:], 2)]
    else:
        raise ScalingError(
            f"{path}:1: expected the columns {', '.join(AZURE)}, or JSON lines with {', '.join(MOONCAKE)}; "
            f"got {lines[0][:60]!r}"
        )
    if not rows:
        raise ScalingError(f"{path}: a head and no requests")
    arrival, prompts, outputs = (np.array(column) for column in zip(*rows, strict=True))
    order = np.argsort(arrival, kind="stable")
    arrival = arrival[order] - arrival.min()
    if not arrival[-1] > 0:
        raise ScalingError(f"{path}: all requests come at once; a rate needs times")
    return Requests(arrival, prompts[order].astype(np.int64), outputs[order].astype(np.int64))


def _azure(path: Path, number: int, line: str) -> tuple[float, int, int]:
    try:
        time, prompt, output = next(csv.reader([line]))
        whole, _, fraction = time.partition(".")
        seconds = datetime.fromisoformat(whole + "+00:00").timestamp() + float("0." + (fraction or "0"))
        return seconds, int(prompt), int(output)
    except (ValueError, StopIteration) as error:
        raise ScalingError(f"{path}:{number}: {error}; expected {', '.join(AZURE)}") from None


def _mooncake(path: Path, number: int, line: str) -> tuple[float, int, int]:
    try:
        row = json.loads(line)
        return row["timestamp"] / 1000, int(row["input_length"]), int(row["output_length"])
    except (ValueError, KeyError, TypeError) as error:
        raise ScalingError(f"{path}:{number}: {error}; expected JSON with {', '.join(MOONCAKE)}") from None
