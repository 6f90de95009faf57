"""Families by name: those of the paper's Tables 1 and 2, and the small trunks that sweeps are made of.

The paper (arXiv 2512.23407) prints d_model, ffn_size, heads, layers and exit layers, and names the models 1B to 4B. It
says nothing of vocabulary, tying, gating, or key-value heads, so these are fitted to the names: of the vocabularies
that public models use, each tied and untied, with gated and plain MLPs and four ratios of query to key-value heads
(`fits`), the best makes 1.005, 1.981, 2.993 and 4.002 billion parameters, within 1% of every name: Qwen's 151,936
tokens, head and embedding apart, gated MLPs, two query heads per key-value head. (Qwen2.5's padded 152,064 fits as
well; the next vocabulary, 160,256, is off by 2.5%; of models with a key-value head for each query head the best is off
by 4%.) A fit to four round names is no proof, but nothing else that is customary comes as near.

`python -m training.presets` prints every preset's parameters beside the paper's name, and the fits.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from family.spec import Exit
from training.flops import FamilyShape, parameters

if TYPE_CHECKING:
    from training.config import FamilyConfig

VOCABULARIES = (
    32000, 49152, 50257, 50304, 64000, 65536, 100277, 102400, 128256, 129280, 131072, 151936, 152064, 160256, 200019,
    256000,
)  # fmt: skip
"""Of Llama 2, SmolLM2, GPT-2 and its padded form, Yi, RWKV, cl100k, DeepSeek 1 and 3, Llama 3, Mistral NeMo, Qwen 2 and
2.5, TeleChat, o200k, Gemma."""
TABLES = {
    "1b": (1536, 4608, 12, 19),
    "2b": (2048, 6144, 16, 27),
    "3b": (2304, 6912, 18, 36),
    "4b": (2560, 7680, 20, 41),
}
"""Table 1 by name: d_model, ffn_size, heads, layers. Table 2 repeats three of them with exits."""
EARLY_EXITS = {"2b": (10,), "3b": (6, 20), "4b": (4, 16, 18)}
"""Exit layers of Table 2."""
SMALL_FF = 16
"""d_ff of small trunks is a multiple of this."""


def _paper(size: str, *early: int) -> FamilyShape:
    d, ff, heads, layers = TABLES[size]
    return FamilyShape(
        d_model=d,
        d_ff=ff,
        n_layers=layers,
        n_heads=heads,
        kv_heads=heads // 2,
        head_dim=d // heads,
        vocab_size=151936,
        tied=False,
        block_vectors=2 * d,
        exits=norm_exits(*early, layers),
    )


def _smollm2(exits: tuple[Exit, ...]) -> FamilyShape:
    return FamilyShape(
        d_model=576,
        d_ff=1536,
        n_layers=30,
        n_heads=9,
        kv_heads=3,
        head_dim=64,
        vocab_size=49152,
        tied=True,
        block_vectors=2 * 576,
        exits=exits,
    )


def norm_exits(*layers: int) -> tuple[Exit, ...]:
    """Exits of a norm and the head, as the paper's, after these layers."""
    return tuple(Exit(layer, "norm") for layer in layers)


PRESETS: Mapping[str, FamilyShape] = {
    **{f"dense-{size}": _paper(size) for size in TABLES},
    **{f"family-{size}": _paper(size, *early) for size, early in EARLY_EXITS.items()},
    "smollm2-135m": _smollm2(norm_exits(30)),
    "smollm2-135m-g3": _smollm2((Exit(10, "block"), Exit(20, "block"), Exit(30, "norm"))),
}
"""`dense-*` is Table 1, `family-*` Table 2; the base of this project's own family, and that family."""


