"""`Hardware`: what a machine can do, and a cited table of common ones.

The table is `hardware.csv` beside this file. Every row says whether its speeds are `datasheet` (peaks that no program
reaches: a roofline multiplies them by the efficiency of the row's `unit`) or `measured` (reached by a program, taken as
they are), and where they are from. `checked:` says which figures were compared with which public document, `unchecked:`
which were written down without one. Prices are list prices at launch, power that of the whole device or card; what a
machine is really bought and metered for belongs in the fleet file.
"""

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

from scaling.errors import ScalingError

Unit = Literal["cpu", "soc", "gpu"]
Basis = Literal["measured", "datasheet"]
PRECISIONS = ("f32", "f16", "int8", "int4")
"""Of weights, widest first."""
BYTES_PER_WEIGHT: Mapping[str, float] = {"f32": 4.0, "f16": 2.0, "int8": 1.0 + 2 / 32, "int4": 0.5 + 2 / 32}
"""A block of 32 weights has a scale of two bytes."""
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Hardware:
    """One machine, or one accelerator with its memory."""

    name: str
    kind: str
    """What it is: phone, board, jetson, laptop, desktop, server, gpu."""
    unit: Unit
    """What multiplies: a CPU, the GPU of a chip that shares the CPU's memory, or a GPU with its own."""
    flops: Mapping[str, float]
    """Matmul operations per second by precision of `PRECISIONS`, dense, two for a multiply and add. int8 is fp8 and
    int4 fp4 where a machine has those instead. At least one."""
    bandwidth_bytes: float
    """Memory reads per second."""
    memory_bytes: float
    """All of it, the system's own share included (a fleet keeps that free by `goals.memory_free`)."""
    price_usd: float
    busy_w: float
    """Power under full load."""
    idle_w: float
    basis: Basis
    source: str
    layer_s: float | None = None
    """Fixed time of a decoder layer in a forward, where it was measured."""

    def __post_init__(self) -> None:
        if not self.flops or not set(self.flops) <= set(PRECISIONS):
            raise ScalingError(f"{self.name}: flops needs one of {', '.join(PRECISIONS)}; got {', '.join(self.flops)}")
        speeds = {f"flops of {name}": value for name, value in self.flops.items()}
        speeds |= {"bandwidth": self.bandwidth_bytes, "memory": self.memory_bytes}
        for name, value in speeds.items():
            if not 0 < value < float("inf"):
                raise ScalingError(f"{self.name}: {name} must be a positive number, got {value}")
        if not 0 <= self.idle_w <= self.busy_w or self.price_usd < 0:
            raise ScalingError(f"{self.name}: price and power must not be negative, nor idle_w more than busy_w")

    def matmul_flops(self, precision: str) -> float:
        """Operations per second on weights of a precision.

        Where the machine has no figure for it, weights are unpacked to the next wider precision that it has, and where
        it has none that is wider, to the narrowest it has.

        Raises:
            ScalingError: no such precision.
        """
        if precision not in PRECISIONS:
            raise ScalingError(f"no precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
        wider = [name for name in PRECISIONS[: PRECISIONS.index(precision) + 1] if name in self.flops]
        return self.flops[wider[-1] if wider else next(name for name in PRECISIONS if name in self.flops)]


@cache
def rows() -> tuple[Hardware, ...]:
    """The table."""
    text = files("scaling.plan").joinpath("hardware.csv").read_text(encoding="utf-8")
    return tuple(map(_row, csv.DictReader(text.splitlines())))


def hardware(name: str) -> Hardware:
    """The machine of the table with this name; capitals, blanks and the maker's name do not matter.

    Raises:
        ScalingError: none has it; the text names those that are spelled alike.
    """
    table = {_plain(row.name): row for row in rows()}
    found = table.get(_plain(name))
    if found is None:
        near = difflib.get_close_matches(_plain(name), table, n=3, cutoff=0.5)
        near += [key for key in table if _plain(name) and _plain(name) in key and key not in near][:3]
        hint = f"did you mean {' or '.join(table[key].name for key in near)}?" if near else "give its figures instead"
        raise ScalingError(f"no hardware {name!r} in the table of {len(table)}: {hint}")
    return found


def _row(cells: dict[str, str]) -> Hardware:
    columns = (*zip(PRECISIONS, ("f32_tflops", "f16_tflops", "int8_tops", "int4_tops"), strict=True),)
    return Hardware(
        name=cells["name"],
        kind=cells["kind"],
        unit=cast(Unit, cells["unit"]),
        flops={precision: float(cells[column]) * TERA for precision, column in columns if cells[column]},
        bandwidth_bytes=float(cells["bandwidth_gb_s"]) * GIGA,
        memory_bytes=float(cells["memory_gb"]) * GIGA,
        price_usd=float(cells["price_usd"]),
        busy_w=float(cells["busy_w"]),
        idle_w=float(cells["idle_w"]),
        basis=cast(Basis, cells["basis"]),
        source=cells["source"],
        layer_s=float(cells["layer_us"]) / 1e6 if cells["layer_us"] else None,
    )


def _plain(name: str) -> str:
    words = [word for word in name.lower().replace("-", " ").split() if word not in _MAKERS]
    return "".join(words)


_MAKERS = {"nvidia", "apple", "amd", "intel", "qualcomm", "mediatek", "geforce", "google", "instinct", "radeon"}
