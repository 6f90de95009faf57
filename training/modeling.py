"""`FamilyForCausalLM`: a Hugging Face decoder as trunk, G exits on it, and their joint loss.

Exit g reads the trunk's state after layer l_g and adds a branch and the LM head, which all exits share (early exits on
one trunk: arXiv 2512.23407, section 2.1). Importing this module registers it with `AutoConfig` and
`AutoModelForCausalLM`.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.generic import ModelOutput

from family.errors import SpecError
from family.spec import Exit
from family.strict import to_json
from training.branches import Branch, Context, cut, dense, factorise, make_context
from training.config import FamilyConfig
from training.errors import BaseModelError
from training.keptrows import KeptRows
from training.loss import family_loss
from training.lowrank import LowRankLinear, at_rank, input_moments, nested_rank
from training.objective import Objective, Progress


@dataclass
class FamilyOutput(ModelOutput):
    """What `FamilyForCausalLM.forward` returns: the first three with labels, `logits` without.

    Attributes:
        loss: the family loss, a scalar.
        exit_losses: L_g of every exit, (G,), without gradient.
        agreement: share of the distilled positions where exit g ranks the last exit's top-1 token first, (G,).
        logits: the last exit's, (B, T, vocab_size).
    """

    loss: Tensor | None = None
    exit_losses: Tensor | None = None
    agreement: Tensor | None = None
    logits: Tensor | None = None


class FamilyForCausalLM(PreTrainedModel):  # type: ignore[no-untyped-call]
    """One trunk and its G exits.

    Attributes:
        model: the trunk, a Hugging Face decoder (`LlamaModel` or its like); its final norm is the last exit's.
        lm_head: the head of every exit, tied to the embedding where the trunk's config says so.
        branches: branch of exit g under the key `str(g)`, g < G.
        objective: what `forward` computes as loss; set it before training.
        progress: how far the run is; whoever trains sets it before every step.
        kept_rows: where a trunk that is not trained has its rows, so that `forward` runs it once for every window.
    """

    config_class = FamilyConfig
    config: FamilyConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  (declared so by transformers)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__(config)
        auto: Any = AutoModel
        self.model = auto.from_config(config.decoder)
        self.lm_head = nn.Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=False)
        self.branches = nn.ModuleDict(
            {str(g): Branch(self.model, config.exit(g)) for g in range(1, config.granularity)}
        )
        self.objective = Objective()
        self.progress = Progress()
        self.kept_rows: KeptRows | None = None
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_base(
        cls, exits: Sequence[Exit], base: PreTrainedModel, calibration: Iterable[Tensor] = ()
    ) -> "FamilyForCausalLM":
        """A family on a pretrained causal LM, whose modules it shares.

        A block begins as a copy of trunk layer l_g; a low-rank one as that copy factorised for the text of
        `calibration`, batches of token ids (B, T), or at random without; every norm as a copy of the trunk's.

        Raises:
            SpecError: the exits do not fit the base, or its decoder cannot be a trunk.
        """
        calibration = tuple(calibration)
        FamilyConfig(decoder=base.config, exits=list(exits))  # which checks the exits as they are given
        ranks = {g: e.rank for g, e in enumerate(exits, start=1) if e.rank is not None and calibration}
        whole = [Exit(e.layer, "block") if g in ranks else e for g, e in enumerate(exits, start=1)]
        family = _assembled(cls, FamilyConfig(decoder=base.config, exits=whole), base)
        for g in range(1, family.config.granularity):
            branch = Branch(family.model, family.config.exit(g))
            _initialise(branch, family.model, base.config.initializer_range)
            family.branches[str(g)] = branch.to(family.lm_head.weight)
        family.train(base.training)
        if not ranks:
            return family
        moments = family.moments(calibration)
        return family.with_branches({g: factorise(family.branch(g), moments[g], r) for g, r in ranks.items()})

    def branch(self, g: int) -> Branch:
        """The branch of exit g, 1..G-1."""
        return cast(Branch, self.branches[str(g)])

    def with_branches(self, branches: Mapping[int, Branch]) -> "FamilyForCausalLM":
        """A family with other branches at some exits (cut ones, for example), and everything else shared with this one.

        Raises:
            SpecError: a branch belongs to another layer than the exit's.
        """
        own = [self.branch(g) for g in range(1, self.config.granularity)]
        found = [branches.get(g, branch) for g, branch in enumerate(own, start=1)]
        config = copy.copy(self.config)
        config.exits = to_json([*(branch.exit for branch in found), self.config.exit(self.config.granularity)])
        if [e["layer"] for e in config.exits] != [e["layer"] for e in self.config.exits]:
            raise SpecError(f"exits: expected branches of {self.config.exits}, got {config.exits}")
        family = _assembled(type(self), config, self)
        family.branches = nn.ModuleDict({str(g): branch for g, branch in enumerate(found, start=1)})
        family.objective, family.progress = self.objective, self.progress
        return cast(FamilyForCausalLM, family.train(self.training))

    def moments(self, windows: Iterable[Tensor]) -> dict[int, dict[str, Tensor]]:
        """E[x xᵀ] of the inputs of the linear maps of every branch with a block, by exit and name of the map.

        Args:
            windows: batches of token ids (B, T) of the text that the branches are to do well on. For a map of n inputs,
                several times n tokens.
        """
        branches = {g: self.branch(g) for g in range(1, self.config.granularity)}
        blocks = {g: branch.block for g, branch in branches.items() if branch.block is not None}
        with ExitStack() as stack, torch.no_grad():
            found = {g: stack.enter_context(input_moments(blocks[g])) for g in blocks}
            for ids in windows:
                states, context = self.states(ids)
                for g in blocks:
                    self.branch_rows(g, states[g], context)
        return found

    def states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[dict[int, Tensor], Context]:
        """Trunk rows (B, T, H) at every exit's boundary by exit, and what blocks need besides rows.

        Args:
            input_ids: token ids (B, T), position 0 first.
            attention_mask: (B, T), 0 at padding.
        """
        hidden = self.model.embed_tokens(input_ids)
        context = make_context(self.model, hidden, attention_mask)
        states: dict[int, Tensor] = {}
        first = 0
        for g in range(1, self.config.granularity + 1):
            boundary = self.config.exit(g).layer
            for index in range(first, boundary):
                hidden = self.model.layers[index](hidden, **context.layer(index))
            states[g] = hidden
            first = boundary
        return states, context

    def branch_rows(self, g: int, state: Tensor, context: Context) -> Tensor:
        """Exit g's normed rows (B, T, H) from its boundary's rows (B, T, H); `head` makes logits of them."""
        rows: Tensor = self.model.norm(state) if g == self.config.granularity else self.branch(g)(state, context)
        return rows

    def head(self, rows: Tensor) -> Tensor:
        """Rows (..., H) to logits (..., vocab_size)."""
        logits: Tensor = self.lm_head(rows)
        return logits

    def forward_exits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[int, Tensor]:
        """Normed rows (B, T, H) of every exit; `head(rows)` gives that exit's logits.

        Rows rather than logits, so that a caller holds the logits (B, T, vocab_size) of one exit at a time.
        """
        states, context = self.states(input_ids, attention_mask)
        return {g: self.branch_rows(g, state, context) for g, state in states.items()}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> FamilyOutput:
        """The family loss under `objective`, or without labels the last exit's logits.

        Args:
            input_ids: token ids (B, T).
            attention_mask: (B, T), 0 at padding.
            labels: token ids (B, T), -100 where there is nothing to predict; shifted here, as everywhere in
                transformers: position p learns label p + 1.
        """
        if labels is not None and self.kept_rows is not None and attention_mask is None:
            states, context = self.kept_rows.states(self, input_ids)
        else:
            states, context = self.states(input_ids, attention_mask)
        if labels is None:
            last = self.config.granularity
            return FamilyOutput(logits=self.head(self.branch_rows(last, states[last], context)))
        with ExitStack() as stack:
            if self.training:
                self._train_a_prefix(stack)
            found = family_loss(self, states, context, labels)
        return FamilyOutput(loss=found.loss, exit_losses=found.exit_losses, agreement=found.agreement)

    def _train_a_prefix(self, stack: ExitStack) -> None:
        for g in range(1, self.config.granularity):
            branch = self.branch(g)
            if branch.exit.rank is not None:
                stack.enter_context(at_rank(branch, nested_rank(self.progress.step, branch.exit.rank)))

    @property
    def head_weight(self) -> nn.Parameter:
        """The LM head's weight (vocab_size, H). Raises `BaseModelError` if the head is no plain linear map any more."""
        if type(self.lm_head) is not nn.Linear or self.lm_head.bias is not None:
            raise BaseModelError("lm_head: expected a linear map without bias or adapters; put no LoRA on the head")
        return cast(nn.Parameter, self.lm_head.weight)

    def submodel(self, g: int, rank: int | None = None) -> PreTrainedModel:
        """Exit g (1..G) as a plain Hugging Face causal LM, which `save_pretrained` writes like any other.

        It has l_g trunk layers, the branch's block as layer l_g if there is one, the branch's norm, and the head. The
        weights are shared with this family, but for a low-rank block's, which is merged into dense matrices; the config
        is its own.

        Args:
            g: the exit.
            rank: of a low-rank branch, cut to so many components; None for all.

        Raises:
            IndexError: the family has no exit g.
            SpecError: the branch cannot be cut to that rank.
        """
        if not 1 <= g <= self.config.granularity:
            raise IndexError(f"exit {g}: the family has exits 1..{self.config.granularity}")
        exit_ = self.config.exit(g)
        layers, norm = list(self.model.layers[: exit_.layer]), self.model.norm
        if g < self.config.granularity:
            branch = self.branch(g) if rank is None else cut(self.branch(g), rank)
            branch = dense(branch) if branch.exit.branch == "lowrank" else branch
            layers += [branch.block] if branch.block is not None else []
            norm = branch.norm
        elif rank is not None:
            raise SpecError(f"rank {rank}: the last exit has no branch that could be cut")
        config = copy.deepcopy(self.model.config)
        config.num_hidden_layers = len(layers)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: len(layers)]
        classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING
        with torch.device("meta"):
            model: Any = classes[type(config)](config)
        model.model.embed_tokens, model.model.norm, model.lm_head = self.model.embed_tokens, norm, self.lm_head
        model.model.layers = _sharing_weights(nn.ModuleList(layers), config)
        model.model.rotary_emb = _sharing_weights(self.model.rotary_emb, config)
        return cast(PreTrainedModel, model.eval())

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, LowRankLinear):
            module.initialise(self.config.decoder.initializer_range)


def _assembled(cls: type[FamilyForCausalLM], config: FamilyConfig, source: Any) -> FamilyForCausalLM:
    """A family of that config around the trunk and head of another model; its branches have no memory yet."""
    with torch.device("meta"):
        family = cls(config)
    family.model, family.lm_head = source.model, source.lm_head
    return family


def _sharing_weights(module: nn.Module, config: Any) -> nn.Module:
    """A copy on the same weights that follows another config: layers read their kind of attention there."""
    kept = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    configs = {id(part.config): config for part in module.modules() if hasattr(part, "config")}
    return copy.deepcopy(module, kept | configs)


def _initialise(branch: Branch, trunk: Any, std: float) -> None:
    """What a new branch begins as."""
    branch.norm.load_state_dict(trunk.norm.state_dict())
    if branch.block is not None and branch.exit.branch == "block":
        branch.block.load_state_dict(trunk.layers[branch.exit.layer].state_dict())
    for module in branch.modules():
        if isinstance(module, LowRankLinear):
            module.initialise(std)


AutoConfig.register("familial", FamilyConfig)
AutoModelForCausalLM.register(FamilyConfig, FamilyForCausalLM)
