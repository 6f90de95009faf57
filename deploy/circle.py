"""The whole circle on one machine: plan a family, train it, export it, run three nodes, measure, and plan again.

    python -m deploy.circle WORK

plans the tiny fleet of `circle.yaml` (0.1 million parameters), trains the family that comes out on this project's own
texts, exports it, profiles this machine with the bundle, runs the plan's nodes as processes, with the settings that the
plan wrote, times texts through them, and plans again for the bundle, with the profile in place of the hardware's
figures. It ends with what the model predicted of the texts that were run beside what they took. About a minute on two
cores. What is there already in WORK is not made again.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import yaml

from deploy.local import node
from family.cli import run
from family.errors import FamilialError
from family.files import write_atomic
from family.manifest import Manifest, load_manifest
from family.profile import load_profile
from relay.client.aio import AsyncRelayClient
from relay.policy import FixedExit
from scaling.plan.deployment import Deployment, Place
from scaling.plan.deployment import FixedExit as PlannedExit
from scaling.plan.fleet import Link
from scaling.plan.model import predict
from scaling.plan.profiled import machine

ROOT = Path(__file__).resolve().parent.parent
FLEET = Path(__file__).with_name("circle.yaml")
TOKENIZER = ROOT / "experiments" / "isoflop" / "cpu" / "tokenizer.json"
"""512 tokens, of the sweep that the planner's law was fitted to."""
TEXTS = ("README.md", "ARCHITECTURE.md", "experiments/isoflop/README.md", "deploy/README.md")
HELD_OUT = "experiments/law/README.md"
PASSES = 4
THREADS = 1
"""Of training, of the profile and of each node."""
PROMPTS = ("A family is one trunk with exits. ", "Every token of the text is decided by an exit, and the relay ")
MAX_TOKENS = 32
AGREEMENT = 0.95
"""Share of tokens that are to be the last exit's, when it is planned again."""
LOOPBACK = Link(rtt_s=0.0, up_bps=1e10, down_bps=1e10)
"""What a profile's own messages took is in its nodes' costs."""


class CircleError(FamilialError):
    """A step of the circle failed; its own message stands above."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m deploy.circle`."""
    parser = argparse.ArgumentParser(prog="python -m deploy.circle", description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for everything that is made")
    parser.add_argument("--json", action="store_true", help="print the last table as JSON")
    options = parser.parse_args(argv)
    run(lambda: _circle(options.work, options.json), name="deploy.circle", extra="dev")


def _circle(work: Path, as_json: bool) -> None:
    plan, family, bundle, profile = (work / name for name in ("plan", "family", "bundle", "profile.json"))
    _step("plan", plan / "plan.json", "scaling.plan.cli", FLEET, "--out", plan)
    tokens = int(json.loads((plan / "plan.json").read_text(encoding="utf-8"))["best"]["tokens"])
    _tokenizer(work / "tokenizer")
    _step(
        "train", family / "report.json", "training.cli",
        "--spec", plan / "family-spec.json", "--base", work / "tokenizer",
        "--text", *(ROOT / name for name in TEXTS), "--eval", ROOT / HELD_OUT,
        "--tokens", tokens, "--passes", PASSES, "--window", 128, "--batch", 4, "--lr", 0.0045,
        "--threads", THREADS, "--no-bf16", "--out", family,
    )  # fmt: skip
    _step(
        "export", bundle / "manifest.json", "exporter.cli", family, "--precision", "f32", "--out", bundle,
        "--eval", ROOT / HELD_OUT, "--eval-tokens", 2048,
    )  # fmt: skip
    _step("profile", profile, "relay.cli.profile", "--bundle", bundle, "--out", profile, "--threads", THREADS)
    manifest = load_manifest(bundle)
    say("run: three nodes, and texts through them")
    measured = asyncio.run(_measure(bundle, manifest, plan / "nodes"))
    _step("plan again", work / "again" / "plan.json", "scaling.plan.cli", _measured_fleet(work, profile),
          "--bundle", bundle, "--out", work / "again")  # fmt: skip
    _report(manifest, profile, measured, as_json)


def _step(name: str, made: Path, module: str, *arguments: object) -> None:
    """Run a command of the project, unless what it makes is there."""
    say(f"{name}: {'is there' if made.exists() else module}")
    if made.exists():
        return
    command = [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise CircleError(f"{name} failed; mend what it says above and give the same command again")


def _tokenizer(folder: Path) -> None:
    """The sweep's tokenizer as a Hugging Face folder, which `train-family --base` takes."""
    if (folder / "config.json").is_file():
        return
    from transformers import PreTrainedTokenizerFast

    ends = {"eos_token": "<|end|>", "bos_token": "<|end|>"}
    known = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), **ends)  # type: ignore[no-untyped-call]
    known.save_pretrained(folder)
    write_atomic(folder / "config.json", json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))


