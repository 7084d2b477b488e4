"""Writes the tables of docs/agent.md from the settings themselves:

python -m edge_runtime.agent.keys >> docs/agent.md      # after deleting the old ones
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.agent.config import AgentSettings

_KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    datetime.time: "time of day",
}


def tables() -> str:
    """Every table of agent.toml with every key."""
    lines: list[str] = []
    for name, hint in typing.get_type_hints(AgentSettings).items():
        kind = _plain(hint)
        optional = " (may be left out)" if kind is not hint else ""
        lines += [f"### [{name}]{optional}", "", *_table(kind), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(kind: type) -> list[str]:
    lines = [
        (inspect.getdoc(kind) or "").partition("\n\n")[0].partition(" Raises ")[0],
        "",
        "| key | is | without it | meaning |",
        "|---|---|---|---|",
    ]
    return lines + [f"| {' | '.join(row)} |" for row in _rows(kind, "")]


def _rows(kind: type, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    comments, hints = _comments(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = _plain(hints[field.name])
        name = prefix + field.name
        inner = hint.__args__[0] if isinstance(hint, types.GenericAlias) else hint
        if dataclasses.is_dataclass(hint):
            yield from _rows(typing.cast(type, hint), f"{name}.")
        elif dataclasses.is_dataclass(inner):
            keys = ", ".join(each.name for each in dataclasses.fields(inner))
            yield (f"`{name}`", f"list of {{ {keys} }}", "`[]`", comments.get(field.name) or
                   _first_line(inner))  # fmt: skip
        else:
            is_list = inner is not hint
            yield (
                f"`{name}`",
                f"list of {_KINDS[inner]}" if is_list else _KINDS[inner],
                _default(field),
                comments[field.name],
            )


def _first_line(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")


def _comments(kind: type) -> dict[str, str]:
    """The comment behind every field; a field without one shows what its name says."""
    found: dict[str, str] = {}
    for line in inspect.getsource(kind).split("\n"):
        if match := re.match(r"    (\w+): [^#]*(?:# (.*))?$", line):
            found.setdefault(match[1], (match[2] or match[1].replace("_", " ")).replace("|", "\\|"))
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "must be there" if field.default_factory is dataclasses.MISSING else "`[]`"
    value = field.default
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    return f"`{'[]' if value == () else text}`"


def _plain(hint: Any) -> Any:
    """A hint without its None."""
    if isinstance(hint, types.UnionType):
        (hint,) = (kind for kind in hint.__args__ if kind is not types.NoneType)
    return hint


if __name__ == "__main__":
    sys.stdout.write(tables())
