"""A fleet file against its JSON schema: what is wrong first, in words, with file, line and key."""

import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from scaling.errors import ScalingError
from scaling.plan.yamlmarks import Marked

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_LIMITS = {
    "exclusiveMinimum": "a number more than",
    "minimum": "a number at least",
    "exclusiveMaximum": "a number less than",
    "maximum": "a number at most",
    "minItems": "a list of at least",
    "maxItems": "a list of at most",
}
_KINDS = {
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "keys with values",
}


@cache
def schema() -> Mapping[str, Any]:
    """The JSON schema of a fleet file."""
    text = files("scaling.plan").joinpath("fleet.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def check(marked: Marked) -> None:
    """Hold a file against the schema.

    Raises:
        ScalingError: it does not fit; of several reasons a key that is unknown comes first (what is missing then may
            only be spelled otherwise), else the first in the file.
    """
    from jsonschema import Draft202012Validator

    found = [leaf for error in Draft202012Validator(schema()).iter_errors(marked.data) for leaf in _leaves(error)]
    if found:
        first = min(found, key=lambda e: (e.validator != "additionalProperties", marked.line(e.absolute_path)))
        _refuse(marked, first)


def wrong(marked: Marked, keys: Iterable[str | int], problem: str) -> ScalingError:
    """The error about the value at `keys`."""
    return ScalingError(f"{marked.place(keys)}: {problem}")


def _leaves(error: "ValidationError") -> Iterator["ValidationError"]:
    """Of a value that may be of several kinds, what is wrong by the kind that it is of."""
    ways = [list(way) for _, way in groupby(error.context or (), key=lambda leaf: leaf.relative_schema_path[0])]
    near = [way for way in ways if not any(leaf.validator == "type" and not leaf.relative_path for leaf in way)]
    if error.validator != "anyOf" or not near:
        yield error
        return
    for leaf in near[0]:
        yield from _leaves(leaf)


def _refuse(marked: Marked, error: "ValidationError") -> None:
    keys, value, given = tuple(error.absolute_path), error.instance, cast(Any, error.validator_value)
    shape = cast(Mapping[str, Any], error.schema)
    if error.validator == "additionalProperties" and isinstance(value, dict):
        known = shape.get("properties", {})
        unknown = next(key for key in value if key not in known)
        near = get_close_matches(unknown, known, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise wrong(marked, (*keys, unknown), f"no such key; expected one of {', '.join(known)}{meant}")
    if error.validator == "required" and isinstance(value, dict):
        missing = next(key for key in given if key not in value)
        raise wrong(marked, keys, f"{missing} is missing")
    if error.validator in ("oneOf", "not"):
        raise wrong(marked, keys, "give compute, or parameters and tokens, and not both")
    raise wrong(marked, keys, f"expected {_expected(error, given, shape)}, got {_shown(value)}{_advice(error, value)}")


def _expected(error: "ValidationError", given: Any, shape: Mapping[str, Any]) -> str:
    match error.validator:
        case "type":
            return _KINDS[str(given)]
        case "enum":
            return f"one of {', '.join(map(str, given))}"
        case "pattern":
            return str(shape["description"])
        case "anyOf":
            return " or ".join(_KINDS[kind] for kind in dict.fromkeys(_kind(way) for way in given))
        case str(name) if name in _LIMITS:
            return f"{_LIMITS[name]} {given:g}"
        case _:
            return f"something else ({error.message})"


def _kind(way: Mapping[str, Any]) -> str:
    """The type of one of several ways to give a value, of which each says its own or refers to what does."""
    at = way.get("$ref", "").rpartition("/")[2]
    return str((schema()["$defs"][at] if at else way)["type"])


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)[:60]


def _advice(error: "ValidationError", value: Any) -> str:
    if error.validator == "type" and isinstance(value, str) and any(map(str.isdigit, value)):
        return "; write digits alone, as 10000 or 0.3: units stand in the keys"
    if error.validator == "maximum" and error.validator_value == 1 and value <= 100:
        return f"; it is a share: {value:g}% is {value / 100:g}"
    return ""
