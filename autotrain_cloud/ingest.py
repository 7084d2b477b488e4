"""What devices say, into the store: a batch of packets, one transaction, and what to answer.

    outgoing = ingest.commit(packets, now_ms=now)      # StorageError: nothing happened, try again
    ...                                                # acknowledge the packets, publish `outgoing`

No sockets and no clocks here; the shell is ingest_mqtt.py. Rules:

* Every packet may come any number of times, in any order. A segment is one row, whatever happens.
* A receipt is written by the transaction that keeps what it is for, so it cannot be early; it is
  written again when the segment comes again, so it cannot be lost.
* What is refused for good is kept as a dead letter, with the reason, and the device is told by a
  nack if the bytes say what they are about. Only of what was erased nothing is kept.
* Bytes that the store itself cannot take are found out by trying them alone, and become a dead
  letter. So nothing that a device sends can stop the others.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, func, select

from autotrain_cloud import ingest_rows as rows
from autotrain_cloud.settings import IngestSettings, RetentionSettings
from autotrain_cloud.store import Store, assignments, consents, devices, erasure, outbox, spool
from autotrain_cloud.store.outbox import Outgoing
from autotrain_cloud.store.plain import clean
from autotrain_cloud.store.schema import (
    dead_letters,
    incidents,
    lost,
    parts,
    replies,
    telemetry,
    updates,
)
from autotrain_cloud.store.sql import insert_new, rows_in, upsert
from edge_runtime.contract.codec import MAX_MESSAGE_BYTES, decode, encode, glance, peek
from edge_runtime.contract.glimpse import Bytes
from edge_runtime.contract.messages import (
    Birth,
    Death,
    Erased,
    Lost,
    Message,
    Nack,
    Part,
    Receipt,
    Reply,
    Segment,
    Telemetry,
    UpdateReport,
)
from edge_runtime.contract.parts import Assembly
from edge_runtime.contract.records import SEGMENT_ID
from edge_runtime.contract.topics import parse_topic, topic_of
from edge_runtime.errors import ContractError, StorageError

log = logging.getLogger(__name__)

RECEIPT_IDS = 1000  # in one message
SEEN_MS = 60_000  # how exactly it is known when a device last said something
KNOWN_DEVICES = 100_000  # that are remembered, so as not to look them up
STAGED_BYTES = 16_000_000  # of one device's parts; then its oldest go, to be sent again

Packet = tuple[str, Bytes]  # topic, payload


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not accepted. Not permanent: the device offers it again."""

    reason: str
    detail: str = ""
    permanent: bool = True


# Of a segment that was recognised: all but its payload, plain, so that it can be sent on.
Sketch = tuple[Any, ...]


class Judged(NamedTuple):
    """A packet, as far as it can be judged by itself."""

    topic: str
    payload: Bytes
    device: str | None = None
    message: Message | None = None
    id: str | None = None  # what an answer would be about
    consent: str | None = None
    refusal: Refusal | None = None
    segment: rows.Offered | None = None  # in place of a message


def sketch(topic: str, payload: Bytes) -> Sketch | None:
    """Of a segment in which nothing is wrong, if that can be seen at a glance; else `judge` it."""
    try:
        channel, device = parse_topic(topic)
    except ContractError:
        return None
    seen = glance(payload) if Segment in channel.carries and channel.writer == "device" else None
    if seen is None:
        return None
    fields, found = seen
    if hashlib.sha256(payload[found.audio]).digest() != fields["audio_sha256"]:
        return None
    audio, words = (found.audio.start, found.audio.stop), (found.words.start, found.words.stop)
    offered = rows.offered(device or "", fields, audio)
    return (device, fields["id"], fields["consent"], words, *offered[:-1])


def judge(topic: str, payload: Bytes) -> Judged:
    """What a packet is, and whether anything in it is wrong. Raises nothing."""
    return judge_sketched(topic, payload, sketch(topic, payload))


