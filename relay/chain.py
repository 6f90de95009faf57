"""Chain values: h_i = H(h_{i-1}, id_i, codec), one for each row, made at the entry node only.

Nodes upstream compare them and never compute them, so they need not know the token ids. Two histories that agree in the
chain value of a position agree in every token up to it.
"""

from collections.abc import Sequence
from hashlib import blake2b

VALUE_BYTES = 16


def genesis(export_fingerprint: str) -> bytes:
    """The value before position 0: sessions of two exports never share a history."""
    return blake2b(export_fingerprint.encode(), digest_size=VALUE_BYTES).digest()


def extend(anchor: bytes, ids: Sequence[int], codec: int) -> list[bytes]:
    """The chain values of `ids`, which follow the position whose value is `anchor`."""
    values = []
    for token_id in ids:
        anchor = blake2b(
            anchor + token_id.to_bytes(8, "little") + codec.to_bytes(2, "little"), digest_size=VALUE_BYTES
        ).digest()
        values.append(anchor)
    return values
