"""What a field of a message may hold, read off its annotation.

    duration_s: Annotated[float, Range(0, 3600)]  # s

Everything that depends on a message's fields is derived from these annotations: the check when one
is constructed, the codec, the protocol page and the tests' examples. So none of them can forget a
field. Allowed are text, bytes, whole and real numbers, truth values, `Literal`, `X | None`,
`tuple[X, ...]`, other records, and `Mapping[str, X]`, where `Any` for X is plain data.

A record keeps what it does not know in `extra`, under the names it came with.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from edge_runtime.errors import ContractError

EXTRA = "extra"
MAX_DEPTH = 8  # of nested arrays and maps, in a whole message
_INTEGERS = range(-(1 << 63), 1 << 64)  # what CBOR holds without a tag

Check = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Range:
    """A number from `low` to `high`, both included."""

    low: float
    high: float

    def __call__(self, value: Any) -> None:
        if not self.low <= value <= self.high:
            raise ContractError(f"is {value!r}", expected=str(self))

    def __str__(self) -> str:
        return f"{_number(self.low)} to {_number(self.high)}"


@dataclass(frozen=True, slots=True)
class Length:
    """Bytes of text or data, or items of a list: from `low` to `high`, both included."""

    low: int
    high: int

    def __call__(self, value: Any) -> None:
        size = len(value.encode()) if isinstance(value, str) else len(value)
        if not self.low <= size <= self.high:
            raise ContractError(f"has a length of {size}", expected=str(self))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"length {_number(self.low)}"
        return f"length {_number(self.low)} to {_number(self.high)}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text that matches as a whole; `meaning` says so to people."""

    regex: str
    meaning: str

    def __call__(self, value: Any) -> None:
        if re.fullmatch(self.regex, value, re.ASCII) is None:
            raise ContractError(f"is {shown(value)}", expected=self.meaning)

    def __str__(self) -> str:
        return self.meaning


def _number(value: float) -> str:
    if isinstance(value, int) and value > 1 << 20 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}".replace(",", " ")


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of a record: what it may hold, and how it is built from plain data."""

    name: str
    hint: Any
    required: bool
    check: Check
    build: Callable[[Any], Any] | None  # None: as it is


@cache
def fields_of(record: Any) -> tuple[FieldSpec, ...]:
    """The fields of a record class in their order, without `extra`."""
    hints = get_type_hints(record, include_extras=True)
    return tuple(
        FieldSpec(
            name=field.name,
            hint=hints[field.name],
            required=field.default is field.default_factory is dataclasses.MISSING,
            check=_checker(hints[field.name]),
            build=_builder(hints[field.name]),
        )
        for field in dataclasses.fields(record)
        if field.name != EXTRA
    )


def check_record(record: Any, *, message: str | None = None) -> None:
    """Raises ContractError naming the first field that holds what it must not."""
    kind: Any = type(record)
    name = ""
    try:
        for name, check in _checks_of(kind):
            check(getattr(record, name))
        name = EXTRA
        if record.extra:
            check_plain(record.extra)
            known = {"v", "type", *(field.name for field in fields_of(kind))}
            if clash := known & set(record.extra):
                raise ContractError(f"holds {min(clash)!r}, the name of a field")
    except ContractError as error:
        raise _under(name, error, message) from None


@cache
def _checks_of(record: Any) -> tuple[tuple[str, Check], ...]:
    return tuple((field.name, field.check) for field in fields_of(record))


@cache
def _flat_names(record: Any) -> frozenset[str]:
    """Its fields' names, if it holds nothing that has to be built."""
    fields = fields_of(record)
    flat = all(field.build is None for field in fields)
    return frozenset(field.name for field in fields) if flat else frozenset()


def build_record(record: type, plain: Mapping[str, Any]) -> Any:
    """The record that `to_plain` made `plain` from; what it does not know goes to `extra`.

    Raises ContractError naming the field.
    """
    if plain.keys() <= _flat_names(record):  # most of a segment are words
        try:
            return record(**plain)
        except TypeError:  # one is missing; below is found which
            pass
    rest = dict(plain)
    known = {}
    name = ""
    try:
        for field in fields_of(record):
            name = field.name
            if name in rest:
                value = rest.pop(name)
                known[name] = value if field.build is None else field.build(value)
            elif field.required:
                raise ContractError("is missing")
    except ContractError as error:
        raise _under(name, error) from None
    return record(**known, extra=rest)


