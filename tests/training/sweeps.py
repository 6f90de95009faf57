"""A sweep of a few tiny runs on text that is made here."""

import json
import random
from pathlib import Path
from typing import Any

from training.sweep.design import Design, Grid, RateRule, Recipe, Size, Texts
from training.sweep.plan import CorpusFacts, HeldOutFacts

SMALL, WIDE = Size(16, 6, 1), Size(32, 6, 2)
BUDGET = 5e8
"""Some seventy steps of the small size."""
FACTS = CorpusFacts("0" * 64, ("1" * 64,), 100_000, (HeldOutFacts("held.txt", "2" * 64, 1000, 1.0),))


def design(*grids: Grid, **changes: Any) -> Design:
    """A design of these grids."""
    fields: dict[str, Any] = {
        "schema_version": 1,
        "name": "tiny",
        "texts": Texts(("train.txt",), ("held.txt",), 257, 600),
        "recipe": Recipe(window=16, batch=2, precision="float32"),
        "rate": RateRule(25_000, 5e-3, -0.3),
        "grids": grids or (Grid((BUDGET,), (SMALL,), (1, 2)),),
    }
    return Design(**fields | changes)


def write_texts(folder: Path) -> None:
    """`train.txt` and `held.txt`: words of a made-up language, the same every time."""
    rng = random.Random(0)
    words = ["".join(rng.choices("aeioulmnrst", k=rng.randint(2, 7))) for _ in range(60)]
    for name, sentences in (("train.txt", 900), ("held.txt", 40)):
        lines = (" ".join(rng.choices(words, k=rng.randint(4, 10))).capitalize() + "." for _ in range(sentences))
        (folder / name).write_text("\n".join(lines) + "\n")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a sweep folder as plain JSON."""
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
