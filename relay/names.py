"""Names that travel: of sessions and tiers, which go into logs and errors, and of the codecs of rows."""

from enum import IntEnum

MOST_NAME_CHARACTERS = 128
"""An error's text goes into trailers, which hold 8 kB."""
NAME_RULE = f"expected a name of 1 to {MOST_NAME_CHARACTERS} printable characters"


def is_name(text: str) -> bool:
    """Whether a text may be the name of a session or a tier: short, and one line on any terminal."""
    return 0 < len(text) <= MOST_NAME_CHARACTERS and text.isprintable()


class Codec(IntEnum):
    """How rows travel between nodes (`relay.codec`). The numbers are those of `relay.v1`, and part of chain values."""

    F32 = 1
    """As they are."""
    BF16 = 2
    INT8 = 3
    INT4 = 4

    @property
    def label(self) -> str:
        """What users call it: `f32`, `bf16`, `int8`, `int4`."""
        return self.name.lower()

    @classmethod
    def labelled(cls, label: str) -> "Codec":
        """The codec of a label. Raises `ValueError` that names them all."""
        for codec in cls:
            if codec.label == label:
                return codec
        raise ValueError(f"expected {', '.join(codec.label for codec in cls)}, got {label!r}")
