"""What a law says of budgets (`scaling.budgets`) as lines of text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from scaling.budgets import EXACT, Budgets, Exits, Figure, Reading

_CONTENTS = {"6ND": "C = 6ND", EXACT: "C exact, with all branches and heads"}
_FRONTIER = {"N*": "n", "D*": "d", "L*": "loss"}
_PRICES = {
    "equal loss, mean": "mean",
    "equal loss, last exit": "last",
    "separate, as good": "leverage",
    "separate, own sizes": "separate",
}
_LEGEND = (
    "equal loss: compute at which the mean over the exits, or the last exit alone, is as good as the best dense model",
    "of C; separate: what G dense models take that are each as good as the mean, or that have the exits' own sizes and",
    "are as good on average; all over C",
)
_NARROW, _WIDE = 6, 32
"""Columns of text: of C and G, of a figure with its interval."""


def budgets_table(found: Budgets) -> str:
    """The frontier, and what each G costs and saves, for each way to count C."""
    families = [exits for exits in found.exits if exits.granularity > 1]
    lines = [
        f"L = {found.formula} ({found.form}; N {found.conventions.params}); in brackets {found.level:.0%} intervals",
        *map(_place, families),
    ]
    for basis, readings in found.readings.items():
        lines += ["", f"the best that C buys; {_CONTENTS[basis]}", *_table(_FRONTIER, readings)]
        if families:
            priced = [reading for reading in readings if reading.granularity > 1]
            lines += ["", f"what G costs and saves; {_CONTENTS[basis]}", *_table(_PRICES, priced)]
    return "\n".join([*lines, "", *(_LEGEND if families else ()), *map(str, found.findings)]).rstrip()


def _place(exits: Exits) -> str:
    """`G = 2: exits after 0.5, 1 of the layers, with 0.6, 1 of N`; of several budgets the first's."""
    text = f"G = {exits.granularity}: exits after {_shares(exits.depths)} of the layers"
    return text if exits.sizes is None else f"{text}, with {_shares(exits.sizes[0])} of N"


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.2g}" for share in shares)


def _table(columns: Mapping[str, str], readings: Sequence[Reading]) -> Iterator[str]:
    shown = {title: name for title, name in columns.items() if any(getattr(reading, name) for reading in readings)}
    yield _line("C", "G", shown)
    for reading in readings:
        cells = (_cell(getattr(reading, name)) for name in shown.values())
        yield _line(f"{reading.flops:.3g}", str(reading.granularity), cells)


def _line(c: str, g: str, cells: Iterable[str]) -> str:
    return (f"{c:<{_NARROW + 2}}{g:<{_NARROW}}" + "".join(f"{cell:<{_WIDE}}" for cell in cells)).rstrip()


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{_number(figure.value)} ({_number(figure.low)} to {_number(figure.high)})"


def _number(value: float | None) -> str:
    """Three digits; infinite ones are open ends."""
    if value is None:
        return "no end"
    return f"{value:.2e}" if value >= 1e4 or value < 1e-2 else f"{value:.3g}"
