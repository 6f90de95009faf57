"""Where an exit is worth its place: what a linear probe after each layer of the base knows of the base's next token.

The probe is a ridge regression from the rows after a layer, each divided by its rms, to the rows that the head reads;
solved in closed form on four fifths of the sequences and measured on the rest. It is a lower bound of what a trained
branch does there, made in a minute and not in hours, and the order of the layers is what it is for. Agreement and
coverage are those of `training.scores`: coverage is the share of positions that the exit may decide if at most that
share of all positions is to come out otherwise, and `saved` is that share times the layers that these then do without
(the branch counted as one).
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import report
from training.base import LoadedBase, load_base
from training.evaluate import Marks, mark
from training.scores import coverage
from training.selftext import continued, own_prompts, read_samples

CHATS, ANSWER = 64, 128
"""Chats of which the base writes both sides, greedily, where no text is given; tokens of an answer at most."""
RIDGE = 1e-3
"""Per position, in units of a row's mean square."""
TRAINED = 0.8
DISAGREEMENT = 0.1

Texts = list[tuple[tuple[int, ...], int]]
"""Token ids, and how many of them the base was given."""


@torch.inference_mode()
def measure(texts: Texts, base: LoadedBase) -> dict[str, Any]:
    """All layers but the last, on the positions whose next token the base wrote."""
    model: Any = base.model
    rows: list[list[Tensor]] = []
    for ids, given in texts:
        found = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        rows.append([state[0, given - 1 : -1].clone() for state in found[1:]])
    n = int(TRAINED * len(rows))
    seen, unseen = ([torch.cat(layer) for layer in zip(*part, strict=True)] for part in (rows[:n], rows[n:]))
    labels = torch.tensor(list(itertools.chain(*(ids[given:] for ids, given in texts[n:]))))
    last = marks(seen[-1], unseen[-1], seen[-1], model.lm_head, labels)
    layers = [
        figures(number, len(rows[0]), marks(at, there, seen[-1], model.lm_head, labels), last)
        for number, (at, there) in enumerate(zip(seen[:-1], unseen[:-1], strict=True), start=1)
    ]
    return {"sequences": len(texts), "positions": len(labels), "disagreement": DISAGREEMENT, "layers": layers}


def marks(seen: Tensor, unseen: Tensor, wanted: Tensor, head: Any, labels: Tensor) -> Marks:
    """What a probe fitted on `seen` (N, H) for `wanted` (N, H) makes of `unseen` (M, H)."""
    if seen is wanted:
        return mark(head(unseen).numpy(), labels.numpy())
    x, y = (torch.cat([r / r.square().mean(-1, keepdim=True).sqrt(), torch.ones(len(r), 1)], 1) for r in (seen, unseen))
    moments = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1])
    return mark(head(y @ torch.linalg.solve(moments, x.T @ wanted)).numpy(), labels.numpy())


def figures(layer: int, n_layers: int, probe: Marks, last: Marks) -> dict[str, Any]:
    """One layer's line."""
    differs = probe.top != last.top
    share = coverage(probe.confidence, differs, DISAGREEMENT).share
    return {
        "layer": layer,
        "agreement": round(1 - float(differs.mean()), 3),
        "coverage": round(share, 3),
        "saved": round(share * max(0, n_layers - layer - 1) / n_layers, 3),
    }


def own_texts(base: LoadedBase) -> Texts:
    """Chats with itself."""
    torch.manual_seed(0)
    prompts = own_prompts(base.model, base.tokenizer, CHATS)
    answers = continued(base.model, base.tokenizer, prompts, ANSWER, 0.0)
    return [(tuple(p + a), len(p)) for p, a in zip(prompts, answers, strict=True)]


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| exit after layer | agreement | coverage at 10% | layers saved |", "|---|---|---|---|"]
    for r in result["layers"]:
        lines.append(f"| {r['layer']} | {r['agreement']:.1%} | {r['coverage']:.1%} | {r['saved']:.1%} |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = report.parser("placement", __doc__)
    parser.add_argument("--base", metavar="REF", help="Hugging Face id, local folder or .gguf file (default: SmolLM2)")
    parser.add_argument("--text", type=Path, metavar="FILE.jsonl", help="of sample-text; default: the base writes some")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()

    def run() -> dict[str, Any]:
        """On the text that was given."""
        base = load_base(given.base)
        texts = [(s.ids, s.prompt) for s in read_samples(given.text)] if given.text else own_texts(base)
        return measure(texts, base)

    report.publish("placement", given, run, table)
