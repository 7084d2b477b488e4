"""Messages larger than a packet, in parts.

The parts are cut from the encoded message, so nothing in it has to know. Each carries the digest of
the whole; what comes out of an assembly is what went in, whatever arrived how often in what order.
"""

from __future__ import annotations

import hashlib

from edge_runtime.contract.codec import MAX_PACKET_BYTES
from edge_runtime.contract.messages import Part
from edge_runtime.errors import ContractError

OVERHEAD_BYTES = 256  # of a part beyond its data; a test holds it to that


def split(
    segment_id: str, data: bytes, *, packet_bytes: int = MAX_PACKET_BYTES
) -> tuple[Part, ...]:
    """The parts of an encoded message; each encodes to at most `packet_bytes`.

    Raises ContractError where the message is so large, or the packets so small, that it takes more
    parts than the contract has; ValueError where one packet is enough.
    """
    if len(data) <= packet_bytes:
        raise ValueError("fits into one packet")
    room = packet_bytes - OVERHEAD_BYTES
    if room < 1:
        raise ContractError(f"is {packet_bytes}", field="packet_bytes", expected="more")
    digest = hashlib.sha256(data).digest()
    pieces = [data[start : start + room] for start in range(0, len(data), room)]
    return tuple(
        Part(
            id=segment_id,
            index=index,
            count=len(pieces),
            size=len(data),
            sha256=digest,
            data=piece,
        )
        for index, piece in enumerate(pieces)
    )


class Assembly:
    """One message being put together. Holds no more bytes than the message has."""

    def __init__(self, first: Part) -> None:
        self._like = (first.id, first.count, first.size, first.sha256)
        self._pieces: dict[int, bytes] = {}

    def add(self, part: Part) -> bytes | None:
        """The message, once its last part is there. A part may come again.

        Raises ContractError for a part of something else, and where the parts do not make up the
        message that they promised: then none of them is kept, and all must be sent again.
        """
        if (part.id, part.count, part.size, part.sha256) != self._like:
            raise ContractError("belongs to another message", message=part.type, field="sha256")
        held = sum(len(piece) for index, piece in self._pieces.items() if index != part.index)
        if held + len(part.data) > part.size:
            self._pieces.clear()
            raise ContractError("has more bytes than promised", message=part.type, field="size")
        self._pieces[part.index] = part.data
        if len(self._pieces) < part.count:
            return None
        data = b"".join(self._pieces[index] for index in range(part.count))
        self._pieces.clear()
        if len(data) != part.size or hashlib.sha256(data).digest() != part.sha256:
            raise ContractError("differs from what was promised", message=part.type, field="sha256")
        return data
