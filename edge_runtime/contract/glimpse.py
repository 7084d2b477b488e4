"""A segment, recognised in its bytes without building it.

A server takes thousands of segments a second and needs neither their audio nor their words apart.
A few patterns, made from the annotations of `Segment`, match the one encoding of a segment with all
of its fields and nothing unknown; between them lie what is too long for a pattern, its length
before it: text, audio and words. What a value may be is left to the checks that every message has.

What is not recognised may be right all the same, so then it is decoded like everything else.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from edge_runtime.contract.fields import Check, Length, Pattern, Range, fields_of
from edge_runtime.contract.messages import Segment
from edge_runtime.contract.records import Alternative, Model, SpokenWord
from edge_runtime.contract.scan import argument
from edge_runtime.contract.words import key_of, numbers, words_end
from edge_runtime.errors import ContractError

Bytes = bytes | memoryview

_TEXT, _BYTES, _WORDS, _END = "text", "bytes", "words", "end"  # what follows a pattern
_LONG = 64  # bytes of a text that is in a pattern


class Glimpse(NamedTuple):
    """Where in the bytes of a segment its audio and words lie, and the rest, as CBOR."""

    rest: bytes  # audio and words are empty in it
    audio: slice
    words: slice


def glimpse(data: Bytes) -> Glimpse | None:
    """None: decode it. Else the encoding is right, and so are types, words and length of audio;
    `check_rest` finds whether the other fields keep the contract.
    """
    position = 0
    end = len(data)
    audio = words = slice(0)
    try:
        for pattern, follows in _steps():
            found = pattern.match(data, position)
            if found is None:
                return None
            position = found.end()
            if follows is _END:
                break
            major = data[position] >> 5
            count, start = argument(data, position, end)
            if follows is _WORDS:
                stop = words_end(data, start, count) if major == 4 else 0
                if not stop:
                    return None
                words = slice(position, stop)
                position = stop
                continue
            if major != (2 if follows is _BYTES else 3) or count > end - start:
                return None
            if follows is _BYTES:
                audio = slice(start, start + count)
                head = position
            position = start + count
    except (ContractError, IndexError):
        return None
    if not 0 < audio.stop - audio.start <= _audio_limit():
        return None
    rest = (data[:head], b"\x40", data[audio.stop : words.start], b"\x80", data[words.stop :])
    return Glimpse(b"".join(rest), audio, words)


def prepare() -> None:
    """Makes the patterns, for which else the first segment would wait."""
    _steps()
    _checks()


def check_rest(plain: dict[str, Any]) -> None:
    """Raises ContractError for what `Glimpse.rest` holds, decoded, and must not."""
    ranges, others = _checks()
    for name, low, high in ranges:
        if not low <= plain[name] <= high:
            raise ContractError("is out of range", field=name)
    for name, check in others:
        check(plain[name])
    consent, language, model, reasons = map(plain.__getitem__, _REPEATED)
    _check_repeated(consent, language, tuple(model.items()), tuple(reasons))


_REPEATED = ("consent", "language", "model", "reasons")  # the same in many segments


@lru_cache(maxsize=4096)
def _check_repeated(*values: Any) -> None:
    checks = {field.name: field.check for field in fields_of(Segment)}
    for name, value in zip(_REPEATED, values, strict=True):
        checks[name](Model(**dict(value)) if name == "model" else value)


@cache
def _checks() -> tuple[tuple[tuple[str, float, float], ...], tuple[tuple[str, Check], ...]]:
    """-> ranges, and checks of other kinds."""
    ranges, others = [], []
    for field in fields_of(Segment):
        rule = (*get_args(field.hint), None, None)[1]
        if isinstance(rule, Range):
            ranges.append((field.name, rule.low, rule.high))
        elif field.name not in (*_REPEATED, *_SEEN_TO) and field.hint is not bool:
            others.append((field.name, field.check))
    return tuple(ranges), tuple(others)


_SEEN_TO = ("alternatives", "audio", "audio_sha256", "codec", "words")  # by the patterns


@cache
def _audio_limit() -> int:
    (hint,) = (field.hint for field in fields_of(Segment) if field.name == "audio")
    rule: Length = hint.__metadata__[0]
    return rule.high


@cache
def _steps() -> tuple[tuple[re.Pattern[bytes], str], ...]:
    """Patterns in the order of the encoding, and what comes after each that is not in one."""
    fields: list[tuple[bytes, Any]] = [
        (key_of(field.name), field.hint) for field in fields_of(Segment)
    ]
    fields += [(key_of("v"), b"\x01"), (key_of("type"), _head(3, len("segment")) + b"segment")]
    steps = []
    pattern = re.escape(_head(5, len(fields)))
    for key, hint in sorted(fields, key=lambda field: field[0]):
        pattern += re.escape(key)
        if isinstance(hint, bytes):
            pattern += re.escape(hint)
        elif follows := _too_long(hint):
            steps.append((re.compile(pattern, re.DOTALL), follows))
            pattern = b""
        else:
            pattern += _value(hint)
    return (*steps, (re.compile(pattern + rb"\Z", re.DOTALL), _END))


def _too_long(hint: Any) -> str:
    kind, rule = (*get_args(hint), None, None)[:2]
    if isinstance(rule, Length) and rule.high > _LONG:
        if kind is str:
            return _TEXT
        if kind is bytes:
            return _BYTES
        if get_args(kind)[0] is SpokenWord:
            return _WORDS
    return ""


def _value(hint: Any) -> bytes:
    """A pattern for values of this kind, in their one encoding; rarer ones may be missing."""
    if get_origin(hint) is Literal:
        choices = [_head(3, len(each)) + each.encode() for each in get_args(hint)]
        return _any(map(re.escape, choices))
    if get_origin(hint) is Annotated:
        kind, rule = get_args(hint)[:2]
        if kind is str:
            assert isinstance(rule, Pattern | Length), hint
            return _any(re.escape(_head(3, n)) + b".{%d}" % n for n in range(_LONG + 1))
        if kind is bytes and isinstance(rule, Length) and rule.low == rule.high:
            return re.escape(_head(2, rule.low)) + b".{%d}" % rule.low
        if kind is int:
            return _INTEGER
        if kind is float:
            return _FLOAT
        item = get_args(kind)[0]
        if item is Alternative:  # few devices send any
            return b"\\x80"
        counts = range(rule.low, rule.high + 1)
        return _any(re.escape(_head(4, n)) + b"(?:%b){%d}" % (_value(item), n) for n in counts)
    if hint is bool:
        return b"[\\xf4\\xf5]"
    fields = sorted((key_of(field.name), field.hint) for field in fields_of(hint))
    values = b"".join(re.escape(key) + _value(hint) for key, hint in fields)
    return re.escape(_head(5, len(fields))) + values


def _any(choices: Any) -> bytes:
    return b"(?:%b)" % b"|".join(choices)


def _head(major: int, number: int) -> bytes:
    return bytes([major << 5 | number] if number < 24 else [major << 5 | 24, number])


# Not negative, and in the fewest bytes: what is left out is 0 in front of a longer form.
_INTEGER = rb"(?:[\x00-\x17]|\x18[\x18-\xff]|\x19[^\x00].|\x1a(?!\x00\x00)....|\x1b(?!\x00{4}).{8})"
_FLOAT = numbers(b"[\\x00-\\x40].", b"[\\x00-\\x47].", b"[\\x00-\\x7b].")  # not negative, finite
