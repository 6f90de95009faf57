"""The rivals: how each is installed, exported, and in which settings it is tried."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any


@dataclass(frozen=True)
class Peer:
    """One rival."""

    name: str
    module: str
    """Of `benchmarks.peers`: the child's program."""
    source: str
    """What its exporter reads: `gguf` or `hf`, a Hugging Face folder made of the same file."""
    types: tuple[str, ...]
    """Weight types, by the names of its exporter."""
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Settings beside `threads`, each with the values that are tried."""
    requirements: tuple[tuple[str, ...], ...] = ()
    """Arguments of `pip install`, call by call, that make its environment; none: it runs in ours."""
    build: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of those calls."""

    def settings(self, threads: int) -> list[dict[str, Any]]:
        """All combinations of the options, at one number of threads."""
        return [
            {"threads": threads, **dict(zip(self.options, values, strict=True))}
            for values in product(*self.options.values())
        ]


CPU_TORCH = ("torch==2.13.0", "torchvision==0.28.0")
CPU_TORCH_INDEX = {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"}
"""PyTorch's own CPU build (pytorch.org/get-started/locally); PyPI's Linux build brings gigabytes of CUDA."""

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="ort-genai",
            module="ort_genai",
            source="hf",
            types=("int8", "int8-block64", "int4", "int4-mixed", "int4-kquant-mixed"),
        ),
        Peer(
            name="openvino",
            module="openvino",
            source="hf",
            types=("int8", "int8-sym", "int4", "int4-sym", "f16"),
            options={"hint": ("f32", "bf16"), "kv": ("",)},
            requirements=(CPU_TORCH, ("openvino==2026.4.1", "optimum-intel==2.2.0", "nncf==3.4.0")),
            build=CPU_TORCH_INDEX,
        ),
        Peer(
            name="llama.cpp",
            module="llama_cpp",
            source="gguf",
            types=("Q4_1", "Q4_0", "IQ4_NL", "Q8_0"),
            options={"flash_attention": (True, False)},
            requirements=(("--no-binary", "llama-cpp-python", "llama-cpp-python==0.3.36"),),
            build={
                "CMAKE_ARGS": "-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_VBMI=ON "
                "-DGGML_AVX512_BF16=ON",
            },
        ),
    )
}
"""By name. llama.cpp is built without AMX: its AMX kernels crash on evaluation."""
