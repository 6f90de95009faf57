"""Standard decoder graphs from ONNX Runtime GenAI's model builder, read back as parts.

Attention and its fused kernels are the builder's; the project cuts its graphs and never writes attention itself.
"""

import contextlib
import importlib
import importlib.util
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import onnx

from exporter.errors import VERSIONS, ExportError
from exporter.graphs import Part, Tensor

MODEL_FILE = "model.onnx"
QKV = ("q_proj", "k_proj", "v_proj")
"""What the builder packs into one product, `qkv_proj`."""
FULL_CACHE = "windowed_kv_cache=false"
"""Layers with a sliding window keep all keys and values too, so that going back is lowering a length."""
PRECISION = "fp32"
"""The builder's name of f32; quantization is ours (`exporter.quantize`)."""


def build(folder: Path, options: Sequence[str] = ()) -> Part:
    """The builder's f32 graph of the Hugging Face model in `folder`, with options of the builder (`KEY=VALUE`)."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="built-") as out:
        run_builder(folder, [*options, FULL_CACHE], Path(out))
        return read_part(Path(out) / MODEL_FILE)


def run_builder(folder: Path, options: Sequence[str], out: Path) -> None:
    """Let the builder write `model.onnx` of the Hugging Face model in `folder` to `out`."""
    source, target, cache = str(folder), str(out), str(out / "cache")
    with quiet() as said:
        builder = _builder()
        try:
            extra = builder.parse_extra_options(source, source, target, PRECISION, "cpu", cache, [*options])
            builder.create_model(source, source, target, PRECISION, "cpu", cache, **extra)
        except Exception as error:
            last = said.getvalue().strip().splitlines()[-1:]
            reason = " ".join(" ".join([str(error), *last]).split())
            raise ExportError(
                f"the model builder of onnxruntime-genai failed ({reason}); give another base, or {VERSIONS}"
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keep what libraries print to themselves; yields what they said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said


def _builder() -> ModuleType:
    """The builder module; its folder is on the import path only while it is imported, as its imports are absolute."""
    found = importlib.util.find_spec("onnxruntime_genai")
    if found is None or not found.submodule_search_locations:
        raise ExportError("onnxruntime-genai is not installed; run: pip install 'familial[export]'")
    folder = str(Path(next(iter(found.submodule_search_locations))) / "models")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("builder")
    finally:
        sys.path.remove(folder)


def maps_of(weight: str) -> tuple[int, tuple[str, ...]]:
    """A weight's layer, and the linear maps that it holds side by side, by their paths in a Hugging Face block."""
    _, _, layer, module, *path = weight.partition(".MatMul.")[0].split(".")
    names = QKV if path == ["qkv_proj"] else (".".join(path),)
    return int(layer), tuple(f"{'self_attn' if module == 'attn' else module}.{name}" for name in names)


def weight_of(layer: int, path: str) -> str:
    """The weight that holds one linear map of a layer."""
    return f"model.layers.{layer}.{path.replace('self_attn.', 'attn.')}.MatMul.weight"


def read_part(path: Path) -> Part:
    """The nodes and weights of a model file and its data files."""
    model = onnx.load(str(path), load_external_data=False)
    data: dict[str, memoryview] = {}
    weights = {}
    for tensor in model.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            name = where["location"]
            if name not in data:
                data[name] = memoryview((path.parent / name).read_bytes())
            start = int(where.get("offset", 0))
            content = data[name][start : start + int(where["length"])]
        else:
            content = memoryview(_raw_bytes(tensor))
        weights[tensor.name] = Tensor(tensor.data_type, tuple(tensor.dims), content)
    return Part(list(model.graph.node), weights)


def _raw_bytes(tensor: onnx.TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return onnx.numpy_helper.to_array(tensor).tobytes()
