"""Files over HTTP: from any byte on, at a bounded rate, from servers that may be slow or wrong.

Any static file server will do; one that ignores `Range` costs bytes twice but works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edge_runtime.ota.errors import SourceError

_BLOCK = 1 << 16  # bytes asked for at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class LineLimits:
    """What a download may take and must give."""

    timeout_s: float = 20.0  # without a byte
    least_bytes_per_s: float = 1000.0  # over `patience_s`: a trickle can hold an update up for ever
    patience_s: float = 30.0
    most_bytes_per_s: float = 0.0  # 0: as fast as the line is


class HttpSource:
    """A repository at a URL; `get` is what updates fetch with."""

    def __init__(
        self,
        url: str,
        limits: LineLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/") + "/"
        self._limits = limits or LineLimits()
        self._clock, self._sleep = clock, sleep
        import urllib3

        self._pool: Any = urllib3.PoolManager(
            timeout=urllib3.Timeout(self._limits.timeout_s), retries=False
        )

    def get(self, path: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `start` on.

        Raises SourceError, with `status` where the server answered: 404 is for good, others may
        pass.
        """
        import urllib3

        url = path if "://" in path else self.url + path
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = self._pool.request("GET", url, headers=headers, preload_content=False)
            try:
                if answer.status == 416 and start:  # nothing is left from there on
                    return
                if answer.status not in (200, 206):
                    raise SourceError(f"{url}: answers {answer.status}", status=answer.status)
                skip = start if answer.status == 200 else 0
                for block in self._paced(url, iter(lambda: answer.read1(_BLOCK), b"")):
                    kept = block[skip:]
                    skip = max(0, skip - len(block))
                    if kept:
                        yield kept
            finally:
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise SourceError(f"{url}: cannot be reached: {error}") from error

    def _paced(self, url: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
        limits, began, received = self._limits, self._clock(), 0
        since, since_bytes = began, 0
        for block in blocks:
            yield block
            received += len(block)
            since_bytes += len(block)
            now = self._clock()
            if now - since >= limits.patience_s:
                if since_bytes < limits.least_bytes_per_s * (now - since):
                    raise SourceError(
                        f"{url}: {since_bytes / (now - since):.0f} bytes a second are too slow "
                        f"(at least {limits.least_bytes_per_s:.0f})",
                        attack="slow retrieval",
                    )
                since, since_bytes = now, 0
            if limits.most_bytes_per_s:
                ahead = received / limits.most_bytes_per_s - (now - began)
                if ahead > 0:
                    self._sleep(ahead)
