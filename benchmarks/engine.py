"""Our engine against other engines on the same weights: decode, prefill, cross-entropy, and what the machine allows.

Every engine runs in a process of its own. In every round each takes one turn, in changing order: it reads 512 tokens
(prefill), then makes 64 more, one by one (decode); greedy, one sequence. Rivals run in the best settings of a sweep
over weight types, precisions and numbers of threads, whose results are kept on disk: the fastest of those whose
cross-entropy is at most ours + 0.015 nats, or where none is, the fastest of all. Cross-entropy is of windows of 512
tokens of WikiText-2's test text, the same for every engine. Ratios are medians over the rounds.
"""

import argparse
import asyncio
import fcntl
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.child import Child, PeerError
from benchmarks.peers.environment import python_of
from benchmarks.peers.folders import made_once
from benchmarks.peers.rounds import Seat, play, ratio
from benchmarks.peers.sweep import Alone, Rival, Task, Trial, default_threads, finalists, sweep
from family.cli import positive
from family.errors import BundleError
from family.manifest import Manifest, load_manifest

TEXT = "text/wikitext-2/test.txt"
WINDOW = 512
PROMPT = 512
TOKENS = 64
MARGIN_NATS = 0.015
"""A rival whose cross-entropy is this much above ours still counts as equal."""
DEVICE_PROMPT = 16
DEVICE_TOKENS = 128

RATIOS = {
    "decode_vs_best": "our decode tokens/s over the fastest rival's whose cross-entropy is at most ours + 0.015 nats",
    "prefill_vs_ort_genai": "our prefill tokens/s over ONNX Runtime GenAI's",
    "prefill_vs_llama_cpp": "our prefill tokens/s over llama.cpp's",
    "prefill_vs_openvino": "our prefill tokens/s over OpenVINO's",
    "exit1_vs_full": "time of a full-depth decode step over that of one that ends at exit 1",
    "bytes_ratio_exit1": "bytes that a full-depth decode step reads over those of one that ends at exit 1",
    "roofline_share": "time to read a full-depth decode step's bytes at the measured bandwidth over the step's time",
    "device_overhead_ms": "processor ms per token of a device node at exit 1 less those of a bare ONNX Runtime loop",
}


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    bundle: Path
    peers: tuple[str, ...]
    pythons: Mapping[str, Path]
    make: bool
    cache: Path
    rounds: int
    windows: int
    lock: Path | None


@dataclass(frozen=True)
class Entrant:
    """A rival in one setting, on its way into the rounds."""

    rival: Rival
    trial: Trial
    equal: bool
    """Whether its cross-entropy is equal to ours or better, within the margin."""


