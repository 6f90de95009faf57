"""A family's shapes: from a Hugging Face model, and checked against one."""

from collections.abc import Sequence
from typing import Any

from family.spec import SPEC_VERSION, Base, Exit, FamilySpec
from training.errors import BaseModelError


def spec_shapes(model: Any) -> dict[str, int]:
    """The shape fields of a `FamilySpec` as the model's config has them (`context` is a choice, not a shape)."""
    config = model.config
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "d_ff": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "vocab_size": config.vocab_size,
    }


def new_spec(name: str, base: Base, model: Any, exits: Sequence[Exit]) -> FamilySpec:
    """The spec of a family on a Hugging Face causal LM, with all of its positions as context.

    Raises:
        FieldError: the exits do not fit the model.
    """
    return FamilySpec(
        schema_version=SPEC_VERSION,
        name=name,
        base=base,
        architecture=type(model).__name__,
        context=model.config.max_position_embeddings,
        exits=tuple(exits),
        **spec_shapes(model),
    )


def check_shapes(spec: FamilySpec, model: Any) -> None:
    """Raise `BaseModelError` unless the base has the shapes that the spec states; the text names the field."""
    found: dict[str, object] = {"architecture": type(model).__name__, **spec_shapes(model)}
    for field, value in found.items():
        if getattr(spec, field) != value:
            raise BaseModelError(
                f"family {spec.name}: {field} is {getattr(spec, field)} in its spec but {value} in the base model; "
                f"give the base it was made for, {spec.base.id}"
            )
    if spec.context > model.config.max_position_embeddings:
        raise BaseModelError(
            f"family {spec.name}: context {spec.context} is more than the base model's "
            f"{model.config.max_position_embeddings} positions"
        )
