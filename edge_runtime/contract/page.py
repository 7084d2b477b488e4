"""docs/protocol.md, written from the contract itself.

python -m edge_runtime.contract.page > docs/protocol.md
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from edge_runtime.contract import codec, scan, topics
from edge_runtime.contract.fields import Pattern, fields_of
from edge_runtime.contract.messages import MESSAGES

_KINDS = {str: "text", bytes: "bytes", int: "integer", float: "float", bool: "boolean", Any: "any"}


def page() -> str:
    """The whole page, Markdown."""
    lines = [
        "# The protocol",
        "",
        "Written by `python -m edge_runtime.contract.page` from `edge_runtime/contract/`; do not",
        "edit. MQTT 5 carries it, with the device's certificate as its identity.",
        "",
        *_paragraphs(codec, 2, 3),
        *_paragraphs(scan, 1),
        f"A packet has at most {codec.MAX_PACKET_BYTES:,} bytes. A larger message is cut into",
        f"parts; put together it has at most {codec.MAX_MESSAGE_BYTES:,}.",
        "",
        "## Topics",
        "",
        *_paragraphs(topics, 1, 2),
        "| topic | written by | carries | QoS | retained |",
        "|---|---|---|---|---|",
        *map(_channel, topics.CHANNELS.values()),
        "",
        "## Messages",
        "",
        "A field with a default may be missing. Fields that are not listed are kept, not refused.",
        "",
    ]
    records: dict[type, None] = {}
    for kind in MESSAGES.values():
        lines += _record(kind, f"`{kind.type}`", records)
    lines += ["## Records inside messages", ""]
    for kind in sorted(records, key=lambda record: record.__name__):
        lines += _record(kind, kind.__name__, {})
    return "\n".join(lines).rstrip() + "\n"


def _paragraphs(module: types.ModuleType, *numbers: int) -> list[str]:
    """These of the module's docstring. What is code there is code in Markdown."""
    paragraphs = inspect.cleandoc(module.__doc__ or "").split("\n\n")
    return [line for number in numbers for line in (*paragraphs[number].split("\n"), "")]


def _channel(channel: topics.Channel) -> str:
    carries = ", ".join(f"[`{kind.type}`](#{kind.type})" for kind in channel.carries)
    topic = channel.filter.replace("+", "\\<device>")
    retained = "yes" if channel.retained else "no"
    return f"| {topic} | {channel.writer} | {carries} | {channel.qos} | {retained} |"


def _record(kind: type, title: str, inner: dict[type, None]) -> list[str]:
    comments = _comments(kind)
    defaults = {field.name: field for field in dataclasses.fields(kind)}
    lines = [f"### {title}", "", inspect.cleandoc(kind.__doc__ or ""), ""]
    lines += ["| field | holds | default | what |", "|---|---|---|---|"]
    for field in fields_of(kind):
        inner.update(dict.fromkeys(_records_in(field.hint)))
        default = "" if field.required else _default(defaults[field.name])
        row = (f"`{field.name}`", _holds(field.hint), default, comments[field.name])
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def _comments(kind: type) -> Mapping[str, str]:
    """The comment behind every field; a KeyError where one is missing is what the test is for."""
    lines = inspect.getsource(kind).split("\n")
    found = {}
    name = ""
    for line in lines:
        if match := re.match(r"    (\w+): ", line):
            name = match[1]
        if name and (comment := re.search(r"  # (.*)$", line)):
            found[name] = comment[1].replace("|", "\\|")
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:  # then it has a factory, of empty maps
        return "`{}`"
    value = field.default
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _holds(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        rules = [str(rule) for rule in hint.__metadata__]
        if isinstance(hint.__metadata__[0], Pattern):
            return f"text: {rules[0]}"
        return ", ".join((_holds(arguments[0]), *rules))
    if origin in (Union, types.UnionType):
        return f"{_holds(arguments[0])}, or null"
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in arguments)
    if origin is tuple:
        return f"list of ({_holds(arguments[0])})"
    if origin is Mapping:
        return f"map of text to {_holds(arguments[1])}"
    return _KINDS.get(hint) or f"[{hint.__name__}](#{hint.__name__.lower()})"


def _records_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
        for field in fields_of(hint):
            yield from _records_in(field.hint)
    for argument in get_args(hint):
        yield from _records_in(argument)


if __name__ == "__main__":
    sys.stdout.write(page())
