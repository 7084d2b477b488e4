"""Settings as frozen dataclasses, read from TOML: a table for each class, every value checked.

    settings = read_settings(AgentSettings, Path("agent.toml"))

A field's type is what its value must be: bool, int, float, str, Path, datetime.time, a tuple of
these, another dataclass for a table, or any of these or None. Errors name the file, the key and
what was expected; a key that nobody knows is an error that names the one that was probably meant.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edge_runtime.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def read_settings(kind: type[T], path: Path) -> T:
    """The settings in a file. Raises ConfigError."""
    return build(kind, read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file, unchecked. Raises ConfigError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def toml_value(text: str) -> Any:
    """A value as TOML has it; a bare word is a string, so that `arm=cnn` needs no quotes."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def build(kind: type[T], fields: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table; `where` begins every error. Raises ConfigError."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(hints)}"
            raise ConfigError(f"{where}: unknown field {name!r}; {hint}")
        values[name] = _value(hints[name], value, f"{where}: {name}")
    required = (
        field.name
        for field in dataclasses.fields(typing.cast(Any, kind))
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in values
    )
    if missing := next(required, None):
        raise ConfigError(f"{where}: {missing}: is missing (expected {_named(hints[missing])})")
    try:
        return kind(**values)
    except ConfigError as error:  # of a class that checks itself, and cannot know the file
        raise ConfigError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):  # TOML has no None: absent is None
        (hint,) = (kind for kind in hint.__args__ if kind is not types.NoneType)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {value!r} (expected a table)")
        return build(hint, value, where)
    if isinstance(hint, types.GenericAlias):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: {value!r} (expected a list)")
        return tuple(_value(hint.__args__[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        if "://" in value:  # Path would make a folder called "s3:" of it
            raise ConfigError(f"{where}: {value!r} is a URL (expected a path on this machine)")
        return Path(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: {value!r} (expected {_named(hint)})")
    return value


def _named(hint: Any) -> str:
    names = {
        str: "text in quotes",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Path: "a path in quotes",
        datetime.time: "a time of day such as 22:00:00",
    }
    return names.get(hint, "a list" if isinstance(hint, types.GenericAlias) else "a table")
