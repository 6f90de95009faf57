"""A fleet from YAML: the schema of `fleet.schema.json`, then what no schema can say. Every error names the line."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.plan.fleet import Fleet, Goals, Link, Tier, Traffic, Training, Trunk
from scaling.plan.fleetcheck import check, wrong
from scaling.plan.hardware import GIGA, TERA, Hardware, hardware
from scaling.plan.yamlmarks import Marked, read_yaml

MEGA, MILLI = 1e6, 1e-3
DEFAULT_NAME = "family"
USUALLY_FREE = 0.1
"""Of each machine's memory, where the fleet does not say."""
ROUNDING = 1e-6
"""How far shares may be from 1."""


def example() -> str:
    """The commented fleet that `plan-family init` writes."""
    return files("scaling.plan").joinpath("fleet.example.yaml").read_text(encoding="utf-8")


def read_fleet(path: Path, context: int | None = None) -> Fleet:
    """Read a fleet.

    Args:
        path: the file.
        context: positions of a session of the bundle that is there; None: the family is to be trained.

    Raises:
        ScalingError: the file is missing, no YAML, or says something impossible; the text names file, line and key.
    """
    marked = read_yaml(path)
    check(marked)
    data = marked.data
    tiers = tuple(_tier(marked, i) for i in range(len(data["tiers"])))
    names = [tier.name for tier in tiers]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise wrong(marked, ("tiers", i, "name"), f"there is a tier {name} already")
    links = tuple(_link(marked, i) for i in range(len(data.get("links", ()))))
    if len(links) != len(tiers) - 1:
        raise wrong(
            marked, ("links",), f"expected {len(tiers) - 1}, one between each tier and the next, got {len(links)}"
        )
    traffic, training = _traffic(marked, tiers), _training(marked)
    positions, whose = traffic.prompt_tokens + traffic.output_tokens, "the bundle's context"
    if context is None and training.budget:
        context, whose = training.trunk.context, "training.trunk.context"
    if context is not None and positions > context:
        told = f"prompt and output take {positions:,.0f} positions in the mean, {whose} is {context:,}"
        raise wrong(marked, ("traffic",), told)
    return Fleet(
        name=data.get("name", DEFAULT_NAME),
        tiers=tiers,
        links=links,
        traffic=traffic,
        goals=_goals(marked, names),
        training=training,
        objective=data.get("objective", Fleet.objective),
    )


def _tier(marked: Marked, i: int) -> Tier:
    data = marked.data["tiers"][i]
    given = data.get("precision", list(Tier.precisions))
    try:
        machine = _hardware(data["name"], data["hardware"])
    except ScalingError as error:
        raise wrong(marked, ("tiers", i, "hardware"), str(error)) from None
    return Tier(
        name=data["name"],
        hardware=machine,
        count=data.get("count"),
        precisions=(given,) if isinstance(given, str) else tuple(given),
        profile=marked.path.parent / Path(data["profile"]).expanduser() if "profile" in data else None,
        price_per_hour=data.get("price_per_hour"),
    )


def _hardware(name: str, data: Any) -> Hardware:
    if isinstance(data, str):
        return hardware(data)
    return Hardware(
        name=name,
        kind="own",
        unit=data.get("unit", "cpu"),
        flops={precision: value * TERA for precision, value in data["tflops"].items()},
        bandwidth_bytes=data["bandwidth_gb_s"] * GIGA,
        memory_bytes=data["memory_gb"] * GIGA,
        price_usd=data.get("price_usd", 0.0),
        busy_w=data.get("busy_w", 0.0),
        idle_w=data.get("idle_w", 0.0),
        basis="measured" if data.get("measured", False) else "datasheet",
        source="the fleet file",
    )


def _link(marked: Marked, i: int) -> Link:
    data = marked.data["links"][i]
    both = data.get("bandwidth_mbps")
    up, down = data.get("up_mbps", both), data.get("down_mbps", both)
    if up is None or down is None:
        raise wrong(marked, ("links", i), "bandwidth_mbps is missing, or up_mbps and down_mbps")
    return Link(
        rtt_s=data["rtt_ms"] * MILLI,
        up_bps=up * MEGA,
        down_bps=down * MEGA,
        jitter_s=data.get("jitter_ms", 0.0) * MILLI,
        loss=data.get("loss", 0.0),
    )


