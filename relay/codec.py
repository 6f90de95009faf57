"""How rows travel between nodes: as they are, at 16 bits, or at 8 and 4 in blocks. Pure.

Every row is encoded alone, and the same row always to the same bytes. So nothing of how rows were cut into messages is
left in what arrives, and a replay of a log of f32 rows gives a node the same rows to the bit.
"""

import numpy as np

from relay import bfloat, blocks
from relay.log import Rows
from relay.names import Codec

FORMS = {
    Codec.INT8: blocks.Form(bits=8, kept=4, tried=1),
    Codec.INT4: blocks.Form(bits=4, kept=4, tried=4),
}
_F32, _U16 = np.dtype("<f4"), np.dtype("<u2")


class CodecError(ValueError):
    """Bytes that are no rows."""


def row_bytes(codec: Codec, width: int) -> int:
    """Bytes of a row of so many channels."""
    form = FORMS.get(codec)
    return form.record(width).itemsize if form else width * (_F32 if codec is Codec.F32 else _U16).itemsize


def encode(rows: Rows, codec: Codec) -> bytes:
    """The bytes of one or more finite rows (q, width), one row after the other."""
    if codec is Codec.F32:
        return rows.astype(_F32, copy=False).tobytes()
    if codec is Codec.BF16:
        return bfloat.rounded(rows).astype(_U16, copy=False).tobytes()
    return blocks.encode(rows, FORMS[codec]).tobytes()


def decode(data: bytes, codec: Codec, count: int, width: int) -> Rows:
    """One or more rows (count, width), all finite. Raises `CodecError` for bytes that `encode` cannot have made."""
    if len(data) != count * row_bytes(codec, width):
        raise CodecError("data and shape disagree")
    form = FORMS.get(codec)
    if form is not None:
        records = np.frombuffer(data, form.record(width))
        if not blocks.is_sound(records, width):
            raise CodecError("scales or channels that no row has")
        return blocks.decode(records, form, width)
    flat = np.frombuffer(data, _F32) if codec is Codec.F32 else bfloat.widened(np.frombuffer(data, _U16))
    if not np.isfinite(flat).all():
        raise CodecError("not all of them are finite numbers")
    return flat.astype(np.float32, copy=False).reshape(count, width)


def carried(rows: Rows, codec: Codec) -> Rows:
    """The rows as they arrive."""
    return decode(encode(rows, codec), codec, *rows.shape)