def measure(options: Options) -> dict[str, Any]:
    """All figures. A rival that was not asked or cannot run leaves its ratio null, with the reason."""
    manifest = load_manifest(options.bundle)
    needed = max(WINDOW, PROMPT + TOKENS)
    if manifest.spec.context < needed:
        raise BundleError(
            f"{options.bundle}: a context of {manifest.spec.context} tokens where {needed} are measured; give a bundle "
            "of a model with a longer one"
        )
    task = _task(options, manifest)
    alone: Alone = partial(_locked, options.lock) if options.lock else nullcontext
    with ExitStack() as stack:
        full, first = (_ours(stack, options.bundle, exit_) for exit_ in (None, 1))
        nats = full.child.ask("score", windows=task.windows)["nats"]
        entrants, reasons = _rivals(options, manifest, task, nats + MARGIN_NATS, alone)
        rivals = [(entrant, _seat(stack, entrant)) for entrant in entrants]
        probe = stack.enter_context(Child("probe", "probe", Path(sys.executable)))
        probe.ask("open", settings={"threads": default_threads()})
        probed: list[dict[str, Any]] = []
        disturbed = play(
            [full, first, *(seat for _, seat in rivals)],
            _prompts(options, manifest),
            TOKENS,
            lambda: probed.append(probe.ask("turn")),
            alone,
        )
    device = asyncio.run(_device(options, manifest, task, alone))
    limits = _limits(options.bundle, manifest, probed, median(full.decode_s))
    compared, unknown = _compare(full, rivals)
    failed = {_key(name): reason for name, reason in reasons.items()}
    return {
        **compared,
        "exit1_vs_full": round(ratio(full.decode_s, first.decode_s), 3),
        **limits,
        "device_overhead_ms": round(device["device_cpu_ms"] - device["bare_cpu_ms"], 3),
        "null_because": {**unknown, **failed},
        "ratios": RATIOS,
        "ours": {
            "bundle": options.bundle.name,
            "precision": manifest.precision,
            "nats": round(nats, 4),
            **full.figures(),
        },
        "exit_1": first.figures(),
        "rivals": [
            {
                "engine": entrant.rival.peer.name,
                "type": entrant.trial.type,
                **entrant.trial.settings,
                "nats": round(entrant.trial.nats, 4),
                "equal_nats": entrant.equal,
                **seat.figures(),
            }
            for entrant, seat in rivals
        ],
        "device": device,
        "others_cpu_share": {"median": round(median(disturbed), 3), "max": round(max(disturbed), 3)},
        "protocol": {
            "prompt": PROMPT,
            "tokens": TOKENS,
            "rounds": options.rounds,
            "windows": options.windows,
            "window": WINDOW,
            "text": TEXT,
        },
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| engine | type | cross-entropy | prefill tokens/s | decode tokens/s |", "|---|---|---|---|---|"]
    ours = {"engine": "familial", "type": result["ours"]["precision"], **result["ours"]}
    for row in (ours, *result["rivals"]):
        figures = f"{row['nats']:.3f} | {row['prefill_tps']:.0f} | {row['decode_tps']:.1f}"
        lines.append(f"| {row['engine']} | {row['type']} | {figures} |")
    lines += ["", *(f"{key}: {result[key]} ({meaning})" for key, meaning in RATIOS.items())]
    lines += [f"{key} is not known: {reason}" for key, reason in result["null_because"].items()]
    return "\n".join(lines) + "\n"


def _ours(stack: ExitStack, bundle: Path, exit_: int | None) -> Seat:
    child = stack.enter_context(Child("familial", "ours", Path(sys.executable)))
    child.ask("open", model=str(bundle), settings={"threads": default_threads(), "exit": exit_})
    return Seat("familial", child)


def _seat(stack: ExitStack, entrant: Entrant) -> Seat:
    child = stack.enter_context(entrant.rival.child())
    child.ask("open", model=str(entrant.rival.model(entrant.trial.type)), settings=entrant.trial.settings)
    return Seat(entrant.rival.peer.name, child)


def _rivals(
    options: Options, manifest: Manifest, task: Task, most_nats: float, alone: Alone
) -> tuple[list[Entrant], dict[str, str]]:
    """Who takes part, each in its best settings; and why the others that were asked cannot, by name."""
    entrants, reasons = [], {}
    for name in options.peers:
        peer = PEERS[name]
        try:
            python = python_of(peer, options.pythons, options.cache, options.make)
            source = _source(peer.source, options.cache, manifest)
            rival = Rival(peer, python, source, options.cache / name)
            for trial in finalists(sweep(rival, task, default_threads(), alone, _say), most_nats):
                entrants.append(Entrant(rival, trial, trial.nats <= most_nats))
        except PeerError as error:
            reasons[name] = str(error)
    return entrants, reasons


def _source(kind: str, cache: Path, manifest: Manifest) -> Path:
    """The trunk's weights as a rival's exporter reads them: the pinned GGUF file, or a folder made of it."""
    from training.base import DEFAULT_BASE, load_base
    from training.fetch import cache_folder, fetch_default_base

    if manifest.spec.base.id != DEFAULT_BASE:
        raise PeerError(
            f"rivals run on {DEFAULT_BASE}, and this bundle's base is {manifest.spec.base.id}; leave --peer out, or "
            "give a bundle of that base"
        )
    gguf = fetch_default_base(cache_folder())
    if kind == "gguf":
        return gguf

    def save(folder: Path) -> None:
        base = load_base()
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)

    return made_once(cache / "source", save)


def _task(options: Options, manifest: Manifest) -> Task:
    """What the sweeps measure."""
    ids = _ids(options, manifest, options.windows * WINDOW + 1)
    windows = tuple(tuple(ids[start : start + WINDOW + 1]) for start in range(0, len(ids) - WINDOW, WINDOW))
    prompt = tuple(ids[:PROMPT])
    facts = [manifest.spec.base.weights_sha256, windows, prompt, TOKENS, report.machine()["cpu"], default_threads()]
    return Task(prompt, TOKENS, windows, hashlib.sha256(json.dumps(facts).encode()).hexdigest())


def _prompts(options: Options, manifest: Manifest) -> list[list[int]]:
    """One for each round."""
    ids = _ids(options, manifest, options.rounds * PROMPT)
    return [ids[start : start + PROMPT] for start in range(0, options.rounds * PROMPT, PROMPT)]


def _ids(options: Options, manifest: Manifest, count: int) -> list[int]:
    from exporter.quality import bundle_tokenizer
    from training.data import eval_ids

    ids = eval_ids(report.data(TEXT), bundle_tokenizer(options.bundle, manifest), count)
    if len(ids) < count:
        raise report.MissingInputError(f"{TEXT}: {len(ids)} tokens where {count} are needed; ask for fewer")
    found: list[int] = ids.tolist()
    return found


