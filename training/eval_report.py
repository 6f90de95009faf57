"""What `eval-family` found out, as JSON and as a table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from family.spec import Base
from training.continuations import ContinuationScores
from training.scores import DISAGREEMENTS, ReadingScore
from training.tasks import TaskScores

EVAL_VERSION = 1


@dataclass(frozen=True)
class TextScores:
    """All exits on one held-out text."""

    file: str
    sha256: str
    tokens: int
    """Positions scored, in windows that do not overlap."""
    window: int
    exits: tuple[ReadingScore, ...]


@dataclass(frozen=True)
class EvalReport:
    """Everything that one call of `eval-family` measured, in float32."""

    schema_version: int
    command: str
    family: str
    base: Base
    """What the family was trained on."""
    layers: tuple[int, ...]
    """l_g of every exit."""
    text: tuple[TextScores, ...]
    continuations: ContinuationScores | None
    tasks: tuple[TaskScores, ...]
    libraries: Mapping[str, str]


def table(report: EvalReport) -> str:
    """The figures as text for a terminal."""
    lines: list[str] = []
    for text in report.text:
        lines += [f"{text.file}: {text.tokens} tokens in windows of {text.window}", *_scores(text.exits), ""]
    if (found := report.continuations) is not None:
        lines += [
            f"the last exit's answers to {found.prompts} prompts of {found.file}: {found.tokens} tokens, "
            f"{found.repeats:.1%} of 4-grams repeated, {found.loops:.1%} of answers end in a loop",
            *_scores(found.exits),
            "where no 4-gram is repeated: "
            + ", ".join(f"{_name(e.exit, e.rank)} agrees {e.agreement:.1%}" for e in found.fresh),
            "",
        ]
    for task in report.tasks:
        lines.append(f"{task.task}, {task.documents} documents of {task.file}")
        for score in task.exits:
            norm = "" if score.accuracy_norm is None else f", normalised {score.accuracy_norm:.1%}"
            lines.append(f"  {_name(score.exit, score.rank)}: accuracy {score.accuracy:.1%}{norm}")
        lines.append("")
    return "\n".join(lines[:-1])


def _scores(exits: Iterable[ReadingScore]) -> list[str]:
    names = ("exit", "loss", "perplexity", "agreement", *(f"covers at {most:.0%}" for most in DISAGREEMENTS))
    rows = [names]
    for e in exits:
        figures = f"{e.cross_entropy:.3f}", f"{e.perplexity:.2f}", f"{e.agreement:.1%}"
        rows.append((_name(e.exit, e.rank), *figures, *(f"{c.share:.1%}" for c in e.coverage)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _name(g: int, rank: int | None) -> str:
    return f"exit {g}" + (f" rank {rank}" if rank else "")
