"""How the weights of a bundle are stored: at one precision, or at one for every tier.

`f32`: as they are trained. `int8`: every matrix in 8 bits, and products as integer arithmetic. `int4`: the trunk's
matrices in 4 bits; branches, embedding and head as at `int8`, as they are few and early exits are sensitive. Whatever
the precision, norms and rows are f32, so tiers of different precision make one chain.
"""

from collections.abc import Mapping

from exporter.errors import ExportError

PRECISIONS = ("f32", "int8", "int4")


def of_segments(text: str, tiers: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """The precision of every segment and of its exit, from `int4` or `device=int4,edge=int8,cloud=f32`.

    `tiers` are those of the bundle, each with its segments. Raises `ExportError` for a text that is neither.
    """
    if "=" not in text:
        return {segment: _known(text.strip()) for segments in tiers.values() for segment in segments}
    names = ",".join(f"{tier}=..." for tier in tiers)
    given: dict[str, str] = {}
    for pair in text.split(","):
        tier, _, precision = (part.strip() for part in pair.partition("="))
        if tier not in tiers:
            raise ExportError(f"precision: this family has no tier {tier!r}; give {names}")
        if tier in given:
            raise ExportError(f"precision: {tier} is given twice; give {names}")
        given[tier] = _known(precision)
    missing = [tier for tier in tiers if tier not in given]
    if missing:
        raise ExportError(f"precision: nothing is said of {', '.join(missing)}; give {names}")
    return {segment: given[tier] for tier, segments in tiers.items() for segment in segments}


def _known(precision: str) -> str:
    if precision not in PRECISIONS:
        choices = ", ".join(PRECISIONS)
        raise ExportError(
            f"precision: expected one of {choices}, or one per tier (TIER=PRECISION,...), got {precision!r}"
        )
    return precision
