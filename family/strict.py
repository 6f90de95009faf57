"""Frozen dataclasses from JSON and back, strictly: every error names the field, nothing is coerced or ignored."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class FieldError(ValueError):
    """A value does not fit the field at `path` (for example `exits[1].layer`)."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'document'}: {problem}")


def from_json(cls: type[T], data: object, path: str = "") -> T:
    """Build the dataclass `cls` from parsed JSON. Unknown, missing or mistyped fields raise `FieldError`."""
    if not isinstance(data, dict):
        raise FieldError(path, f"expected an object, got {_name(data)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise FieldError(_join(path, key), f"unknown field; expected one of {', '.join(fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise FieldError(_join(path, name), "missing")
    return cls(**values)


def to_json(value: Any) -> Any:
    """The JSON form of a dataclass: objects, lists and scalars, without fields that are None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_json(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def canonical(value: Any) -> bytes:
    """One byte string per value, for hashing: sorted keys, no spaces, UTF-8."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def dumps(value: Any) -> str:
    """The file form: indented, newline at the end, the same text for the same value."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n"


def _value(hint: Any, data: object, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # only `T | None` is used
        return None if data is None else _value(next(a for a in args if a is not type(None)), data, path)
    if origin is tuple:
        if not isinstance(data, list):
            raise FieldError(path, f"expected a list, got {_name(data)}")
        return tuple(_value(args[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if origin is Mapping:
        if not isinstance(data, dict):
            raise FieldError(path, f"expected an object, got {_name(data)}")
        return {key: _value(args[1], item, _join(path, key)) for key, item in data.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type[Any], hint), data, path)
    if hint is float and type(data) is int:
        try:
            return float(data)
        except OverflowError:
            raise FieldError(path, "expected a number that fits a float, got a larger one") from None
    if type(data) is not hint:  # exact: True is not an int here
        raise FieldError(path, f"expected {_JSON_NAMES[hint]}, got {_name(data)}")
    return data


_JSON_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _name(data: object) -> str:
    if data is None:
        return "null"
    if isinstance(data, dict):
        return "an object"
    if isinstance(data, list):
        return "a list"
    return f"{_JSON_NAMES.get(type(data), type(data).__name__)} ({json.dumps(data)[:60]})"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
