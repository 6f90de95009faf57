"""YAML with the line of everything in it, so that an error can name it. PyYAML's safe loader, strict on two points.

A key that stands twice is refused (PyYAML takes the last), and 1e20 is a number as in YAML 1.2 (PyYAML, which reads
YAML 1.1, takes it for text); `yes`, `no`, `on` and `off` stay text.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scaling.errors import ScalingError

Keys = tuple[str | int, ...]
"""Where a value stands: `("tiers", 0, "name")`."""
MOST_BYTES = 1 << 20
"""Of a fleet file; they take some thousand."""
_COLLECTIONS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
MOST_VALUES = 20_000
"""Of a fleet file, what anchors repeat counted each time."""


class _Loader(yaml.SafeLoader):
    """The safe loader with numbers and truth values of YAML 1.2."""


_PLAIN = {"tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\d+[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


@dataclass(frozen=True)
class Marked:
    """A document and where its parts stand."""

    path: Path
    data: Any
    lines: Mapping[Keys, int]
    """Line, counted from 1, of each value; of a value in a mapping that of its key."""

    def place(self, keys: Iterable[str | int]) -> str:
        """`fleet.yaml:12: tiers[0].name`, for messages; of the nearest part around it where there is no such value."""
        full = tuple(keys)
        return f"{self.path}:{self.line(full)}" + (f": {dotted(full)}" if full else "")

    def line(self, keys: Iterable[str | int]) -> int:
        """Where a value stands, or the nearest part around it."""
        known = tuple(keys)
        while known and known not in self.lines:
            known = known[:-1]
        return self.lines.get(known, 1)


def dotted(keys: Keys) -> str:
    """`tiers[0].name`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def read_yaml(path: Path) -> Marked:
    """Read a YAML file.

    Raises:
        ScalingError: it is missing, too large, no YAML, has a key twice or an anchor that contains itself; the text
            names the line.
    """
    try:
        data = path.read_bytes()
        if len(data) > MOST_BYTES:
            raise ScalingError(f"{path}: more than {MOST_BYTES >> 20} MiB; a fleet takes some hundred lines")
        root = yaml.compose(data.decode("utf-8-sig"), Loader=_Loader)
    except FileNotFoundError:
        raise ScalingError(f"{path}: no such file; write one with: plan-family init {path}") from None
    except IsADirectoryError:
        raise ScalingError(f"{path}: is a folder; name a file in it") from None
    except UnicodeDecodeError:
        raise ScalingError(f"{path}: not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ScalingError(f"{path}:{line}: not YAML: {_problem(error)}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ScalingError(f"{path}: not YAML: {error}") from None
    if root is None:
        raise ScalingError(f"{path}: is empty; write an example with: plan-family init FILE")
    lines: dict[Keys, int] = {}
    return Marked(path, _value(root, (), path, lines, ()), lines)


def _problem(error: yaml.MarkedYAMLError) -> str:
    """What the parser found, where what it was reading began, and what it often is."""
    told = str(error.problem or error.context)
    if error.context and error.context_mark:
        told += f" ({error.context}, from line {error.context_mark.line + 1})"
    hints = {"<block end>": "indent it as its neighbours", "'\\t'": "indent by spaces", "':'": "is a colon missing?"}
    return "; ".join([told, *(hint for sign, hint in hints.items() if sign in str(error.problem))][:2])


def _value(node: yaml.Node, keys: Keys, path: Path, lines: dict[Keys, int], above: tuple[int, ...]) -> Any:
    lines.setdefault(keys, node.start_mark.line + 1)
    if len(lines) > MOST_VALUES:
        raise ScalingError(f"{path}:{node.start_mark.line + 1}: more than {MOST_VALUES:,} values; this is no fleet")
    if id(node) in above:
        raise ScalingError(f"{path}:{node.start_mark.line + 1}: {dotted(keys)}: contains itself")
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
        raise ScalingError(f"{path}:{node.start_mark.line + 1}: {dotted(keys)}: the tag {node.tag} means nothing here")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*keys, i), path, lines, above) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ScalingError(f"{path}:{line}: expected a name before the colon")
            if key.value in found:
                raise ScalingError(f"{path}:{line}: {dotted((*keys, key.value))}: stands here a second time")
            lines[(*keys, key.value)] = line
            found[key.value] = _value(value, (*keys, key.value), path, lines, above)
        return found
    loader = _Loader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ScalingError(f"{path}:{node.start_mark.line + 1}: {dotted(keys)}: {error}") from None
    finally:
        loader.dispose()
