"""A tiny base model and a tiny family for tests: real formats, real tokenizer, random weights, made in seconds."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

from family.spec import Base, Exit, FamilySpec
from training.base import LoadedBase
from training.loaded import LoadedFamily
from training.modeling import FamilyForCausalLM
from training.shapes import new_spec

TINY_CONTEXT = 256
TINY_EXITS = (Exit(2, "block"), Exit(4, "block"), Exit(6, "norm"))

TEXT = """The relay begins on the phone. A small model reads the first words of the question, writes the first words of
the answer, and hands the page to the next one when it is no longer sure. The page is not copied: only the rows that the
next model has not seen yet are sent, one after another, over whatever link there is. The box in the corner of the room
reads them, writes a sentence or two, and may ask the data centre in its turn. Nobody reads the question twice.

"What happens when the link is cut?" asked the engineer. "Then the small model goes on alone," said the other, "and
says so." She counted on her fingers: 1, 2, 3, 4, 5 nodes; 10, 20, 30 layers; 64 tokens; 0.5 seconds. It was cold, and
the café - the only one that was open at night - had run out of tea. They wrote down what they knew: every exit is a
model, every model is a prefix of the same log, and a prefix can always be sent again. That was all they needed.
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_config(kind: type[PretrainedConfig] = LlamaConfig, **options: object) -> PretrainedConfig:
    """Six layers and a tied head, of any decoder that can be a trunk."""
    return kind(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=TINY_CONTEXT,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **{"tie_word_embeddings": True, **options},
    )


def write_tiny_base(folder: Path, seed: int = 0, config: PretrainedConfig | None = None) -> Path:
    """Write a random Llama, or what `config` says, with a byte-level BPE tokenizer in Hugging Face format."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config or tiny_config()).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:  # around 1, so that a norm left out is noticed
                    parameter.copy_(1.0 + 0.2 * torch.randn_like(parameter))
                elif "bias" in name:
                    parameter.normal_(0.0, 0.3)
                elif "embed" in name:
                    parameter.normal_(0.0, 0.5)
                else:  # residual updates as large as the embedding: every layer changes the argmax
                    parameter.normal_(0.0, 1.0 / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def tiny_family(base: LoadedBase, seed: int = 1, exits: tuple[Exit, ...] = TINY_EXITS) -> LoadedFamily:
    """A family on a tiny base; its branches differ from the trunk's layers."""
    family = new_family(new_spec("tiny-g3", Base(base.id, base.weights_sha256), base.model, exits), base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in family.model.branches.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
            parameter.copy_(parameter.to(torch.bfloat16))  # what a family folder holds
    return family


def new_family(spec: FamilySpec, base: LoadedBase) -> LoadedFamily:
    """A family whose branches are copies of the trunk's layers and norm."""
    return LoadedFamily(spec, base, FamilyForCausalLM.from_base(spec.exits, base.model))


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
