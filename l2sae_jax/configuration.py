"""Frozen dataclasses from and to plain dictionaries, as configs and config.json hold them."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Builds a dataclass, nested ones included; lists become tuples.

    Args:
      cls: a dataclass.
      values: its fields; those with a default may be absent.
      where: what to call `values` in an error.

    Raises:
      ValueError: an unknown or missing field, or a nested value that is not a mapping.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected fields of {cls.__name__}, found {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}, expected {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: field {missing[0]!r} is missing")
    built = {
        name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()
    }
    return cls(**built)


def to_dict(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, ready for JSON: nested ones as dictionaries, without Nones."""
    return {
        field.name: to_dict(part) if dataclasses.is_dataclass(part) else part
        for field in dataclasses.fields(value)
        if (part := getattr(value, field.name)) is not None
    }


def _convert(hint: Any, value: Any, where: str) -> Any:
    """The value as a field of this type holds it."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    option = options[0]
    if dataclasses.is_dataclass(option):
        return from_dict(option, value, where)
    if typing.get_origin(option) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, found {value!r}")
        item = typing.get_args(option)[0]
        return tuple(_convert(item, part, f"{where}[{i}]") for i, part in enumerate(value))
    if option in (int, float, str):
        accepted = (int, float) if option is float else option
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise ValueError(f"{where}: expected {_NAMES[option]}, found {value!r}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "text"}
