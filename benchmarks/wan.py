"""What a text costs over the links that people have, by who decides its tokens.

A device with segments 1 and 2, a cloud with the last, and one machine with all of them in the same cloud: real nodes, a
thread each, behind the project's links. All ways of writing take turns on each prompt of Spec-Bench:

- `device_1`, `device_2`: an exit of the device decides all; nothing crosses the link;
- `cloud`: the client asks the machine that has everything, over the link;
- `per_token`: the last exit decides, asked over the link for each token;
- `speculative`: the same text, drafted by exit 2; `speculative_int8`: with rows of 8 bits;
- `ids`, `ids_burst`, `ids_speculative`: a device that sends token ids, to the machine that has everything: for each
  token, for 16 at once (the loop is handed over), and for drafts by exit 2;
- `confidence_E`: the first exit that is sure enough, by thresholds certified for epsilon E, where the bundle has them.

`tokens_per_s` after the first token, `ttft_ms` (median), `tpot_ms` between tokens (p50, p95), `kilobytes` that crossed
the link in both directions for a text, TCP's payload; `cloud_mflops` for each decided token, counted by the nodes: rows
through each graph times its weights (attention's own products left out); `agreement`, the share of tokens that the last
exit would have chosen after the same text; `pareto`, whether no other way is better in all of tokens_per_s,
cloud_mflops and agreement.
"""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

import numpy as np

from benchmarks import report
from benchmarks.net.links import NAMED, TRACES, link
from benchmarks.net.proxy import LinkProxy
from benchmarks.net.texts import Timed, questions, timed, tokens_per_s
from deploy.local import node
from exporter.runner import GraphRunner
from family.cli import positive
from family.manifest import Manifest, load_manifest
from family.spec import FamilySpec
from relay.client.aio import AsyncRelayClient
from relay.client.types import GenerateOptions, Prompt, Work
from relay.node.text import TextCodec
from relay.policy import ConfidenceExit, FixedExit, Policy, SpeculativeExit
from training.repeats import ends_in_loop