def judge_sketched(topic: str, payload: Bytes, sketched: Sketch | None) -> Judged:
    """The same for a packet of which `sketch` gave this, in another process perhaps."""
    if sketched is not None:
        device, id, consent, (start, end), *row = sketched
        offered = rows.Offered._make((*row, bytes(payload[start:end])))
        return Judged(topic, payload, device, None, id, consent, None, offered)
    device, payload = None, bytes(payload)
    try:
        channel, device = parse_topic(topic)
        if channel.writer != "device":
            raise ContractError(f"is {channel.name}", field="topic", expected="a device's topic")
        message = decode(payload, allowed=channel.carries)
    except ContractError as error:
        large = len(payload) > MAX_MESSAGE_BYTES
        newer = error.field == "v"  # this side is to be updated, and then takes it
        reason = "too-large" if large else "unsupported" if newer else "malformed"
        refusal = Refusal(reason, str(error), permanent=not newer)
        id = _id_at_front(payload) if large else peek(payload, "id")
        if id is not None and re.fullmatch(SEGMENT_ID.regex, id, re.ASCII) is None:
            id = None
        consent = None if large else peek(payload, "consent")  # so that erasing it finds this
        return Judged(topic, payload, device, id=id, consent=consent, refusal=refusal)
    return _judge_message(topic, payload, device, message)


def _id_at_front(payload: bytes) -> str | None:
    """Of something too large to be looked through: deterministic CBOR has short names first."""
    found = re.search(rb"\x62id\x78\x20([0-9a-f]{32})", payload[:200])
    return found[1].decode() if found else None


def _judge_message(topic: str, payload: bytes, device: str | None, message: Message) -> Judged:
    if isinstance(message, Segment):
        refusal = None
        if hashlib.sha256(message.audio).digest() != message.audio_sha256:
            refusal = Refusal("digest-mismatch", "audio_sha256 is that of other audio")
        offered = rows.offered_message(device or "", message, payload)
        return Judged(topic, payload, device, None, message.id, message.consent, refusal, offered)
    id = message.id if isinstance(message, Part | Lost) else None
    return Judged(topic, payload, device, message, id)


