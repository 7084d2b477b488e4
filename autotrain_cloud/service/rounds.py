"""Parts of a service, one after the other, again and again: trouble of one is not that of others.

What a part raises on purpose, for a database that does not answer or a missing file, leaves what is
due due; the next round tries again, and a person reads of it once, not every two seconds.
Anything else is a mistake in the code: it ends the service, and whoever supervises it starts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_runtime.errors import EdgeError


class Rounds:
    """`say` gets a line when a part begins to fail, fails otherwise, or works again."""

    def __init__(
        self, parts: Mapping[str, Callable[[int], object]], say: Callable[[str], object]
    ) -> None:
        self._parts = parts
        self._say = say
        self._trouble = dict.fromkeys(parts, "")

    def go(self, now_ms: int) -> None:
        """One round."""
        for name, part in self._parts.items():
            trouble = ""
            try:
                part(now_ms)
            except EdgeError as error:
                trouble = str(error)
            if trouble != self._trouble[name]:
                self._say(f"{name}: {trouble}; trying again" if trouble else f"{name}: works again")
                self._trouble[name] = trouble