async def _device(options: Options, manifest: Manifest, task: Task, alone: Alone) -> dict[str, float]:
    from benchmarks.peers.device import overhead

    prompt = task.prompt[:DEVICE_PROMPT]
    return await overhead(options.bundle, manifest, prompt, DEVICE_TOKENS, options.rounds, default_threads(), alone)


def _limits(
    bundle: Path, manifest: Manifest, probed: Sequence[Mapping[str, Any]], step_s: float
) -> dict[str, float | dict[str, Any]]:
    """What a full-depth step has to do over what the machine can."""
    from benchmarks.peers.cost import step_cost

    middle = PROMPT + TOKENS // 2
    full, first = (step_cost(bundle, manifest, exit_, middle) for exit_ in (manifest.spec.granularity, 1))
    read_bps = median(turn["read_bps"] for turn in probed)
    flops = {kind: median(turn["matmul_flops"][kind] for turn in probed) for kind in probed[0]["matmul_flops"]}
    return {
        "bytes_ratio_exit1": round(full.bytes_read / first.bytes_read, 3),
        "roofline_share": round(full.bytes_read / read_bps / step_s, 3),
        "per_token": {
            "full": {"weight_bytes": full.weight_bytes, "cache_bytes": full.cache_bytes, "flops": full.flops},
            "exit_1": {"weight_bytes": first.weight_bytes, "cache_bytes": first.cache_bytes, "flops": first.flops},
        },
        "machine_can": {
            "read_gb_per_s": round(read_bps / 1e9, 2),
            "matmul_tflops": {kind: round(value / 1e12, 3) for kind, value in flops.items()},
        },
        "floor_ms": {
            "bytes": round(full.bytes_read / read_bps * 1e3, 3),
            "flops_int8": round(full.flops / flops["int8"] * 1e3, 3),
        },
    }


def _compare(full: Seat, rivals: Sequence[tuple[Entrant, Seat]]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The ratios with a rival below, and the reasons of those that are null by key."""
    found: dict[str, float | None] = {"decode_vs_best": None}
    reasons = {}
    equal = [seat for entrant, seat in rivals if entrant.equal]
    if equal:
        best = min(equal, key=lambda seat: median(seat.decode_s))
        found["decode_vs_best"] = round(ratio(best.decode_s, full.decode_s), 3)
    else:
        reasons["decode_vs_best"] = (
            "no rival that ran has a cross-entropy equal to ours or better; ask more with --peer"
        )
    for name in PEERS:
        key = _key(name)
        seats = [seat for entrant, seat in rivals if entrant.rival.peer.name == name]
        found[key] = None
        if seats:
            fastest = min(seats, key=lambda seat: median(seat.prefill_s))
            found[key] = round(ratio(fastest.prefill_s, full.prefill_s), 3)
        else:
            reasons[key] = f"not asked; ask with --peer {name}"
    return found, reasons


def _key(peer: str) -> str:
    return f"prefill_vs_{peer.replace('-', '_').replace('.', '_')}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, as `flock` does."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(line + "\n")


def _python(text: str) -> tuple[str, Path]:
    """`PEER=PATH`, for argparse."""
    name, equals, path = text.partition("=")
    if not equals or name not in PEERS:
        raise argparse.ArgumentTypeError(f"expected PEER=PATH with PEER one of {', '.join(PEERS)}, got {text!r}")
    return name, Path(path)


def _options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from training.fetch import cache_folder

    parser = report.parser("engine", __doc__)
    parser.add_argument("--bundle", type=Path, help="what is measured; by default the repository's family at int4")
    parser.add_argument(
        "--peer",
        nargs="*",
        choices=PEERS,
        default=["ort-genai"],
        help="rivals (default: ort-genai, which needs no more)",
    )
    parser.add_argument(
        "--python", action="append", type=_python, default=[], metavar="PEER=PATH", help="the Python that has a rival"
    )
    parser.add_argument("--make", action="store_true", help="install what a rival needs, in an environment of its own")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder() / "peers", help="rivals' models, sweeps, environments"
    )
    parser.add_argument("--rounds", type=positive, default=7, help="turns of each engine (default: 7)")
    parser.add_argument(
        "--windows", type=positive, default=8, help="windows of 512 tokens that are scored (default: 8)"
    )
    parser.add_argument("--lock", type=Path, help="a file whose lock is held while times are taken, as flock does")
    return parser.parse_args(argv)


def main() -> None:
    """The command."""
    given = _options()

    def work() -> dict[str, Any]:
        bundle = given.bundle or report.bundle("int4")
        pythons = dict(given.python)
        peers = tuple(dict.fromkeys(given.peer))
        return measure(
            Options(bundle, peers, pythons, given.make, given.cache.resolve(), given.rounds, given.windows, given.lock)
        )

    report.publish("engine", given, work, table)


if __name__ == "__main__":
    main()