class Ingest:
    """See the module. One thread uses it."""

    def __init__(
        self,
        store: Store,
        settings: IngestSettings,
        retention: RetentionSettings,
    ) -> None:
        self._store = store
        self._settings = settings
        self._retention = retention
        self._seen: dict[str, int] = {}  # known devices -> when that was last written
        self._granted: set[tuple[str, str]] = set()  # device, consent

    def commit(
        self, packets: Sequence[Packet], *, now_ms: int, finished: Collection[int] = ()
    ) -> list[Outgoing]:
        """Keeps a batch, all of it or nothing, and forgets the outgoing rows `finished`.

        -> what is to be published now. Raises StorageError: try again later.
        """
        judged = [judge(topic, payload) for topic, payload in packets]
        return self.commit_judged(judged, now_ms=now_ms, finished=finished)

    def commit_judged(
        self, judged: list[Judged], *, now_ms: int, finished: Collection[int] = ()
    ) -> list[Outgoing]:
        """The same for packets that have been judged."""
        try:
            return self._transaction(judged, now_ms, finished)
        except StorageError:
            raise
        except Exception:
            log.exception("a batch of %d cannot be stored: one by one", len(judged))
        outgoing = self._transaction([], now_ms, finished)
        for each in judged:
            try:
                outgoing += self._transaction([each], now_ms, ())
            except StorageError:
                raise
            except Exception as error:
                log.exception("kept as a dead letter: a packet on %s", each.topic)
                why = Refusal("unstorable", _line(f"{type(error).__name__}: {error}"))
                outgoing += self._bury(each, why, now_ms)
        return outgoing

    def claim(self, *, now_ms: int) -> list[Outgoing]:
        """What others have left to be published. Raises StorageError."""
        with self._store.begin() as db:
            return outbox.claim(db, self._settings.worker, now_ms=now_ms)

    def begin(self, *, now_ms: int, broker_forgot: bool) -> list[Outgoing]:
        """What is to be published after a connection: what is unfinished, and what is retained."""
        with self._store.begin() as db:
            if broker_forgot:
                consents.republish(db, now_ms=now_ms)
                assignments.republish(db, now_ms=now_ms)
            outbox.claim(db, self._settings.worker, now_ms=now_ms, limit=100_000)
            return outbox.unfinished(db, self._settings.worker)

    def _transaction(
        self, judged: list[Judged], now_ms: int, finished: Collection[int]
    ) -> list[Outgoing]:
        batch = _Batch(judged, now_ms)
        try:
            return self._in_one(batch, judged, now_ms, finished)
        except Exception:
            if batch.writing is not None:
                wait([batch.writing.done])
                with suppress(StorageError):  # else it is swept
                    spool.abandon(self._store, batch.writing.pack)
            raise

    def _in_one(
        self, batch: _Batch, judged: list[Judged], now_ms: int, finished: Collection[int]
    ) -> list[Outgoing]:
        seen: dict[str, int] = {}
        with self._store.begin() as db:
            erasure.among_others(db)
            outbox.finish(db, finished)
            if judged:
                seen = self._refuse_strangers(db, batch)
                self._assemble(db, batch)
                self._refuse_unwanted(db, batch)
                self._keep_segments(db, batch)
                for each in batch.open():
                    _keep(db, each.device or "", each.message, batch)
                _keep_dead_letters(db, batch)
            answers = [(topic, encode(answer), False) for topic, answer in batch.answers()]
            outgoing = outbox.post_encoded(db, answers, self._settings.worker, now_ms=now_ms)
            if batch.writing is not None:
                batch.writing.done.result()
        self._seen.update(seen)  # only now: before, it might still have been undone
        while len(self._seen) > KNOWN_DEVICES:
            self._seen.pop(next(iter(self._seen)))
        return outgoing

    def _bury(self, each: Judged, why: Refusal, now_ms: int) -> list[Outgoing]:
        refused = Judged(each.topic, each.payload, each.device, None, each.id, each.consent, why)
        return self._transaction([refused], now_ms, ())

    def _refuse_strangers(self, db: Connection, batch: _Batch) -> dict[str, int]:
        """New devices are taken in, or not; -> those that are now noted as seen, and when."""
        names = {each.device for each in batch.judged if each.device is not None}
        new = {name for name in names if name not in self._seen}
        if new and not self._settings.register_devices:
            strangers = new - devices.known(db, new)
            for each in batch.open():
                if each.device in strangers:
                    why = Refusal("unknown-device", "not in the list of devices", permanent=False)
                    batch.refuse(each, why)
            names -= strangers
            new -= strangers
        devices.register(db, new, now_ms=batch.now_ms)
        due = {name for name in names if self._seen.get(name, 0) + SEEN_MS <= batch.now_ms}
        devices.seen(db, due, now_ms=batch.now_ms)
        return dict.fromkeys(due, batch.now_ms)

    def _assemble(self, db: Connection, batch: _Batch) -> None:
        """Stages parts; what has become whole joins the batch."""
        arrived = [(each, each.message) for each in batch.open() if isinstance(each.message, Part)]
        if not arrived:
            return
        stage = insert_new(db, parts)
        owners = {each.device or "" for each, _ in arrived}
        for each, part in arrived:
            db.execute(stage, rows.part(each.device or "", part, now_ms=batch.now_ms))
            batch.done(each)
        for key in dict.fromkeys(_part_key(each.device or "", part) for each, part in arrived):
            of_message = and_(
                *(column == value for column, value in zip(_PART_KEY, key, strict=True))
            )
            staged = select(parts.c.number, parts.c.data).where(of_message)
            found = db.execute(staged.order_by(parts.c.number)).all()
            if len(found) < key[4]:
                continue
            db.execute(delete(parts).where(of_message))
            batch.add(_put_together(key, [(row.number, bytes(row.data)) for row in found]))
        _limit_staging(db, owners)

    def _refuse_unwanted(self, db: Connection, batch: _Batch) -> None:
        """What was erased, and what was recorded under a consent that nobody gave."""
        offered = batch.segments()
        if not offered:
            return
        if graves := _graves(db, offered):
            for each, segment in offered:
                if _is_erased(graves, each, segment):
                    batch.refuse(each, Refusal("erased"))
        if not self._settings.check_consent:
            return
        wanted = {(each.device or "", each.consent or "") for each, _ in offered}
        if missing := wanted - self._granted:
            self._granted |= missing & consents.granted(db, {device for device, _ in missing})
        for each, _ in offered:
            if (each.device, each.consent) not in self._granted and batch.is_open(each):
                batch.refuse(each, Refusal("unknown-consent", f"{each.consent}: never granted"))

    def _keep_segments(self, db: Connection, batch: _Batch) -> None:
        first: dict[str, tuple[Judged, rows.Offered]] = {}
        offered = batch.segments()
        for each, segment in offered:
            first.setdefault(each.id or "", (each, segment))
        if not first:
            return
        now_ms = batch.now_ms
        audio = {
            segment.digest: each.payload[slice(*segment.audio)] for each, segment in first.values()
        }
        batch.writing = spool.keep(db, self._store, audio, now_ms=now_ms)
        kept = [segment for _, segment in first.values()]
        there = {id: (each.device, segment.digest) for id, (each, segment) in first.items()}
        days_of = self._retention.days_of
        if rows.insert_segments(db, kept, now_ms=now_ms, days_of=days_of) < len(kept):
            found = rows_in(db, "SELECT id, device, audio FROM segments WHERE id IN {}", there)
            there = {row.id: (row.device, row.audio) for row in found}
        strays = set()
        for each, segment in offered:
            if there[each.id or ""] == (each.device, segment.digest):
                batch.accept(each)
            else:
                batch.refuse(each, Refusal("digest-mismatch", "another segment has this id"))
                strays.add(segment.digest)
        spool.doom(db, strays)


