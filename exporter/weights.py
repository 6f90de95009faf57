"""Lays out the weights of a bundle: each graph's in its own file, and once in a shared one what several read."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto, helper

from exporter.graphs import Piece, Tensor
from family.manifest import SHARED_DATA_NAME

INLINE_BYTES = 1024
"""Weights up to this size stay in the ONNX file."""
ALIGNMENT = 4096
"""Weights begin at a page, so that a runtime can map them."""


@dataclass(frozen=True)
class Place:
    """Where a weight lies."""

    file: str
    offset: int


def write_weights(pieces: Mapping[str, Piece], folder: Path) -> dict[str, list[TensorProto]]:
    """Write the data files of `pieces` (graph name to graph) into `folder`. Returns each graph's initializers."""
    digests = {
        name: {weight: hashlib.sha256(tensor.data).hexdigest() for weight, tensor in piece.weights.items()}
        for name, piece in pieces.items()
    }
    readers = Counter(digest for graph in digests.values() for digest in set(graph.values()))
    contents: dict[str, dict[str, memoryview]] = {}
    for name, piece in pieces.items():
        for weight, tensor in piece.weights.items():
            if tensor.data.nbytes > INLINE_BYTES:
                digest = digests[name][weight]
                file = SHARED_DATA_NAME if readers[digest] > 1 else f"{name}.data"
                contents.setdefault(file, {})[digest] = tensor.data
    places: dict[str, Place] = {}
    for file, tensors in contents.items():
        places.update(_write(folder / file, tensors))
    return {
        name: [
            _initializer(weight, tensor, places.get(digests[name][weight])) for weight, tensor in piece.weights.items()
        ]
        for name, piece in pieces.items()
    }


def _write(path: Path, tensors: Mapping[str, memoryview]) -> dict[str, Place]:
    places = {}
    with path.open("wb") as file:
        for digest, data in tensors.items():
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            places[digest] = Place(path.name, file.tell())
            file.write(data)
    return places


def _initializer(name: str, tensor: Tensor, place: Place | None) -> TensorProto:
    if place is None:
        return helper.make_tensor(name, tensor.data_type, tensor.dims, tensor.data.tobytes(), raw=True)
    proto = TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)
    proto.data_location = TensorProto.EXTERNAL
    where = {"location": place.file, "offset": place.offset, "length": tensor.data.nbytes}
    for key, value in where.items():
        entry = proto.external_data.add()
        entry.key, entry.value = key, str(value)
    return proto