def _traffic(marked: Marked, tiers: tuple[Tier, ...]) -> Traffic:
    data = marked.data["traffic"]
    lengths = ("prompt_tokens", "output_tokens")
    decided = _shares(marked, [tier.name for tier in tiers])
    devices = tiers[0].count
    if devices is None:
        raise wrong(marked, ("tiers", 0), "count is missing: the first tier's machines are where requests come from")
    if "trace" in data:
        return _traced(marked, devices, decided)
    for key in ("requests_per_second", *lengths):
        if key not in data:
            raise wrong(marked, ("traffic",), f"{key} is missing, or a trace")
    rate = data["requests_per_second"] * devices
    peak = data.get("peak", Traffic.peak)
    return Traffic(rate, data["prompt_tokens"], data["output_tokens"], peak=peak, decided=decided)


def _traced(marked: Marked, devices: int, decided: Mapping[str, float]) -> Traffic:
    """Lengths, and what the file does not say of rate and peak, from a trace of the whole fleet's requests."""
    from scaling.plan.traffic import read_trace

    data = marked.data["traffic"]
    for key in ("prompt_tokens", "output_tokens"):
        if key in data:
            raise wrong(marked, ("traffic", key), "the trace has it; leave one of them out")
    try:
        trace = read_trace(marked.path.parent / Path(data["trace"]).expanduser())
        peak = data["peak"] if "peak" in data else trace.peak()
    except ScalingError as error:
        raise wrong(marked, ("traffic", "trace"), str(error)) from None
    rate = data["requests_per_second"] * devices if "requests_per_second" in data else trace.rate
    prompt, output = float(trace.prompt_tokens.mean()), float(trace.output_tokens.mean())
    return Traffic(rate, prompt, output, trace.prompt_cv, peak, decided)


def _shares(marked: Marked, names: list[str]) -> dict[str, float]:
    shares: dict[str, float] = marked.data["traffic"].get("decided", {})
    for name in shares:
        _known(marked, ("traffic", "decided", name), name, names)
    if shares and abs(sum(shares.values()) - 1) > ROUNDING:
        raise wrong(marked, ("traffic", "decided"), f"shares are 1 together, these are {sum(shares.values()):g}")
    return shares


def _goals(marked: Marked, names: list[str]) -> Goals:
    data = marked.data.get("goals", {})
    for key in ("loss", "memory_free"):
        given = data.get(key, {})
        for name in given if isinstance(given, dict) else ():
            _known(marked, ("goals", key, name), name, names)
    free = data.get("memory_free", USUALLY_FREE)
    ttft, tpot = data.get("ttft_ms"), data.get("tpot_ms")
    return Goals(
        ttft_s=None if ttft is None else ttft * MILLI,
        tpot_s=None if tpot is None else tpot * MILLI,
        percentile=data.get("percentile", Goals.percentile),
        loss=data.get("loss", {}),
        agreement=data.get("agreement"),
        memory_free=free if isinstance(free, dict) else dict.fromkeys(names, free),
        budget_per_hour=data.get("budget_per_hour"),
    )


def _training(marked: Marked) -> Training:
    data = marked.data.get("training", {})
    given = data.get("trunk", {})
    for key in ("widths", "layers"):
        if key in given:
            given = {**given, key: tuple(sorted(given[key]))}
    trunk = Trunk(**given)
    at = ("training", "trunk")
    if odd := next((width for width in trunk.widths if width % trunk.head_dim), None):
        raise wrong(marked, (*at, "widths"), f"expected multiples of head_dim, {trunk.head_dim}; {odd} is none")
    if (trunk.branch == "lowrank") != (trunk.rank is not None):
        raise wrong(marked, (*at, "rank"), "goes with branch: lowrank, which needs it")
    if trunk.head_dim % 2:
        raise wrong(marked, (*at, "head_dim"), "expected an even number: positions turn pairs of components")
    return Training(data.get("compute"), data.get("parameters"), data.get("tokens"), trunk)


def _known(marked: Marked, keys: Iterable[str | int], name: str, names: list[str]) -> None:
    if name not in names:
        raise wrong(marked, keys, f"no such tier; there are {', '.join(names)}")
