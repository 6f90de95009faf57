"""The exits of a family at the ranks that are to be scored, on one run of the trunk."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from family.errors import SpecError
from family.spec import Exit
from training.evaluate import Logits
from training.lowrank import at_rank
from training.modeling import FamilyForCausalLM

Reading = tuple[int, int | None]
"""An exit, and the rank that its branch is cut to; None where it has none."""


def readings_of(family: FamilyForCausalLM, ranks: Sequence[int]) -> tuple[Reading, ...]:
    """Every exit as it is, a low-rank one after those of `ranks` that are below its own.

    Raises:
        SpecError: no branch has as many components as the largest rank asks for.
    """
    exits = [family.config.exit(g) for g in range(1, family.config.granularity + 1)]
    check_ranks(exits, ranks)
    smaller = [[rank for rank in sorted(set(ranks)) if e.rank and rank < e.rank] for e in exits]
    return tuple((g, rank) for g, e in enumerate(exits, start=1) for rank in (*smaller[g - 1], e.rank))


def check_ranks(exits: Iterable[Exit], ranks: Sequence[int]) -> None:
    """Raise `SpecError` unless one of the exits has as many components as the largest rank asks for."""
    most = max((e.rank or 0 for e in exits), default=0)
    if ranks and max(ranks) > most:
        has = f"its low-rank branches have 1..{most}" if most else "it has no low-rank branch, so give no rank"
        raise SpecError(f"rank {max(ranks)}: more than the family can be cut to; {has}")


def rows_of(
    family: FamilyForCausalLM, readings: Sequence[Reading], input_ids: Tensor
) -> Iterator[tuple[Reading, Tensor]]:
    """Normed rows (B, T, H) of each reading for token ids (B, T); `family.head` makes logits of them."""
    states, context = family.states(input_ids)
    for g, rank in readings:
        with at_rank(family.branches, rank) if rank else nullcontext():
            rows = family.branch_rows(g, states[g], context)
        yield (g, rank), rows


def reading_logits(
    family: FamilyForCausalLM, readings: Sequence[Reading]
) -> Callable[[NDArray[np.int64]], Mapping[Reading, Logits]]:
    """Logits of the readings in float32, as `position_marks` takes them."""

    def logits(ids: NDArray[np.int64]) -> dict[Reading, Logits]:
        with torch.no_grad():
            rows = rows_of(family, readings, torch.from_numpy(ids).unsqueeze(0).to(family.device))
            return {reading: family.head(row[0]).float().cpu().numpy() for reading, row in rows}

    return logits