class _Batch:
    """A batch on its way through: what is still open, what was refused, what to answer."""

    def __init__(self, judged: list[Judged], now_ms: int) -> None:
        self.judged = list(judged)
        self.now_ms = now_ms
        self.refused: list[tuple[Judged, Refusal]] = []
        self.writing: spool.Writing | None = None  # its audio
        self._open: dict[int, Judged] = {}
        self._accepted: dict[str, dict[str, None]] = defaultdict(dict)
        self._nacks: list[tuple[str, Nack]] = []
        for each in judged:
            self._take(each)

    def _take(self, each: Judged) -> None:
        self._open[id(each)] = each
        if each.refusal is not None:
            self.refuse(each, each.refusal)

    def add(self, each: Judged) -> None:
        self.judged.append(each)
        self._take(each)

    def open(self) -> list[Judged]:
        return list(self._open.values())

    def segments(self) -> list[tuple[Judged, rows.Offered]]:
        return [(each, each.segment) for each in self.open() if each.segment is not None]

    def is_open(self, each: Judged) -> bool:
        return id(each) in self._open

    def done(self, each: Judged) -> None:
        self._open.pop(id(each), None)

    def accept(self, each: Judged) -> None:
        self.done(each)
        if each.device is not None and each.id is not None:
            self.receipt(each.device, each.id)

    def receipt(self, device: str, id: str) -> None:
        self._accepted[device][id] = None

    def refuse(self, each: Judged, why: Refusal) -> None:
        self.done(each)
        self.refused.append((each, why))
        if each.device is not None and each.id is not None:
            nack = Nack(
                id=each.id, permanent=why.permanent, reason=why.reason, detail=_line(why.detail)
            )
            self._nacks.append((each.device, nack))

    def answers(self) -> Iterable[tuple[str, Receipt | Nack]]:
        for device, ids in self._accepted.items():
            listed = list(ids)
            for start in range(0, len(listed), RECEIPT_IDS):
                some = tuple(listed[start : start + RECEIPT_IDS])
                yield topic_of("receipt", device), Receipt(ids=some)
        for device, nack in self._nacks:
            yield topic_of("receipt", device), nack


def _keep(db: Connection, device: str, message: Message | None, batch: _Batch) -> None:
    """Everything but segments and parts."""
    now_ms = batch.now_ms
    match message:
        case Lost():
            if gone := list(rows.lost(device, message, now_ms=now_ms)):
                db.execute(insert_new(db, lost), gone)
            if lines := list(rows.incidents(device, message, now_ms=now_ms)):
                db.execute(insert_new(db, incidents), lines)
            batch.receipt(device, message.id)
        case Telemetry():
            row = rows.telemetry(device, message, now_ms=now_ms)
            if db.execute(insert_new(db, telemetry), row).rowcount:
                devices.runs(db, device, message.session, message.model)
        case Birth():
            devices.born(db, device, message)
            erasure.remind(db, device, now_ms=now_ms)
        case Death():
            devices.died(db, device, message)
        case UpdateReport():
            row = rows.update(device, message, now_ms=now_ms)
            if db.execute(insert_new(db, updates), row).rowcount and message.running:
                devices.runs(db, device, message.session, message.running)
        case Erased():
            erasure.answered(db, device, message, now_ms=now_ms)
        case Reply():
            db.execute(insert_new(db, replies), rows.reply(device, message, now_ms=now_ms))
        case _:
            raise AssertionError(message)