async def _measure(bundle: Path, manifest: Manifest, settings: Path) -> dict[int, tuple[float, float, float]]:
    """By exit, mean prompt tokens, and medians of the time to the first token and per token, in seconds."""
    found: dict[int, tuple[float, float, float]] = {}
    async with AsyncExitStack() as stack:
        upstream: str | None = None
        for tier in reversed(list(manifest.tiers)):  # each with as many threads as the profile was measured with
            options = "--config", str(settings / f"{tier}.toml"), "--threads", str(THREADS)
            upstream = await stack.enter_async_context(node(bundle, tier, upstream, *options))
        assert upstream is not None
        client = await stack.enter_async_context(AsyncRelayClient(upstream))
        for g in range(1, manifest.spec.granularity + 1):
            rows = [await _text(client, PROMPTS[i % len(PROMPTS)], g) for i in range(8)][2:]  # the first two warm up
            prompts, firsts, steps = zip(*rows, strict=True)
            found[g] = sum(prompts) / len(prompts), median(firsts), median(steps)
    return found


async def _text(client: AsyncRelayClient, prompt: str, g: int) -> tuple[int, float, float]:
    begin, times, position = time.perf_counter(), [], 0
    stream = client.generate(prompt, policy=FixedExit(g), max_tokens=MAX_TOKENS, ignore_stop=True)
    async for token in stream:
        times.append(time.perf_counter() - begin)
        position = position or token.position
    return position, times[0], (times[-1] - times[0]) / (len(times) - 1)


def _measured_fleet(work: Path, profile: Path) -> Path:
    """The same fleet with this machine's profile in each tier, and without training and its losses."""
    fleet = yaml.safe_load(FLEET.read_text(encoding="utf-8"))
    del fleet["training"], fleet["goals"]["loss"]
    for tier in fleet["tiers"]:
        tier["profile"] = str(profile.absolute())
    fleet["goals"] |= {"memory_free": 0.1, "agreement": AGREEMENT}
    path = work / "fleet-measured.yaml"
    write_atomic(path, yaml.safe_dump(fleet, sort_keys=False))
    return path


def _report(manifest: Manifest, profile: Path, measured: dict[int, tuple[float, float, float]], as_json: bool) -> None:
    """What the model predicts of the texts that were run, beside what they took."""
    machines = dict.fromkeys(manifest.tiers, machine(load_profile(profile), manifest.precision))
    places = tuple(Place(tier, segments) for tier, segments in manifest.tiers.items())
    rows = []
    for g, (prompt, ttft, tpot) in measured.items():
        deployment = Deployment(manifest.spec, places, (LOOPBACK,) * (len(places) - 1), PlannedExit(g))
        expected = predict(deployment, machines, prompt, MAX_TOKENS)
        rows.append({"exit": g, "ttft_ms": [float(expected.ttft_s) * 1e3, ttft * 1e3],
                     "tpot_ms": [float(expected.tpot_s) * 1e3, tpot * 1e3]})  # fmt: skip
    if as_json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    sys.stdout.write("exit  first token, ms: predicted, measured   token, ms: predicted, measured\n")
    for row in rows:
        first, step = row["ttft_ms"], row["tpot_ms"]
        assert isinstance(first, list) and isinstance(step, list)
        sys.stdout.write(f"{row['exit']:>4}  {first[0]:>26.2f}, {first[1]:.2f} {step[0]:>24.2f}, {step[1]:.2f}\n")


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"circle: {text}\n")


if __name__ == "__main__":
    main()