def small_shape(d_model: int, n_layers: int, n_heads: int, vocab_size: int, exits: tuple[Exit, ...]) -> FamilyShape:
    """A small Llama trunk: head and embedding tied, d_ff about 8/3 of d_model, no grouped heads.

    Args:
        d_model: a multiple of twice `n_heads`.
        n_layers: trunk layers, l_G.
        n_heads: heads of attention.
        vocab_size: tokens.
        exits: all of them, the last after layer `n_layers`.
    """
    return FamilyShape(
        d_model=d_model,
        d_ff=math.ceil(8 * d_model / 3 / SMALL_FF) * SMALL_FF,
        n_layers=n_layers,
        n_heads=n_heads,
        kv_heads=n_heads,
        head_dim=d_model // n_heads,
        vocab_size=vocab_size,
        tied=True,
        block_vectors=2 * d_model,
        exits=exits,
    )


def family_config(shape: FamilyShape, context: int = 4096, **decoder: Any) -> "FamilyConfig":
    """The `FamilyConfig` of a shape, its trunk a Llama that holds `context` positions.

    Args:
        shape: a preset's, or any without biases.
        context: most positions of a sequence.
        decoder: further fields of the `LlamaConfig`.
    """
    from transformers import LlamaConfig

    from training.config import FamilyConfig

    trunk = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=context,
        **decoder,
    )
    return FamilyConfig(decoder=trunk, exits=list(shape.exits))


@dataclass(frozen=True)
class Fit:
    """How well one reading of Table 1 makes its names true."""

    vocab_size: int
    tied: bool
    gated: bool
    queries_per_key: int
    billions: tuple[float, ...]
    """Parameters of 1B, 2B, 3B and 4B."""

    @property
    def error(self) -> float:
        """The largest |log(parameters / name)| of the four."""
        return max(abs(math.log(n / name)) for name, n in enumerate(self.billions, 1))


def fits() -> list[Fit]:
    """Every customary reading of Table 1, the best first. Norms, a thousandth of a percent, are left out."""
    readings = product(VOCABULARIES, (False, True), (False, True), (1, 2, 4, 8))
    found = [Fit(v, tied, gated, ratio, _billions(v, tied, gated, ratio)) for v, tied, gated, ratio in readings]
    return sorted(found, key=lambda fit: fit.error)


def _billions(vocab_size: int, tied: bool, gated: bool, ratio: int) -> tuple[float, ...]:
    totals = []
    for d, ff, heads, layers in TABLES.values():
        keys = max(1, round(heads / ratio)) * (d // heads)
        block = 2 * d * d + 2 * d * keys + (3 if gated else 2) * d * ff
        totals.append((layers * block + vocab_size * d * (1 if tied else 2)) / 1e9)
    return tuple(totals)


def table() -> str:
    """Every preset's parameters, those of the paper beside their names, and the five best readings of Table 1."""
    lines = [f"{'preset':15} {'of the paper':>12} {'N':>13} {'off':>5} {'tokens':>7} {'non-embedding':>13}  exits"]
    for name, shape in PRESETS.items():
        n = parameters(shape)
        source, off = _of_the_paper(name, n.total)
        numbers = f"{n.total:>13,} {off:>5} {shape.vocab_size:>7} {n.non_embedding:>13,}"
        lines.append(f"{name:15} {source:>12} {numbers}  {', '.join(f'{e.layer} {e.branch}' for e in shape.exits)}")
    lines.append("\nreadings of Table 1 (billions of parameters for 1B, 2B, 3B, 4B)")
    for fit in fits()[:5]:
        sizes = " ".join(f"{n:.3f}" for n in fit.billions)
        reading = f"{'tied' if fit.tied else 'untied'}, {'gated' if fit.gated else 'plain'} MLP"
        lines.append(f"{fit.vocab_size:>7} tokens, {reading}, {fit.queries_per_key} q/kv: {sizes}, off {fit.error:.1%}")
    return "\n".join(lines)


def _of_the_paper(preset: str, n: int) -> tuple[str, str]:
    """The table that has a preset and its name there, and how far N is from that name; nothing for our own."""
    kind, _, size = preset.partition("-")
    if size not in TABLES:
        return "", ""
    return f"Table {1 if kind == 'dense' else 2}, {size.upper()}", f"{n / (int(size[:-1]) * 1e9) - 1:+.1%}"


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
