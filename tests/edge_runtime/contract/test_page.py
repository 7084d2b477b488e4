"""The protocol page is what the contract says, today."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.contract.fields import fields_of
from edge_runtime.contract.messages import MESSAGES
from edge_runtime.contract.page import page

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"


def test_the_protocol_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "write it again: python -m edge_runtime.contract.page > docs/protocol.md"
    )


def test_every_message_and_field_is_on_the_page_with_its_comment() -> None:
    text = page()
    for kind in MESSAGES.values():
        section = text.split(f"### `{kind.type}`\n")[1].split("\n###")[0]
        rows = [line for line in section.split("\n") if line.startswith("| `")]
        assert [row.split("`")[1] for row in rows] == [field.name for field in fields_of(kind)]
        assert all(row.rstrip(" |").rsplit("|", 1)[1].strip() for row in rows), kind.type
