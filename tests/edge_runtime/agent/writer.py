"""A process to be killed: puts segments, delivers some, and says so only after each call returned.

Run as `python -m tests.edge_runtime.agent.writer DIRECTORY SEED`.
"""

from __future__ import annotations

import os
import random
import sys

from edge_runtime.agent.outbox import Outbox
from tests.edge_runtime.agent.items import item


def main(directory: str, seed: int) -> None:
    rng = random.Random(seed)
    with Outbox.open(directory, quota_bytes=1 << 30) as outbox:
        os.write(1, b"open\n")
        mine: list[str] = []
        while True:
            entry = item(rng.getrandbits(128), payload=rng.randbytes(rng.randrange(1, 60_000)))
            assert outbox.put(entry, now_ms=1) == "kept"
            os.write(1, f"put {entry.id}\n".encode())
            mine.append(entry.id)
            if rng.random() < 0.3:
                id = mine.pop(rng.randrange(len(mine)))
                os.write(1, f"begin {id}\n".encode())
                assert outbox.delivered([id], now_ms=2) == 1
                os.write(1, f"delivered {id}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
