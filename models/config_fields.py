"""Fields of config dataclasses: read from JSON, checked, written as JSON.

A config may come out of a hostile file: every message names the field and what it holds.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from typing import Any, Literal

_LARGEST = 65536
"""Of numbers that multiply modules or values, unless a field has a bound of its own."""


class ConfigError(ValueError):
    """A configuration that cannot describe a network."""


def config_to_dict(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into plain JSON values."""
    return dataclasses.asdict(config)


def config_from_dict(config_type: type, values: Any, where: str = "config") -> Any:
    """Build a config from JSON values, refusing misspelt fields and wrong types.

    Args:
        config_type: A dataclass.
        values: What `json.loads` gave.
        where: Name of the value in error messages.

    Raises:
        ConfigError: If a field is unknown, of the wrong type, or out of range; its message
            stays short whatever the values.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected an object, got {type(values).__name__}")
    hints = typing.get_type_hints(config_type)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        near = difflib.get_close_matches(unknown[0], hints, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(hints)
        raise ConfigError(
            f"{where}: unknown field {reprlib.repr(unknown[0])}; {guess}known fields: {known}"
        )
    parsed = {
        name: _parse(hints[name], value, f"{where}.{name}") for name, value in values.items()
    }
    try:
        return config_type(**parsed)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _parse(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return config_from_dict(typing.cast(type, hint), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {type(value).__name__}")
        items = typing.get_args(hint)
        inner = items[:1] * len(value) if items[-1] is Ellipsis else items
        if len(inner) != len(value):
            raise ConfigError(f"{where}: expected {len(inner)} entries, got {len(value)}")
        return tuple(
            _parse(h, v, f"{where}[{i}]")
            for i, (h, v) in enumerate(zip(inner, value, strict=True))
        )
    if origin is Literal:
        check_choice(where, value, typing.get_args(hint))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _parse(
            next(h for h in typing.get_args(hint) if h is not type(None)), value, where
        )
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{where}: a number too large for a float") from error
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {reprlib.repr(value)}")
    return value


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        found = reprlib.repr(value)
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {found}")


def check_positive(config: Any, *names: str) -> None:
    """Raise ConfigError unless each field is at least 1, and not absurdly large."""
    for name in names:
        check_range(config, name, 1)


def check_range(config: Any, name: str, lowest: int, highest: int = _LARGEST) -> None:
    """Raise ConfigError unless a field, or each number of a tuple, is in a range."""
    value = getattr(config, name)
    for number in value if isinstance(value, tuple) else (value,):
        if not lowest <= number <= highest:
            found = reprlib.repr(number)
            raise ConfigError(f"{name} must be between {lowest} and {highest}, got {found}")


def check_finite(name: str, values: tuple[float, ...]) -> None:
    """Raise ConfigError unless all values are finite."""
    for value in values:
        if not math.isfinite(value):
            raise ConfigError(f"{name} must be finite, got {value}")
