"""What a step of a text spends: time, work of each place and of its graphs, bytes of each link, FLOPs."""

from dataclasses import dataclass

from scaling.plan.batching import SHORT_ROWS, Graph
from scaling.plan.cost import Number


@dataclass(slots=True)
class Use:
    """What a graph is run for."""

    runs: Number = 0.0
    """Short forwards: a token's, or a few drafts'."""
    rows: Number = 0.0
    """Of those."""
    wanted: Number = 0.0
    """Rows of those whose logits are made."""
    read: Number = 0.0
    """Rows of long runs: of a prompt, or of all that was missed."""

    def add(self, other: "Use", times: Number) -> None:
        """The other so many times."""
        self.runs = self.runs + times * other.runs
        self.rows = self.rows + times * other.rows
        self.wanted = self.wanted + times * other.wanted
        self.read = self.read + times * other.read


class Spent:
    """What something takes: in time from its begin to its end, and of each place and link. Grows by what is added."""

    __slots__ = ("busy", "down", "flops", "seconds", "up", "uses", "way")

    def __init__(self, places: int) -> None:
        self.seconds: Number = 0.0
        self.busy: list[Number] = [0.0] * places
        self.flops: list[Number] = [0.0] * places
        self.uses: list[dict[Graph, Use]] = [{} for _ in range(places)]
        self.up: list[Number] = [0.0] * (places - 1)
        self.down: list[Number] = [0.0] * (places - 1)
        self.way: list[Number] = [0.0] * (places - 1)

    def add(self, other: "Spent", times: Number = 1.0) -> "Spent":
        """The other so many times, after what is here."""
        self.seconds = self.seconds + times * other.seconds
        for own, more in (
            (self.busy, other.busy),
            (self.flops, other.flops),
            (self.up, other.up),
            (self.down, other.down),
            (self.way, other.way),
        ):
            for i, value in enumerate(more):
                own[i] = own[i] + times * value
        for place, uses in enumerate(other.uses):
            for graph, use in uses.items():
                self.uses[place].setdefault(graph, Use()).add(use, times)
        return self

    def run(self, place: int, graph: Graph, rows: Number, context: Number, wanted: Number, times: Number) -> None:
        """A forward of a place, so many times. Rows with nothing before them are a prompt's, however few."""
        use = self.uses[place].setdefault(graph, Use())
        if float(rows) > SHORT_ROWS or not context:
            use.read = use.read + times * rows
            return
        use.runs = use.runs + times
        use.rows = use.rows + times * rows
        use.wanted = use.wanted + times * wanted
