"""Puts trunk matrices onto 4-bit grids by what they do on a text, where they are on none: GPTQ, arXiv 2210.17323.

Rounding treats all weights alike. Here each input's weights are rounded in turn, and the error is made up for by the
weights of the inputs that are still to come, as far as the text says that they go together. A layer reads rows that the
layers before it made with the weights that they were given here. The weights found lie on grids as GGUF's Q4_1
has them, and `exporter.blocks` keeps them to the bit.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter.blocks import BLOCK, grids, in_blocks
from exporter.errors import ExportError
from exporter.quality import WINDOW
from family.spec import FamilySpec
from training.branches import make_context
from training.data import eval_ids
from training.loaded import LoadedFamily, sharing

DAMPING = 0.01
"""Added to every input's mean square, as a share of the inputs' average: what the paper uses."""
HIGHEST = 15
"""The largest number of 4 bits."""
FITS = 5
"""How often a grid is fitted to a block; five more change 0.1% of the error."""


@dataclass(frozen=True)
class Calibration:
    """Text to calibrate on."""

    text: Path
    tokens: int
    """At most this many tokens of it."""


def four_bit_layers(spec: FamilySpec, precisions: Mapping[int, str]) -> set[int]:
    """The trunk's layers in segments at `int4`, from 0."""
    return {
        layer
        for segment in spec.segments
        if precisions[segment.index] == "int4"
        for layer in range(segment.first_layer, segment.last_layer)
    }


def check_calibrates(precisions: Mapping[int, str]) -> None:
    """Raise `ExportError` where no weights are quantized, and a text to calibrate on would change none."""
    if set(precisions.values()) == {"f32"}:
        raise ExportError(
            "calibration is of quantized weights, and none are; leave --calibrate out, or give a tier int4 or int8"
        )


def windows_of(calibration: Calibration, tokenizer: Any, context: int) -> Tensor:
    """The text's ids in windows [n, T]. Raises `DataError` if it cannot be read, `ExportError` if it is too short."""
    width = min(WINDOW, context)
    ids = eval_ids(calibration.text, tokenizer, calibration.tokens)
    n = len(ids) // width
    if not n:
        raise ExportError(
            f"{calibration.text}: {len(ids)} tokens to calibrate on, fewer than one window of {width}; "
            "give a longer text, or more --calibrate-tokens"
        )
    return torch.from_numpy(ids[: n * width]).view(n, width)


@torch.no_grad()
def calibrated(
    family: LoadedFamily, layers: Collection[int], windows: Tensor, say: Callable[[str], None] = lambda _: None
) -> LoadedFamily:
    """The family with trunk matrices in `layers` that lie on 4-bit grids; it shares all other tensors.

    A matrix whose blocks are all on grids already is left as it is. Its base keeps the name and the hash of the one
    that it was made of: it is what that base is stored as.

    Args:
        family: the family.
        layers: numbers of trunk layers, from 0.
        windows: token ids [n, T] to calibrate on.
        say: told the layer that is being worked on.

    Raises:
        ExportError: the rows that the weights make are not numbers, or a matrix does not fall into blocks.
    """
    found = sharing(family)
    decoder = found.model.model
    rows: Tensor = decoder.embed_tokens(windows)
    context = make_context(decoder, rows[:1], None)
    for number in range(max(layers) + 1):
        layer: nn.Module = decoder.layers[number]
        wanted = {n: m for n, m in _matrices(layer).items() if number in layers and not on_grids(m.weight)}
        if wanted:
            say(f"calibrating layer {number + 1} of {max(layers) + 1}")
        for name, moments in input_moments(layer, wanted, rows, context.layer(number)).items():
            if not moments.isfinite().all():
                raise ExportError(
                    f"layer {number}, {name}: its inputs on the calibration text are not numbers; give a base whose "
                    "weights are"
                )
            fitted = on_grid(wanted[name].weight, moments)
            wanted[name].weight = nn.Parameter(fitted.contiguous(), requires_grad=False)
        rows = torch.cat([layer(window, **context.layer(number)) for window in rows[:, None]])
    return found


def on_grids(matrix: Tensor) -> bool:
    """Whether every block of a matrix [out, in] lies on a 4-bit grid."""
    return bool(grids(in_blocks(matrix.numpy()))[1].all())


def input_moments(
    layer: nn.Module, matrices: Mapping[str, nn.Linear], rows: Tensor, context: Mapping[str, object]
) -> dict[str, Tensor]:
    """The sum over positions of x x^T, [in, in], for the inputs x of each matrix as the layer reads rows (n, T, H)."""
    moments = {name: torch.zeros(m.in_features, m.in_features) for name, m in matrices.items()}

    def counting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2)
            moments[name].addmm_(x.T, x)

        return count

    hooks = [m.register_forward_pre_hook(counting(name)) for name, m in matrices.items()]
    try:
        for window in rows[:, None] if hooks else ():
            layer(window, **context)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def on_grid(matrix: Tensor, moments: Tensor) -> Tensor:
    """A matrix [out, in] whose blocks lie on 4-bit grids, and whose products with the counted inputs are close.

    `moments` [in, in] is the sum of x x^T over the inputs.
    """
    left = matrix.T.contiguous()  # [in, out]; rows from the current input on hold what is still to be rounded
    factor = inverse_factor(moments)
    for start in range(0, len(left), BLOCK):
        end = start + BLOCK
        block, own = left[start:end], factor[start:end, start:end]
        step, least = grid_of(block)
        errors = torch.empty_like(block)
        for i in range(BLOCK):
            rounded = steps_to(block[i], step, least) * step + least
            errors[i] = (block[i] - rounded) / own[i, i]
            block[i] = rounded
            block[i + 1 :].addr_(own[i, i + 1 :], errors[i], alpha=-1)
        left[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return left.T


def inverse_factor(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped moments' inverse, [in, in]: row i says what makes up for input i."""
    damped = moments.double()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean() + torch.finfo(torch.float32).tiny)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).to(moments.dtype)
    return factor


def grid_of(block: Tensor) -> tuple[Tensor, Tensor]:
    """Step and least value, [out] each, of a grid for a block [32, out]: 16-bit numbers, as GGUF's Q4_1 has them.

    The grid between the least and the largest weight is fitted to the weights by least squares, in turn with the
    numbers of steps: where weights on a grid were changed a little, as by an adapter, that finds their grid again.
    """
    least = block.amin(0)
    step = (block.amax(0) - least) / HIGHEST
    for _ in range(FITS):
        q = steps_to(block, step, least)
        spread = q - q.mean(0)
        step = (spread * block).sum(0) / spread.square().sum(0).clamp(min=0.5)
        least = block.mean(0) - step * q.mean(0)
    return step.half().float(), least.half().float()


def steps_to(weights: Tensor, step: Tensor, least: Tensor) -> Tensor:
    """The nearest numbers of steps above the least value; 0 where there is no step."""
    return ((weights - least) / torch.where(step > 0, step, torch.inf)).round().clamp(0, HIGHEST)


def _matrices(layer: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
