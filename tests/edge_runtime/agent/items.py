"""Segments for an outbox."""

from __future__ import annotations

from edge_runtime.agent.outbox import Item


def item(
    number: int,
    *,
    payload: bytes = b"payload",
    value: float = 0.5,
    consent: str = "c-1",
    expires_ms: int = 1000,
) -> Item:
    """One whose id is `number`."""
    return Item(
        id=f"{number:032x}",
        consent=consent,
        value=value,
        inclusion_probability=0.25,
        expires_ms=expires_ms,
        payload=payload,
    )