LINKS = (*(name for name in NAMED if name != "geostationary"), *TRACES[:2])
TEXTS = 6
TOKENS = 48
BURST = 15
EPSILONS = (0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Way:
    """Who is asked, and for what."""

    client: AsyncRelayClient
    policy: Policy
    cloud: AsyncRelayClient
    """Whose work counts as the cloud's."""
    proxy: LinkProxy
    """Whose bytes count."""
    codec: Literal["f32", "int8"] = "f32"


def flops(spec: FamilySpec, work: Mapping[str, Work]) -> float:
    """Of the weights' products: two a weight and row."""
    attention = 2 * spec.d_model * spec.head_dim * (spec.n_heads + spec.kv_heads)
    layer = 2 * (attention + 3 * spec.d_model * spec.d_ff)
    head = 2 * spec.d_model * spec.vocab_size
    total = 0.0
    for name, done in work.items():
        kind, _, index = name.partition("-")
        if kind == "segment":
            segment = spec.segments[int(index) - 1]
            total += done.rows * layer * segment.n_layers
        else:
            total += done.rows * layer * (spec.exit(int(index)).branch == "block") + done.logits * head
    return total


class Judge:
    """What the last exit would have chosen, in this process, on the same graphs."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self._bundle, self._manifest = bundle, manifest
        self._codec = TextCodec(bundle, manifest)

    def agreement(self, prompts: Sequence[Any], texts: Sequence[Timed]) -> float:
        """Share of the texts' tokens that it would have chosen after the same text."""
        spec = self._manifest.spec
        segments = [GraphRunner(self._bundle, self._manifest.graph("segment", s.index), spec) for s in spec.segments]
        last = GraphRunner(self._bundle, self._manifest.graph("exit", spec.granularity), spec)
        same: list[bool] = []
        for prompt, text in zip(prompts, texts, strict=True):
            ids = [*self._codec.encode_chat([_Turn(**turn) for turn in prompt]), *text.ids]
            rows = segments[0].run(np.array(ids[:-1]), 0)
            for segment in segments[1:]:
                rows = segment.run(rows, 0)
            wanted = np.arange(len(ids) - 1 - len(text.ids), len(ids) - 1)
            chosen = last.run(rows, 0, wanted).argmax(axis=1)
            same += (chosen == np.array(text.ids)).tolist()
        return sum(same) / len(same)


@dataclass(frozen=True)
class _Turn:
    role: str
    content: str


async def compare(
    bundle: Path, name: str, prompts: Sequence[Prompt], tokens: int, epsilons: Sequence[float]
) -> dict[str, Any]:
    """All ways over one link. The first prompt is a warm-up."""
    manifest = load_manifest(bundle)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        cloud = await enter(node(bundle, "cloud", None, "--segments", "3", "--threads", "1"))
        whole = await enter(node(bundle, "whole", None, "--segments", "1-3", "--threads", "1"))
        up, across, beside = LinkProxy(link(name), cloud), LinkProxy(link(name), whole), LinkProxy(link(name), whole)
        mine = ("--segments", "1-2", "--threads", "1")
        device = await enter(node(bundle, "device", await enter(up), *mine))
        of_ids = await enter(node(bundle, "device", await enter(beside), *mine, "--send", "ids"))
        near, sender = await enter(AsyncRelayClient(device)), await enter(AsyncRelayClient(of_ids))
        far = await enter(AsyncRelayClient(await enter(across)))
        of_cloud, of_whole = await enter(AsyncRelayClient(cloud)), await enter(AsyncRelayClient(whole))
        ways = {
            "device_1": Way(near, FixedExit(1), of_cloud, up),
            "device_2": Way(near, FixedExit(2), of_cloud, up),
            "cloud": Way(far, FixedExit(3), of_whole, across),
            "per_token": Way(near, FixedExit(3), of_cloud, up),
            "speculative": Way(near, SpeculativeExit(), of_cloud, up),
            "speculative_int8": Way(near, SpeculativeExit(), of_cloud, up, "int8"),
            "ids": Way(sender, FixedExit(3), of_whole, beside),
            "ids_burst": Way(sender, FixedExit(3, BURST), of_whole, beside),
            "ids_speculative": Way(sender, SpeculativeExit(), of_whole, beside),
            **{f"confidence_{e:g}": Way(near, ConfidenceExit(epsilon=e), of_cloud, up) for e in epsilons},
        }
        found: dict[str, list[Timed]] = {way: [] for way in ways}
        spent = {way: np.zeros(2) for way in ways}
        for number, prompt in enumerate(prompts):
            for name_, way in ways.items():
                before = await _spent(way, manifest.spec)
                options = GenerateOptions(policy=way.policy, max_tokens=tokens, ignore_stop=True, codec=way.codec)
                text = await timed(way.client, prompt, options)
                if number:
                    found[name_].append(text)
                    spent[name_] += await _spent(way, manifest.spec) - before
    judge = Judge(bundle, manifest)
    figures = {way: _figures(found[way], spent[way], judge, prompts[1:]) for way in ways}
    for row in figures.values():
        row["pareto"] = not any(beats(other, row) for other in figures.values())
    return figures


async def _spent(way: Way, spec: FamilySpec) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """FLOPs of the cloud and bytes of the link, so far."""
    (described,) = await way.cloud.describe()
    return np.array([flops(spec, described.work), way.proxy.bytes])


def _figures(texts: Sequence[Timed], spent: Any, judge: Judge, prompts: Sequence[Any]) -> dict[str, Any]:
    steps = [step for text in texts for step in text.steps_ms]
    count = sum(len(text.ids) for text in texts)
    return {
        "tokens_per_s": round(tokens_per_s(texts), 2),
        "ttft_ms": round(median(text.ttft_ms for text in texts), 1),
        "tpot_ms": {"p50": round(median(steps), 2), "p95": round(quantiles(steps, n=20)[-1], 2)},
        "kilobytes": round(spent[1] / len(texts) / 1e3, 1),
        "cloud_mflops": round(spent[0] / count / 1e6, 1),
        "agreement": round(judge.agreement(prompts, texts), 4),
        "loops": sum(ends_in_loop(text.ids) for text in texts) / len(texts),
        "exits": {f"exit_{g}": round(np.mean([t.exit == g for x in texts for t in x.tokens]), 3) for g in (1, 2, 3)},
    }


def beats(other: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether the other is as good in all and better in one."""
    pairs = [
        (other["tokens_per_s"], row["tokens_per_s"]),
        (-other["cloud_mflops"], -row["cloud_mflops"]),
        (other["agreement"], row["agreement"]),
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def plot(result: Mapping[str, Any], out: Path) -> None:
    """Tokens per second against the cloud's work, a panel a link; filled where no other way is better in all."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    links: Mapping[str, Any] = result["links"]
    columns = min(len(links), 3)
    rows = -(-len(links) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 3 * rows + 1), sharex=True, sharey=True, squeeze=False
    )
    for axis, (name, ways) in zip(axes.flat, links.items(), strict=False):
        for i, (way, row) in enumerate(ways.items()):
            colour, marker = f"C{i % 10}", "os^"[i // 5]
            face = colour if row["pareto"] else "none"
            point = (row["tokens_per_s"], row["cloud_mflops"])
            axis.scatter(*point, facecolor=face, edgecolor=colour, marker=marker, label=way)
        axis.set(title=name, xscale="log")
    for axis in axes[-1]:
        axis.set_xlabel("tokens/s")
    figure.supylabel("cloud MFLOPs a token")
    figure.tight_layout(rect=(0, 0.5 / figure.get_figheight(), 1, 1))
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize="small")
    figure.savefig(out)
    plt.close(figure)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All links."""
    bundle, prompts = report.bundle(options.precision), questions(options.texts + 1)
    links = {
        name: asyncio.run(compare(bundle, name, prompts, options.tokens, options.epsilon)) for name in options.link
    }
    result = {"precision": options.precision, "texts": options.texts, "tokens": options.tokens, "links": links}
    if options.plot:
        plot(result, options.plot)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The figures as a Markdown table; * for the Pareto front."""
    lines = [
        "| link | way | tokens/s | TTFT ms | TPOT p50, p95 ms | kB a text | cloud MFLOPs a token | agreement |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, ways in result["links"].items():
        for way, row in ways.items():
            tpot = row["tpot_ms"]
            lines.append(
                f"| {name} | {way}{'*' if row['pareto'] else ''} | {row['tokens_per_s']} | {row['ttft_ms']} | "
                f"{tpot['p50']}, {tpot['p95']} | {row['kilobytes']} | {row['cloud_mflops']} | {row['agreement']:.1%} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = report.parser("wan", __doc__)
    parser.add_argument("--precision", choices=("f32", "int8", "int4"), default="int4")
    parser.add_argument("--link", nargs="+", default=LINKS, metavar="NAME", help=f"default: {' '.join(LINKS)}")
    parser.add_argument("--texts", type=positive, default=TEXTS, help="of each way (default %(default)s)")
    parser.add_argument("--tokens", type=positive, default=TOKENS, help="of a text (default %(default)s)")
    parser.add_argument(
        "--epsilon", type=float, nargs="*", default=EPSILONS, help="of confidence (default: %(default)s)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to draw (.png, .svg)")
    options = parser.parse_args()
    report.publish("wan", options, lambda: measure(options), table)


if __name__ == "__main__":
    main()
