"""Names of sessions and tiers. They go into logs and errors, and an error's text into trailers, which hold 8 kB."""

MOST_NAME_CHARACTERS = 128
NAME_RULE = f"expected a name of 1 to {MOST_NAME_CHARACTERS} printable characters"


def is_name(text: str) -> bool:
    """Whether a text may be the name of a session or a tier: short, and one line on any terminal."""
    return 0 < len(text) <= MOST_NAME_CHARACTERS and text.isprintable()