def to_plain(value: Any) -> Any:
    """Records as maps, tuples as lists, `extra` beside the fields; everything else as it is."""
    kind: Any = type(value)
    if kind in _KINDS or value is None:
        return value
    if kind is tuple:
        return [to_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        plain = {field.name: to_plain(getattr(value, field.name)) for field in fields_of(kind)}
        return {**plain, **getattr(value, EXTRA)}
    return value


def _under(name: str, error: ContractError, message: str | None = None) -> ContractError:
    """The same error, about a part of this field."""
    inner = error.field or ""
    dot = "." if inner and not inner.startswith("[") else ""
    return ContractError(
        error.problem,
        message=message or error.message,
        field=f"{name}{dot}{inner}",
        expected=error.expected,
    )


_KINDS = {
    str: "text",
    bytes: "bytes",
    int: "a whole number",
    float: "a real number",
    bool: "yes/no",
}


def _checker(hint: Any) -> Check:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        checks = _all(_checker(arguments[0]), *hint.__metadata__)
        return _quickly(arguments[0], hint.__metadata__, checks)
    if origin in (Union, types.UnionType):
        inner = _checker(_present(hint))
        return lambda value: None if value is None else inner(value)
    if origin is Literal:
        return _one_of(arguments)
    if origin is tuple:
        return _items(_checker(arguments[0]))
    if origin is Mapping:
        return _mapping(check_plain if arguments[1] is Any else _checker(arguments[1]))
    if hint in _KINDS:
        return _scalar(hint)
    return _instance(hint)


def _builder(hint: Any) -> Callable[[Any], Any] | None:
    """Gives plain data its shape; None where it has it. What has another shape stays as it is, for
    the check to find.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _builder(arguments[0])
    if origin in (Union, types.UnionType):
        return _builder(_present(hint))
    if origin is tuple:
        return _list_builder(_builder(arguments[0]))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda plain: build_record(hint, plain) if isinstance(plain, dict) else plain
    return None


def _present(hint: Any) -> Any:
    """X of `X | None`."""
    (inner,) = (argument for argument in get_args(hint) if argument is not types.NoneType)
    return inner


def _all(*checks: Check) -> Check:
    def check(value: Any) -> None:
        for each in checks:
            each(value)

    return check


def _quickly(kind: Any, rules: tuple[Any, ...], checks: Check) -> Check:
    """The same check for a field with one rule, faster where it holds: messages come in numbers."""
    if len(rules) != 1:
        return checks
    match rules[0]:
        case Range(low=low, high=high) if kind in (int, float):

            def quick(value: Any) -> None:
                if type(value) is not kind or not low <= value <= high:
                    checks(value)

        case Length(low=low, high=high) if kind in (str, bytes):

            def quick(value: Any) -> None:
                whole = type(value) is kind and (kind is bytes or value.isascii())
                if not whole or not low <= len(value) <= high:
                    checks(value)

        case Pattern(regex=regex) if kind is str:
            matches = re.compile(regex, re.ASCII).fullmatch

            def quick(value: Any) -> None:
                if type(value) is not str or not value.isascii() or matches(value) is None:
                    checks(value)

        case _:
            return checks
    return quick


def _scalar(kind: type) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ContractError(f"is {shown(value)}", expected=_KINDS[kind])
        if kind in (str, float, int):
            check_plain(value)

    return check


def _one_of(choices: tuple[Any, ...]) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise ContractError(f"is {shown(value)}", expected=" or ".join(choices))

    return check


def _items(each: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, tuple):
            raise ContractError(f"is {shown(value)}", expected="a list")
        position = 0
        try:
            for item in value:
                each(item)
                position += 1
        except ContractError as error:
            raise _under(f"[{position}]", error) from None

    return check


def _mapping(each: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, Mapping):
            raise ContractError(f"is {shown(value)}", expected="a map")
        check_plain(value)
        for name, item in value.items():
            try:
                each(item)
            except ContractError as error:
                raise _under(f"[{shown(name)}]", error) from None

    return check


def _instance(record: type) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, record):
            raise ContractError(f"is {shown(value)}", expected=f"a map, {record.__name__}")

    return check


def _list_builder(each: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def build(plain: Any) -> Any:
        if not isinstance(plain, list):
            return plain
        if each is None:
            return tuple(plain)
        items = []
        for index, item in enumerate(plain):
            try:
                items.append(each(item))
            except ContractError as error:
                raise _under(f"[{index}]", error) from None
        return tuple(items)

    return build


def check_plain(value: Any, depth: int = MAX_DEPTH) -> None:
    """Raises ContractError unless `value` is plain data that every codec can carry unchanged."""
    if value is None or isinstance(value, bool | bytes):
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ContractError(f"is {value[:40]!a}", expected="Unicode text") from None
    elif isinstance(value, int):
        if value not in _INTEGERS:
            raise ContractError(f"is a number of {value.bit_length()} bits", expected="64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ContractError(f"is {value}", expected="a finite number")
    elif isinstance(value, list | Mapping):
        if depth == 0:
            raise ContractError("is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            for name, item in value.items():
                if not isinstance(name, str):
                    raise ContractError(f"has the key {shown(name)}", expected="text keys")
                check_plain(name)
                check_plain(item, depth - 1)
        else:
            for item in value:
                check_plain(item, depth - 1)
    else:
        raise ContractError(f"holds {type(value).__name__}", expected="plain data")


def shown(value: Any) -> str:
    """A value as an error may show it: short, ASCII, never the content of data."""
    if isinstance(value, str):
        return f"{value[:40]!a}" + ("..." if len(value) > 40 else "")
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value in _INTEGERS else "a very large number"
    return f"of type {type(value).__name__}"
