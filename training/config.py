"""`FamilyConfig`: the Hugging Face config of a family, its trunk's own config nested in it.

`AutoConfig` and `AutoModelForCausalLM` know it once `training.modeling` is imported.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

from family.errors import SpecError
from family.spec import Exit, check_exits
from family.strict import FieldError, from_json, to_json
from training.objective import check_weights

DECODERS = ("llama", "qwen2", "qwen3", "mistral")
"""Model types whose decoder can be a trunk."""
ATTENTION_TYPES = (FULL, SLIDING) = ("full_attention", "sliding_attention")
"""Types of attention that a layer of a trunk may have."""


@strict
class FamilyConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Shape of a family: a trunk and its exits.

    Attributes:
        decoder: the trunk's own config, of a model type in `DECODERS` (or its dict); a dense model's, unchanged.
        exits: `{"layer": l_g, "branch": kind, "rank": R}` of every exit in order, the last after the last layer; `rank`
            for `lowrank` only. `Exit` objects are taken too. None: the last exit alone.
        exit_weights: w_g of the family loss (arXiv 2512.23407, eq. 3); None for 1/G each.

    Raises:
        SpecError: the exits do not fit the decoder, or this decoder cannot be a trunk; the text names the field.
    """

    model_type: ClassVar[str] = "familial"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "decoder": SubConfigSpec(config_class=AutoConfig, model_type="llama")
    }

    decoder: Any = None
    exits: Any = None
    exit_weights: Any = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        decoder = self.decoder
        if decoder.model_type not in DECODERS:
            raise SpecError(
                f"decoder: a {decoder.model_type!r} model cannot be a trunk; expected one of {', '.join(DECODERS)}"
            )
        unknown = set(attention_types(decoder)) - set(ATTENTION_TYPES)
        if unknown:
            raise SpecError(f"decoder.layer_types: expected {' or '.join(ATTENTION_TYPES)}, got {', '.join(unknown)}")
        self.tie_word_embeddings = decoder.tie_word_embeddings
        given = self.exits or [Exit(decoder.num_hidden_layers, "norm")]
        try:
            exits = tuple(e if isinstance(e, Exit) else from_json(Exit, e, f"exits[{g}]") for g, e in enumerate(given))
            check_exits(exits, decoder.num_hidden_layers, decoder.hidden_size)
            self.exit_weights = _weights(self.exit_weights, len(exits))
        except FieldError as error:
            raise SpecError(str(error)) from None
        self.exits = to_json(exits)

    @property
    def granularity(self) -> int:
        """G, the number of exits."""
        return len(self.exits)

    def exit(self, g: int) -> Exit:
        """Exit g, counted from 1."""
        return from_json(Exit, self.exits[g - 1])


def attention_types(decoder: Any) -> tuple[str, ...]:
    """Type of attention of each layer, as the model of that decoder config decides it."""
    if decoder.model_type.startswith("qwen"):
        return tuple(decoder.layer_types)
    sliding = decoder.model_type == "mistral" and decoder.sliding_window is not None
    return (SLIDING if sliding else FULL,) * int(decoder.num_hidden_layers)


def _weights(weights: Sequence[float] | None, granularity: int) -> list[float] | None:
    if weights is None:
        return None
    check_weights(weights)
    if len(weights) != granularity:
        raise FieldError("exit_weights", f"expected one per exit, {granularity}; got {len(weights)}")
    return [float(w) for w in weights]
