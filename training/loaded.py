"""`LoadedFamily`: a family in memory with the spec and the base that it belongs to."""

import copy
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel

from family.spec import FamilySpec
from training.base import LoadedBase
from training.branches import cut
from training.modeling import FamilyForCausalLM
from training.shapes import check_shapes


@dataclass(frozen=True)
class LoadedFamily:
    """A family on its base.

    Raises:
        BaseModelError: the base has other shapes than the spec.
    """

    spec: FamilySpec
    base: LoadedBase
    """The trunk as it was trained: its model's modules are those of `model`."""
    model: FamilyForCausalLM

    def __post_init__(self) -> None:
        check_shapes(self.spec, self.base.model)

    def submodel(self, g: int) -> PreTrainedModel:
        """Exit g as `FamilyForCausalLM.submodel` makes it, with the base's settings for generation."""
        model = self.model.submodel(g)
        model.generation_config = copy.deepcopy(self.base.model.generation_config)
        return model

    def at_most(self, rank: int) -> "LoadedFamily":
        """The family with its low-rank branches cut to so many components, those that have more."""
        wider = [g for g, e in enumerate(self.spec.exits, start=1) if e.rank is not None and e.rank > rank]
        model = self.model.with_branches({g: cut(self.model.branch(g), rank) for g in wider})
        exits = tuple(model.config.exit(g) for g in range(1, self.spec.granularity + 1))
        return LoadedFamily(replace(self.spec, exits=exits), self.base, model)


def sharing(family: LoadedFamily) -> LoadedFamily:
    """A copy of the family's modules that has the same tensors, until some are replaced in it."""
    parts: tuple[nn.Module, ...] = (family.base.model, family.model)
    kept = [family.base.tokenizer, *(t for part in parts for t in (*part.parameters(), *part.buffers()))]
    return copy.deepcopy(family, {id(thing): thing for thing in kept})
