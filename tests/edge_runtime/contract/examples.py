"""Examples of every message, drawn from the annotations that define it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import assume
from hypothesis import strategies as st

from edge_runtime.contract.fields import Length, Pattern, Range, fields_of
from edge_runtime.contract.messages import MESSAGES, Message, Part
from edge_runtime.contract.records import Histogram

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=8)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(texts.map(lambda name: f"later_{name}"), plain, max_size=2)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """What a field with this annotation may hold."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _limited(arguments[0], *hint.__metadata__)
    if origin in (Union, types.UnionType):
        return st.none() | values(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is Mapping:
        return st.dictionaries(texts, plain if arguments[1] is Any else values(arguments[1]))
    if hint is bool:
        return st.booleans()
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    return records(hint)


def _limited(kind: Any, rule: Any) -> st.SearchStrategy[Any]:
    match rule:
        case Pattern(regex=regex):
            return st.from_regex(f"(?a:{regex})", fullmatch=True)
        case Range(low=low, high=high):
            return st.integers(low, high) if kind is int else st.floats(low, high)
        case Length(low=low, high=high) if kind is str:
            return texts.filter(lambda text: low <= len(text.encode()) <= high)
        case Length(low=low, high=high) if kind is bytes:
            return st.binary(min_size=low, max_size=min(high, max(low, 40)))
        case Length(low=low, high=high):
            items = st.lists(values(get_args(kind)[0]), min_size=low, max_size=max(low, 3))
            return items.map(tuple)
    raise AssertionError(rule)


def records(kind: type) -> st.SearchStrategy[Any]:
    """Records of this class, with and without fields that have a default."""
    if kind is Histogram:
        return _histograms()
    fields = fields_of(kind)
    required = {field.name: values(field.hint) for field in fields if field.required}
    optional = {field.name: values(field.hint) for field in fields if not field.required}

    def build(known: dict[str, Any], extra: dict[str, Any]) -> Any:
        if kind is Part:
            assume(known["index"] < known["count"])
        return kind(**known, extra=extra)

    return st.builds(build, st.fixed_dictionaries(required, optional=optional), extras)


@st.composite
def _histograms(draw: st.DrawFn) -> Histogram:
    bounds = sorted(draw(st.sets(st.floats(-1e6, 1e6), min_size=1, max_size=4)))
    counts = draw(st.lists(st.integers(0, 9), min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    total = draw(st.floats(-1e6, 1e6))
    return Histogram(bounds=tuple(bounds), counts=tuple(counts), total=total, extra=draw(extras))


def messages(*kinds: type[Message]) -> st.SearchStrategy[Message]:
    """Any message, or one of these kinds."""
    return st.sampled_from(kinds or tuple(MESSAGES.values())).flatmap(records)
