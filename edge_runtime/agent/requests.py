"""What the cloud, or somebody at the device, wants of the agent: consent, erasure, commands."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edge_runtime.agent.clock import now_ms
from edge_runtime.agent.consent import Consents
from edge_runtime.agent.outbox import Outbox
from edge_runtime.agent.problems import Problems
from edge_runtime.contract.messages import (
    Assignment,
    Command,
    Consent,
    Erase,
    Erased,
    Message,
    Reply,
)
from edge_runtime.errors import EdgeError, StorageError

log = logging.getLogger("edge_runtime.agent")

REMEMBERED = 1000  # commands, so that the second arrival of one does nothing

Carry = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # arguments -> result; raises EdgeError


class Requests:
    """One thread at a time, but for `erase`."""

    def __init__(
        self,
        *,
        consents: Consents,
        outbox: Callable[[], Outbox | None],
        problems: Problems,
        commands: Mapping[str, Carry],
        assign: Callable[[Assignment], None],
        say: Callable[[Message], None],
    ) -> None:
        self._consents = consents
        self._outbox = outbox
        self._problems = problems
        self._commands = commands
        self._assign = assign
        self._say = say
        self._replies: OrderedDict[str, Reply] = OrderedDict()

    def handle(self, message: Consent | Erase | Assignment | Command) -> None:
        """What fails stands in the status; the cloud repeats what it is not answered."""
        with self._problems.watching(message.type):
            match message:
                case Consent():
                    self._consent(message)
                case Erase():
                    count = self.erase(segments=message.segments, consents=message.consents)
                    self._say(Erased(request=message.id, segments=count, at_ms=now_ms()))
                case Assignment():
                    self._assign(message)
                case Command():
                    self._command(message)

    def erase(self, *, segments: Iterable[str] = (), consents: Iterable[str] = ()) -> int:
        """Deletes these; -> how many were here. Raises StorageError."""
        outbox = self._outbox()
        if outbox is None:
            raise StorageError("there is no outbox: nothing could be erased")
        count = outbox.erase(segments=segments, consents=consents, now_ms=now_ms())
        log.info("erased %d segments on request", count)
        return count

    def erase_all(self) -> int:
        """Deletes all that waits, whatever it is."""
        outbox = self._outbox()
        if outbox is None:
            raise StorageError("there is no outbox: nothing could be erased")
        return self.erase(segments=outbox.recorded_under())

    def _consent(self, message: Consent) -> None:
        try:
            if self._consents.hear(message):
                granted = "granted" if message.granted else "withdrawn"
                log.info("consent %s, version %d: %s", message.id, message.version, granted)
        finally:
            if not message.granted:
                self.withdraw(message.id)

    def withdraw(self, consent: str) -> None:
        """What was recorded under it and is still here never leaves the device.

        By segment, so that the same consent may be granted again later. Raises StorageError.
        """
        outbox = self._outbox()
        if outbox is not None and (ids := outbox.recorded_under(consent)):
            self.erase(segments=ids)

    def _command(self, message: Command) -> None:
        reply = self._replies.get(message.id)
        if reply is None:
            reply = self._carried_out(message)
            self._replies[message.id] = reply
            if len(self._replies) > REMEMBERED:
                self._replies.popitem(last=False)
        self._say(reply)

    def _carried_out(self, message: Command) -> Reply:
        if now_ms() > message.expires_ms:
            return Reply(command=message.id, ok=False, detail="it has expired, by my clock")
        command = self._commands.get(message.name)
        if command is None:
            known = ", ".join(sorted(self._commands))
            return Reply(command=message.id, ok=False, detail=f"not known here; known: {known}")
        log.info("command %s: %s", message.id, message.name)
        try:
            return Reply(command=message.id, ok=True, result=dict(command(message.arguments)))
        except EdgeError as error:
            return Reply(command=message.id, ok=False, detail=str(error)[:500])