def _keep_dead_letters(db: Connection, batch: _Batch) -> None:
    for each, why in batch.refused:
        if not why.permanent and why.reason != "unsupported":
            continue  # it stays on the device
        statement = upsert(db, dead_letters)
        again = statement.on_conflict_do_update(
            index_elements=["topic", "digest", "reason"],
            set_={"times": dead_letters.c.times + 1, "last_ms": batch.now_ms},
        )
        kept = b"" if why.reason == "erased" else bytes(each.payload)
        row = {
            "topic": clean(each.topic),
            "device": each.device,
            "id": each.id,
            "consent": each.consent and clean(each.consent),
            "reason": why.reason,
            "detail": clean(why.detail),
            "digest": hashlib.sha256(each.payload).hexdigest(),
            "size": len(each.payload),
            "payload": kept,
            "times": 1,
            "first_ms": batch.now_ms,
            "last_ms": batch.now_ms,
        }
        db.execute(again, row)


# Parts.

_PART_KEY = (parts.c.device, parts.c.id, parts.c.sha256, parts.c.size, parts.c.count)


def _part_key(device: str, part: Part) -> tuple[str, str, str, int, int]:
    return device, part.id, part.sha256.hex(), part.size, part.count


def _put_together(key: tuple[str, str, str, int, int], pieces: list[tuple[int, bytes]]) -> Judged:
    """The message that the parts make up, as if it had come in one packet."""
    device, id, digest, size, count = key
    topic = topic_of("segment", device)
    whole = b"".join(data for _, data in pieces)
    try:
        assembly, found = None, None
        for number, data in pieces:
            part = Part(
                id=id, index=number, count=count, size=size, sha256=bytes.fromhex(digest), data=data
            )
            assembly = assembly or Assembly(part)
            found = assembly.add(part)
        if found is None:
            raise ContractError("is incomplete", message="part")
    except ContractError as error:  # damaged on the way: the device sends it again
        why = Refusal("malformed", str(error), permanent=False)
        return Judged(topic, whole, device, id=id, refusal=why)
    try:
        message = decode(found, allowed=(Segment,))
    except ContractError as error:
        return Judged(topic, found, device, id=id, refusal=Refusal("malformed", str(error)))
    judged = _judge_message(topic, found, device, message)
    if judged.id != id:
        why = Refusal("malformed", "the parts carry another id than the segment")
        return Judged(topic, found, device, id=id, refusal=why)
    return judged


def _limit_staging(db: Connection, owners: Collection[str]) -> None:
    sizes = select(parts.c.device, func.sum(func.length(parts.c.data)).label("bytes"))
    by_device = sizes.where(parts.c.device.in_(owners)).group_by(parts.c.device)
    for row in db.execute(by_device).all():
        if row.bytes <= STAGED_BYTES:
            continue
        oldest = (
            select(parts.c.id)
            .where(parts.c.device == row.device)
            .group_by(parts.c.id)
            .order_by(func.min(parts.c.received_ms), parts.c.id)
            .limit(1)
        )
        id = db.scalar(oldest)
        db.execute(delete(parts).where(parts.c.device == row.device, parts.c.id == id))
        log.warning("%s: too many unfinished segments; %s has to be sent again", row.device, id)


# What was erased.


def _graves(
    db: Connection, offered: list[tuple[Judged, rows.Offered]]
) -> dict[tuple[str, str, str], int]:
    ids = [each.id for each, _ in offered]
    names = {each.consent for each, _ in offered}
    owners = {each.device for each, _ in offered}
    found = rows_in(db, _GRAVES, ids, names, owners)
    return {(row.kind, row.key, row.device): row.at_ms for row in found}


_GRAVES = " UNION ALL ".join(
    f"SELECT kind, key, device, at_ms FROM tombstones WHERE kind = '{kind}' AND key IN {{}}"
    for kind in ("segment", "consent", "device")
)


def _is_erased(
    graves: dict[tuple[str, str, str], int], each: Judged, segment: rows.Offered
) -> bool:
    return (
        ("segment", each.id, "") in graves
        or ("consent", each.consent, "") in graves
        or ("consent", each.consent, each.device) in graves
        or segment.captured_ms <= graves.get(("device", each.device or "", ""), -1)
    )


def _line(text: str) -> str:
    return text.encode("ascii", "replace").decode()[:500]
