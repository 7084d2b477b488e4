"""Every message comes back as it was; whatever else arrives is refused, never a crash."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.contract.codec import MAX_MESSAGE_BYTES, decode, encode
from edge_runtime.contract.messages import MESSAGES, Command, Death, Message, Nack, Receipt
from edge_runtime.contract.scan import scan
from edge_runtime.errors import ContractError
from tests.edge_runtime.contract.examples import messages, plain, records

ID = "0" * 31 + "a"
NACK = Nack(id=ID, permanent=True, reason="malformed")


def _plain(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = cbor2.loads(encode(message))
    return fields


def _bytes(fields: object) -> bytes:
    data: bytes = cbor2.dumps(fields, canonical=True)
    return data


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=MESSAGES)
@given(data=st.data())
@settings(max_examples=60)
def test_a_message_comes_back_as_it_was(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(records(kind))
    encoded = encode(message)
    assert decode(encoded) == message
    assert encode(decode(encoded)) == encoded


@given(messages(), st.dictionaries(st.from_regex("later_[a-z]{1,5}", fullmatch=True), plain))
def test_what_a_later_version_adds_is_kept_and_written_back(
    message: Message, later: dict[str, Any]
) -> None:
    data = _bytes({**_plain(message), **later})
    assert set(later) <= set(decode(data).extra)
    assert encode(decode(data)) == data


def test_fields_of_later_versions_inside_a_record_are_kept_too() -> None:
    birth = {
        "v": 1,
        "type": "birth",
        "session": 1,
        "connected_ms": 2,
        "clock_is_set": True,
        "agent": "0.1.0",
        "model": {
            "name": "en-demo",
            "version": "1",
            "release_counter": 1,
            "manifest_sha256": bytes(32),
            "precision": "float32",
            "engine": {"name": "later"},
        },
    }
    message = decode(_bytes(birth))
    assert message.model.extra == {"engine": {"name": "later"}}  # type: ignore[union-attr]
    assert cbor2.loads(encode(message))["model"]["engine"] == {"name": "later"}


def test_a_field_with_a_default_may_be_missing_and_others_may_not() -> None:
    fields = _plain(NACK)
    del fields["detail"]
    assert decode(_bytes(fields)) == NACK
    del fields["reason"]
    with pytest.raises(ContractError, match="nack: reason: is missing"):
        decode(_bytes(fields))


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff")
@settings(max_examples=500)
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ContractError):
        decode(data)


@given(messages().map(encode), st.data())
@settings(max_examples=600)
def test_a_damaged_message_is_refused_or_is_another_whole_message(
    encoded: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(encoded)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "repeat"])):
            case "change":
                damaged[at] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[at + 1 :]
            case "insert":
                damaged[at:at] = data.draw(st.binary(max_size=4))
            case "repeat":
                damaged[at:at] = damaged[at : at + 9]
    try:
        message = decode(bytes(damaged))
    except ContractError:
        return
    assert encode(message)  # it keeps the contract
    assert decode(encode(message)) == message


@given(messages(), st.data(), plain)
@settings(max_examples=300)
def test_a_field_of_the_wrong_kind_is_refused_or_fits(
    message: Message, data: st.DataObject, value: object
) -> None:
    fields = _plain(message)
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    try:
        assert decode(_bytes(fields))
    except ContractError as error:
        assert len(str(error)) < 1000


DEEP = b"\x81" * 100_000 + b"\x00"
# Eight lists, each of thirty references to the one before (tags 28 and 29): 30^7 items to walk.
BOMB = b"\x88\xd8\x1c\x81\x00" + b"".join(
    b"\xd8\x1c\x98\x1e" + 30 * (b"\xd8\x1d" + bytes([level])) for level in range(7)
)
HOSTILE = {
    "deep nesting": DEEP,
    "deep maps": b"\xa1\x61a" * 50_000 + b"\x00",
    "a text of 2^64 bytes": b"\x7b" + b"\xff" * 8,
    "a list of 2^32 items": b"\x9a" + b"\xff" * 4 + bytes(100),
    "a map of 2^63 pairs": b"\xbb\x80" + bytes(7) + bytes(100),
    "an indefinite list": b"\x9f\x01\xff",
    "an indefinite map": b"\xbf\x61v\x01\xff",
    "an indefinite text": b"\x7f\x61a\xff",
    "bad UTF-8": b"\xa1\x62\xc3\x28\x01",
    "an encoded surrogate": b"\xa1\x63\xed\xa0\x80\x01",
    "a key that is a list": b"\xa1\x80\x01",
    "a key that is bytes": b"\xa1\x41v\x01",
    "a cycle": b"\xd8\x1c\x81\xd8\x1d\x00",
    "a huge number": b"\xc2\x58\x64" + b"\xff" * 100,
    "a regular expression": b"\xd8\x23\x68(a*)*b.*",
    "lists of lists of lists": BOMB,
    "undefined": b"\xf7",
    "a reserved length": b"\x1c",
    "a simple value": b"\xf8\xff",
    "two messages": 2 * encode(NACK),
    "a cut message": encode(NACK)[:-1],
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ContractError):
        decode(data)
    with pytest.raises(ContractError):  # inside a message, where a field would keep them
        decode(encode(NACK).replace(b"\xa6", b"\xa7", 1) + b"\x61z" + data)


NOT_SEEN_BY_THE_SCAN = ("bad UTF-8", "an encoded surrogate")  # cbor2 finds these


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - NOT_SEEN_BY_THE_SCAN))
def test_hostile_bytes_are_refused_before_anything_is_built_from_them(name: str) -> None:
    with pytest.raises(ContractError):
        scan(HOSTILE[name])


@given(plain)
def test_the_scan_lets_through_all_that_a_message_may_hold(value: object) -> None:
    scan(_bytes(value))


@given(plain, st.booleans())
@settings(max_examples=300)
def test_of_all_encodings_the_scan_lets_through_the_deterministic_one(
    value: object, canonical: bool
) -> None:
    data = cbor2.dumps(value, canonical=canonical)
    if data == _bytes(cbor2.loads(data)):
        scan(data)
    else:
        with pytest.raises(ContractError, match="deterministically"):
            scan(data)


LONGER = [
    *(b"\x18" + bytes([n]) for n in (0, 23)),
    *(b"\x38" + bytes([n]) for n in (0, 23)),
    b"\x19\x00\xff", b"\x1a\x00\x00\xff\xff", b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff",
    b"\x58\x01a", b"\x78\x01a", b"\x98\x01\x00", b"\xb8\x01\x61a\x00",
    b"\xa2\x61b\x00\x61a\x00", b"\xa2\x61a\x00\x61a\x00", b"\xa2\x62aa\x00\x61b\x00",
    b"\xfa" + struct.pack(">f", 0.5), b"\xfb" + struct.pack(">d", 0.5),
    b"\xfb" + struct.pack(">d", 2.0**100), b"\xfb" + struct.pack(">d", -0.0),
    b"\xfb" + struct.pack(">d", 2.0**-149), b"\xfa" + struct.pack(">f", 2.0**-24),
]  # fmt: skip


@pytest.mark.parametrize("data", LONGER, ids=bytes.hex)
def test_what_could_be_shorter_or_in_order_is_refused(data: bytes) -> None:
    cbor2.loads(data)
    with pytest.raises(ContractError, match="deterministically"):
        scan(data)


@given(st.binary(max_size=20))
@settings(max_examples=1000)
def test_whatever_the_scan_lets_through_is_what_would_be_written(data: bytes) -> None:
    try:
        scan(data)
        value = cbor2.loads(data)
    except (ContractError, cbor2.CBORDecodeError, ValueError):
        return
    assert _bytes(value) == data


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    for packed in (b"\xfb" + struct.pack(">d", number), b"\xf9" + struct.pack(">e", number)):
        command = _plain(
            Command(id=ID, name="report", issued_ms=1, expires_ms=2, arguments={"x": 0.5})
        )
        data = _bytes(command).replace(b"\xf9" + struct.pack(">e", 0.5), packed)
        assert data != _bytes(command)
        with pytest.raises(ContractError, match="finite"):
            decode(data)
    with pytest.raises(ContractError, match="arguments"):
        Command(id=ID, name="report", issued_ms=1, expires_ms=2, arguments={"x": number})


def test_a_second_encoding_of_the_same_message_is_refused() -> None:
    fields = _plain(NACK)
    unsorted = cbor2.dumps(dict(reversed(fields.items())))
    assert cbor2.loads(unsorted) == fields
    twice = b"\xa7" + encode(NACK)[1:] + cbor2.dumps("v") + b"\x01"
    long_number = encode(NACK).replace(b"\x61v\x01", b"\x61v\x18\x01")
    assert cbor2.loads(twice) == cbor2.loads(long_number) == fields
    for data in (unsorted, twice, long_number):
        with pytest.raises(ContractError, match="deterministically"):
            decode(data)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ([], "a map"),
        ({}, "v: is None"),
        ({"v": 2, "type": "nack"}, r"v: is 2 \(expected 1\)"),
        ({"v": True, "type": "nack"}, "v: is True"),
        ({"v": 1.0, "type": "nack"}, "v: is 1.0"),
        ({"v": 1}, "type: is None"),
        ({"v": 1, "type": ["nack"]}, "type: is of type list"),
        ({"v": 1, "type": "bomb"}, "type: is 'bomb'"),
        ({"v": 1, "type": "receipt", "ids": "x"}, "receipt: ids: is 'x'"),
        ({"v": 1, "type": "receipt", "ids": [ID, "x"]}, r"receipt: ids\[1\]: is 'x'"),
        ({"v": 1, "type": "receipt", "ids": []}, "length 1 to 1 000"),
        ({"v": 1, "type": "receipt", "ids": [ID], "extra": 3}, None),
        ({"v": 1, "type": "death", "session": True}, "a whole number"),
        ({"v": 1, "type": "death", "session": -1}, r"0 to 2\^53"),
        ({"v": 1, "type": "death", "session": 1.0}, "a whole number"),
        ({"v": 1, "type": "birth", "model": {"name": 3}}, "birth: "),
    ],
)
def test_a_refusal_names_message_field_and_what_was_expected(
    fields: object, problem: str | None
) -> None:
    if problem is None:
        assert decode(_bytes(fields)).extra == {"extra": 3}
        return
    with pytest.raises(ContractError, match=problem):
        decode(_bytes(fields))


def test_a_message_that_is_not_expected_here_is_refused() -> None:
    data = encode(NACK)
    assert decode(data, allowed=(Receipt, Nack)) == NACK
    with pytest.raises(ContractError, match=r"type: is nack \(expected receipt or death\)"):
        decode(data, allowed=(Receipt, Death))


def test_size_is_limited_before_anything_is_read() -> None:
    with pytest.raises(ContractError, match="at most"):
        decode(bytes(MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ContractError, match=r"nack: has \d+ bytes"):
        encode(NACK, limit=20)


def test_extra_cannot_pretend_to_be_a_field() -> None:
    for name in ("v", "type", "id"):
        with pytest.raises(ContractError, match="the name of a field"):
            replace(NACK, extra={name: 1})


def test_without_cbor2_the_error_names_the_extra() -> None:
    code = f"""
import sys
sys.modules["cbor2"] = None
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.messages import Death
from edge_runtime.errors import ConfigError
for call in (lambda: encode(Death(session=1)), lambda: decode({encode(NACK)!r})):
    try:
        call()
    except ConfigError as error:
        assert "vitconformer[agent]" in str(error)
    else:
        raise SystemExit("no error")
"""
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0
