# ruff: noqa: E501  (statements of SQL)
"""A store as that of a fleet of some age, for `api.py`: made by SQL in minutes, not by devices.

What matters for queries is as it would be: devices that speak much and others that hardly do, slices
of one device and of a thousand, retired ones whose segments are all old, models that follow one
another over the fleet, languages that nearly nobody speaks, texts of which some come again and
again, and labels of teachers and people, several of a segment. Ids, times and digests have their
real form. Audio is shared by all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from autotrain_cloud.gate import ledger
from autotrain_cloud.pipeline.record import Plan as RunPlan
from autotrain_cloud.pipeline.record import Run, Runs, StepRecord
from autotrain_cloud.plain import to_json
from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.rollout.log import Entry
from autotrain_cloud.rollout.plan import Plan, Release
from autotrain_cloud.rollout.states import OVER
from autotrain_cloud.store import Store, schema, spool
from autotrain_cloud.store.migrations import VERDICTS, apply
from autotrain_cloud.store.sql import insert_many
from edge_runtime.contract.codec import pack
from edge_runtime.contract.messages import UpdateReport
from edge_runtime.contract.records import Model

DAY_MS = 86_400_000
SPAN_MS = 120 * DAY_MS  # from the first segment to the newest
SITES = ("atrium", "barn", "cellar", "deck", "entry", "forge", "garage", "hall", "island", "jetty",
         "kitchen", "loft", "mill", "nursery", "office", "porch", "quay", "rink", "studio", "tower")  # fmt: skip
RELEASES = ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5")
AUDIO_BYTES = 20_000
PIECES = 16  # of audio, that all segments share
PHRASES = 5000
STEP = 100_000  # segments of one statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much there is of what."""

    devices: int = 10_000
    segments: int = 1_000_000
    telemetry: int = 500_000
    events: int = 200_000
    tombstones: int = 60_000
    dead_letters: int = 20_000
    alarms: int = 3000
    erasures: int = 200
    datasets: int = 120
    members: int = 5000  # of a data set; of the largest forty times as many
    models: int = 130
    rollouts: int = 8  # the newest is under way
    runs: int = 500


def fill(store: Store, folder: Path, sizes: Sizes, *, now_ms: int) -> None:
    """`store`: an empty one in PostgreSQL; runs and the ledger are made in `folder`."""
    with store.begin() as db:
        db.exec_driver_sql("SET LOCAL synchronous_commit = off")
        db.exec_driver_sql("SET LOCAL session_replication_role = replica")  # no foreign keys
        db.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather = 0")
        db.exec_driver_sql("SELECT setseed(0.25)")
        _audio(db, store, now_ms)
        with _without_indexes(db):
            _devices(db, sizes, now_ms)
            _segments(db, sizes, now_ms)
            _labels(db, sizes, now_ms)
            apply(db, VERDICTS)
            _learned(db, sizes, now_ms)
            _reports(db, sizes, now_ms)
            _happenings(db, sizes, now_ms)
        _rollouts(db, sizes, now_ms)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.exec_driver_sql("VACUUM ANALYZE")
    _runs(folder, sizes, now_ms)


def _run(db: Connection, sql: str) -> None:
    """Without parameters, so that % is what it is."""
    db.exec_driver_sql(sql.replace("%", "%%"))


@contextmanager
def _without_indexes(db: Connection) -> Iterator[None]:
    """Those that are no key; they are made again at the end."""
    found = db.exec_driver_sql(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
        " AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    ).all()
    for name, _ in found:
        db.exec_driver_sql(f"DROP INDEX {name}")
    yield
    for _, definition in found:
        db.exec_driver_sql(definition)


def _audio(db: Connection, store: Store, now_ms: int) -> None:
    rng = random.Random(1)
    pieces = [rng.randbytes(AUDIO_BYTES) for _ in range(PIECES)]
    spool.keep(
        db, store, {hashlib.sha256(piece).hexdigest(): piece for piece in pieces}, now_ms=now_ms
    )


def _devices(db: Connection, sizes: Sizes, now_ms: int) -> None:
    sites = ", ".join(f"'{site}'" for site in SITES)
    run = partial(_run, db)
    run(
        f"""
        CREATE TEMP TABLE fleet ON COMMIT DROP AS
        SELECT i, (ARRAY[{sites}])[1 + i % {len(SITES)}] || '-' || lpad(i::text, 5, '0') AS name,
            i > {sizes.devices} * 0.9 AS retired,
            CASE WHEN i % 1000 < 800 THEN 'en' WHEN i % 1000 < 920 THEN 'de'
                 WHEN i % 1000 < 980 THEN 'fr' WHEN i % 1000 < 999 THEN 'es' ELSE 'nl' END
                AS language,
            CASE WHEN i = 17 THEN 'lab/one' WHEN i % 20 = 13 THEN NULL
                 WHEN i > {sizes.devices} * 0.9 THEN 'old/' || (i % 3)
                 ELSE 'room/' || floor(power(200, random()))::int END AS slice
        FROM generate_series(1, {sizes.devices}) i
        """
    )
    run("CREATE UNIQUE INDEX ON fleet (i)")
    run("ANALYZE fleet")
    run(
        f"""
        INSERT INTO devices (name, first_seen_ms, last_seen_ms, state, session, connected_ms,
            clock_is_set, agent, hardware, time_zone, consent, model_name, model_version,
            model_counter, model_manifest, model_precision)
        SELECT name, {now_ms - SPAN_MS}, {now_ms} - floor(power(random(), 6) * {30 * DAY_MS}),
            CASE WHEN retired THEN 'stopped' WHEN i % 97 = 0 THEN 'unknown'
                 WHEN i % 5 = 0 THEN 'offline' ELSE 'online' END,
            3, {now_ms - DAY_MS}, true, '0.1.0', 'board-' || i % 7, 'Europe/Berlin', 'c-' || i,
            'en-demo', CASE WHEN i % 10 < 8 THEN '1.5' WHEN i % 10 = 8 THEN '1.4' ELSE '1.3' END,
            CASE WHEN i % 10 < 8 THEN 16 WHEN i % 10 = 8 THEN 15 ELSE 14 END,
            repeat('a', 64), 'int8'
        FROM fleet
        """
    )
    run("INSERT INTO device_slices SELECT name, slice FROM fleet WHERE slice IS NOT NULL")
    run("INSERT INTO assignments SELECT name, 3, 16 FROM fleet")
    run(
        f"""
        INSERT INTO consents SELECT name, version, 'c-' || i, true, {now_ms - SPAN_MS}, NULL,
            '["training", "monitoring"]', 14, {now_ms - SPAN_MS} + version
        FROM fleet, generate_series(1, 2) version
        """
    )


def _phrases(db: Connection) -> None:
    """What people say, with the words as a device sends them. Numbers from 0."""
    rng = random.Random(2)
    verbs = (
        "turn on",
        "turn off",
        "open",
        "close",
        "what is",
        "dim",
        "play",
        "stop",
        "call",
        "set",
    )
    things = [f"{kind} {thing}" for kind in ("the", "my", "every", "our") for thing in
              ("light", "lamp", "door", "window", "blind", "heating", "radio", "music", "timer",
               "alarm", "kettle", "oven", "fan", "gate", "pump", "printer", "screen", "camera")]  # fmt: skip
    tails = ("", "please", "now", "for ten minutes", "when it is dark", "until the morning",
             "in the hall", "in the kitchen", "upstairs", "at half past seven")  # fmt: skip
    db.exec_driver_sql("CREATE TEMP TABLE phrases (n INT, text TEXT, words BYTEA) ON COMMIT DROP")
    rows = []
    for number in range(PHRASES):
        text = f"{rng.choice(verbs)} {rng.choice(things)} {rng.choice(tails)}".strip()
        words = [
            {"word": word, "start_s": 0.3 * place, "end_s": 0.3 * place + 0.25,
             "confidence": round(rng.uniform(0.2, 1.0), 4)}
            for place, word in enumerate(text.split())
        ]  # fmt: skip
        rows.append((number, text, pack(words)))
    db.exec_driver_sql("INSERT INTO phrases VALUES (%s, %s, %s)", rows)
    db.exec_driver_sql("CREATE UNIQUE INDEX ON phrases (n)")
    db.exec_driver_sql("ANALYZE phrases")


def _segments(db: Connection, sizes: Sizes, now_ms: int) -> None:
    """`sequence` is the number of the segment, the oldest first."""
    _phrases(db)
    total, living = sizes.segments, round(0.9 * sizes.devices)
    releases = ", ".join(f"'{release}'" for release in RELEASES)
    for first in range(1, total + 1, STEP):
        last = min(total, first + STEP - 1)
        _run(
            db,
            f"""
            WITH drawn AS MATERIALIZED (
                SELECT i, i::float8 / {total} AS age, random() AS r1, random() AS r2,
                    random() AS r3, random() AS r4
                FROM generate_series({first}, {last}) i
            ), made AS MATERIALIZED (
                SELECT drawn.*,
                    ({now_ms - SPAN_MS} + power(age, 0.8) * {SPAN_MS - 60_000})::int8 AS at_ms,
                    1 + floor(power(r1, 1.7) * CASE WHEN age < 0.4 THEN {sizes.devices}
                        ELSE {living} END)::int AS device,
                    floor(power(r2, 2) * {PHRASES})::int AS phrase,
                    greatest(0, least({len(RELEASES)} - 1, floor(age * {len(RELEASES)})
                        - CASE WHEN r3 < 0.2 THEN 1 ELSE 0 END))::int AS release
                FROM drawn
            )
            INSERT INTO segments (id, device, session, sequence, captured_ms, clock_is_set,
                received_ms, duration_s, sample_rate, codec, audio, model_name, model_version,
                model_counter, model_manifest, model_precision, text, alternatives, confidence,
                deletion_score, language, reasons, inclusion_probability, random_probability,
                consent, redacted, retention, expires_ms, extra, words)
            SELECT lpad(to_hex(at_ms), 12, '0') || '7' || substr(md5(made.i::text), 1, 19), fleet.name,
                1, made.i, at_ms - 5000, true, at_ms, 1 + 7 * r4, 16000, 'opus', audio.digest, 'en-demo',
                CASE WHEN made.i <= 40 THEN '0.9' WHEN made.i > {total} - 200 THEN '1.6-rc1'
                     ELSE (ARRAY[{releases}])[1 + release] END,
                11 + release, repeat('a', 64), 'int8',
                CASE WHEN made.i <= 30 THEN 'zebra crossing ' ELSE '' END || phrases.text,
                jsonb_build_array(jsonb_build_object('text', phrases.text, 'score', -1.5),
                    jsonb_build_object('text', phrases.text || ' so', 'score', -2.5)),
                CASE WHEN r3 < 0.001 THEN 0.02 * r4 WHEN r3 < 0.7 THEN 0.3 + 0.35 * r4
                     ELSE 1 - 0.3 * r4 * r4 END,
                0.2 * r1, CASE WHEN made.i <= 40 THEN 'cy' ELSE fleet.language END,
                CASE WHEN r3 < 0.7 THEN '["unsure"]' ELSE '["random"]' END::jsonb, 1.0, 0.01,
                'c-' || fleet.i, false, CASE WHEN r3 < 0.7 THEN 'selected' ELSE 'random' END,
                at_ms + {365 * DAY_MS}, '{{}}', phrases.words
            FROM made JOIN fleet ON fleet.i = made.device JOIN phrases ON phrases.n = made.phrase
            JOIN (SELECT digest, row_number() OVER (ORDER BY digest) AS n FROM blobs) audio
                ON audio.n = 1 + made.i % {PIECES}
            """,
        )


def _labels(db: Connection, sizes: Sizes, now_ms: int) -> None:
    """Three of five segments have a teacher's, some two, some a person's. An eighth of those that
    wait for a person got one.
    """
    run = partial(_run, db)
    columns = """(id, segment, source, author, author_version, text, words, confidence, language,
                  accepted, provenance, created_ms)"""
    run(
        f"""
        WITH wanted AS MATERIALIZED (
            SELECT id, text, language, received_ms, sequence, random() AS r1, random() AS r2
            FROM segments
            WHERE sequence <= {sizes.segments} * 0.98 AND sequence % 100 < 62
        ), judged AS MATERIALIZED (
            SELECT wanted.*, CASE WHEN r1 < 0.78 THEN 'keep' WHEN r1 < 0.88 THEN 'review'
                ELSE 'drop' END AS decision
            FROM wanted
        )
        INSERT INTO labels {columns}
        SELECT 'shard-' || lpad((sequence / 200)::text, 6, '0') || '/' || id, id, 'teacher',
            'whisper', 'large-v3',
            CASE WHEN decision = 'keep' THEN judged.text ELSE phrases.text END, '[]',
            CASE WHEN decision = 'keep' THEN 0.7 + 0.3 * r2 ELSE 0.3 + 0.6 * r2 END, language,
            decision = 'keep', jsonb_build_object('decision', decision, 'triage',
                CASE decision WHEN 'keep' THEN 'gold' WHEN 'review' THEN 'disputed'
                ELSE 'lone' END), received_ms + {DAY_MS}
        FROM judged JOIN phrases ON phrases.n = floor(r2 * {PHRASES})::int
        """
    )
    run(
        f"""
        INSERT INTO labels {columns}
        SELECT 'again/' || id, segment, 'teacher', 'whisper', 'large-v3-turbo', text, '[]',
            confidence, language, accepted, provenance, created_ms + {20 * DAY_MS}
        FROM labels WHERE hashtext(id) % 7 = 0 AND created_ms < {now_ms - 21 * DAY_MS}
        """
    )
    run(
        f"""
        INSERT INTO labels {columns}
        SELECT 'human/' || segment, segment, 'human', 'ann', '', text, '[]', 1.0, language,
            hashtext(segment) % 10 <> 0, jsonb_build_object('decision',
                CASE WHEN hashtext(segment) % 10 <> 0 THEN 'keep' ELSE 'drop' END, 'verdict',
                CASE WHEN hashtext(segment) % 10 <> 0 THEN 'text' ELSE 'unusable' END),
            max(created_ms) + {DAY_MS}
        FROM labels
        WHERE CASE provenance ->> 'decision' WHEN 'review' THEN hashtext(segment) % 8 = 0
              ELSE hashtext(segment) % 40 = 0 END
        GROUP BY segment, text, language
        ON CONFLICT DO NOTHING
        """
    )


def _learned(db: Connection, sizes: Sizes, now_ms: int) -> None:
    """Data sets and models; each model is trained on a data set and grew from the one before."""
    run = partial(_run, db)
    run(
        f"""
        INSERT INTO datasets
        SELECT md5('d' || i) || md5('e' || i), 'week ' || i, '[]', 'sets/' || i,
            '{{"seed": 1, "hours": 10}}', {now_ms} - ({sizes.datasets} - i) * {DAY_MS}::int8, 0
        FROM generate_series(1, {sizes.datasets}) i
        """
    )
    for first, count, sets in (
        (1, sizes.members, f"i < {sizes.datasets}"),
        (0, 40 * sizes.members, f"i = {sizes.datasets}"),
    ):
        run(
            f"""
            INSERT INTO dataset_members
            SELECT md5('d' || i) || md5('e' || i), label.segment, label.id,
                CASE WHEN n % 1000 = 0 THEN 'test' WHEN n % 100 < 3 THEN 'dev' ELSE 'train' END, 1
            FROM generate_series(1, {sizes.datasets}) i
            JOIN LATERAL (
                SELECT id, segment, row_number() OVER () AS n FROM labels
                WHERE source = 'teacher' AND author_version = 'large-v3' AND accepted
                OFFSET i * {first * sizes.members} / 2 LIMIT {count}
            ) label ON true
            WHERE {sets}
            """
        )
    run(
        f"""
        INSERT INTO models
        SELECT 'en-demo', CASE WHEN i > {sizes.models} - 6
                THEN (ARRAY['1.0', '1.1', '1.2', '1.3', '1.4', '1.5'])[i - {sizes.models} + 6]
                ELSE '0.' || i END, i,
            CASE WHEN i = 1 THEN NULL WHEN i > {sizes.models} - 5
                THEN (ARRAY['1.0', '1.1', '1.2', '1.3', '1.4'])[i - {sizes.models} + 5]
                ELSE '0.' || (i - 1) END,
            'bundles/' || i, 'published', '{{"wer": {{"target": 0.1, "guard": 0.08}}}}',
            {now_ms} - ({sizes.models} - i) * {DAY_MS}::int8
        FROM generate_series(1, {sizes.models}) i
        """
    )
    run(
        f"""
        INSERT INTO model_datasets
        SELECT name, version, md5('d' || n) || md5('e' || n)
        FROM (SELECT name, version, 1 + (counter % {sizes.datasets}) AS n FROM models) m
        """
    )


def _reports(db: Connection, sizes: Sizes, now_ms: int) -> None:
    """Telemetry, of a hundredth of the devices much; and reports of updates."""
    histogram = json.dumps(
        {"bounds": [n / 10 for n in range(1, 10)], "counts": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3],
         "total": 21.7}
    )  # fmt: skip
    much = max(1, sizes.telemetry * 2 // 5 // max(1, sizes.devices // 100))
    little = max(1, sizes.telemetry * 3 // 5 // sizes.devices)
    _run(
        db,
        f"""
        INSERT INTO telemetry (device, session, sequence, received_ms, start_ms, end_ms, model_name,
            model_version, model_counter, model_manifest, model_precision, utterances, speech_s,
            confidence, word_confidence, deletion_score, first_word_s, final_s, real_time_factor,
            selected, vetoed, unsampled, queued, queued_bytes, dead, crashes, gauges, extra)
        SELECT name, 1 + n / 1000, n, {now_ms} - (most - n) * 3600000::int8,
            {now_ms} - (most - n + 1) * 3600000::int8, {now_ms} - (most - n) * 3600000::int8, 'en-demo', '1.5',
            16, repeat('a', 64), 'int8', 39, 80.5, '{histogram}', '{histogram}', '{histogram}',
            '{histogram}', '{histogram}', 0.1, '{{"unsure": 2}}', '{{}}', 0, 4, 9000, 0, 0,
            '{{"temperature_c": 51.5}}', '{{}}'
        FROM (SELECT name, CASE WHEN i % 100 = 1 THEN {much} ELSE {little} END AS most FROM fleet) f
        CROSS JOIN LATERAL generate_series(1, most) n
        """,
    )
    _run(
        db,
        f"""
        INSERT INTO updates
        SELECT name, 2, n, {now_ms} - n * 60000::int8, repeat('a', 32), 'en-demo 1.5', 16,
            CASE WHEN n = 8 THEN 'committed' ELSE 'downloading' END, 'en-demo', '1.4', 15,
            n / 8.0, '', {now_ms} - n * 60000::int8
        FROM fleet, generate_series(1, 8) n
        """,
    )


def _happenings(db: Connection, sizes: Sizes, now_ms: int) -> None:
    run = partial(_run, db)
    run(
        f"""
        INSERT INTO alarms
        SELECT level || '/' || name || '@' || i, level, name, '1.5', 'confidence',
            {now_ms} - ({sizes.alarms} - i) * 3600000::int8, {now_ms} - ({sizes.alarms} - i) * 3600000::int8 + 1,
            CASE WHEN i % 50 = 0 THEN NULL ELSE {now_ms} - ({sizes.alarms} - i) * 3500000::int8 END, '',
            'the mean confidence of ' || name || ' fell', '{{"usual": 0.9, "now": 0.8}}', ''
        FROM (
            SELECT i, CASE WHEN i % 100 = 0 THEN 'fleet' WHEN i % 8 = 0 THEN 'slice'
                ELSE 'device' END AS level,
                CASE WHEN i % 100 = 0 THEN '' WHEN i % 8 = 0 THEN 'room/' || i % 200
                ELSE (SELECT name FROM fleet WHERE fleet.i = 1 + a.i % {sizes.devices}) END AS name
            FROM generate_series(1, {sizes.alarms}) a(i)
        ) a
        """
    )
    run(
        f"""
        INSERT INTO events (at_ms, kind, subject, text, facts)
        SELECT {now_ms} - ({sizes.events} - i) * 10000::int8,
            (ARRAY['label', 'listened', 'run', 'alarm', 'device'])[1 + i % 5], 's-' || i,
            'ann: said what was said: text', '{{"who": "ann"}}'
        FROM generate_series(1, {sizes.events}) i
        """
    )
    run(
        f"""
        INSERT INTO erasures
        SELECT md5('erasure' || i), {now_ms} - ({sizes.erasures} - i) * {DAY_MS // 2}::int8, 'by mail',
            jsonb_build_object('segments', '[]'::jsonb, 'consents', '[]'::jsonb,
                'devices', jsonb_build_array('device-' || i)), 300,
            jsonb_build_object('datasets', jsonb_build_array(md5('d' || i) || md5('e' || i)),
                'models', '[["en-demo", "1.2"]]'::jsonb)
        FROM generate_series(1, {sizes.erasures}) i
        """
    )
    run(  # the first was of a consent that all of the fleet had
        f"""
        INSERT INTO erasure_devices
        SELECT md5('erasure' || e), name, '\\x00', md5(e || name),
            CASE WHEN i % 20 = 0 THEN NULL ELSE {now_ms} END, 30
        FROM generate_series(1, {sizes.erasures}) e JOIN fleet ON e = 1 OR i % 1999 = e
        """
    )
    run(
        f"""
        INSERT INTO tombstones
        SELECT 'segment', md5('gone' || i), '', md5('erasure' || 1 + i % {sizes.erasures}), {now_ms}
        FROM generate_series(1, {sizes.tombstones}) i
        """
    )
    run(
        f"""
        INSERT INTO dead_letters (topic, device, id, consent, reason, detail, digest, size, payload,
            times, first_ms, last_ms)
        SELECT 'vc/1/x/up/segment', 'atrium-00001', md5('dead' || i), NULL, 'malformed', 'too short',
            md5('a' || i) || md5('b' || i), 300, decode(repeat('ab', 300), 'hex'), 1, {now_ms},
            {now_ms}
        FROM generate_series(1, {sizes.dead_letters}) i
        """
    )


def _rollouts(db: Connection, sizes: Sizes, now_ms: int) -> None:
    """As the rules of rollouts make them, to the end; the newest stops in its last stage."""
    names = [row[0] for row in db.exec_driver_sql("SELECT name FROM fleet")]
    for number in range(1, sizes.rollouts + 1):
        at_ms = now_ms - (sizes.rollouts - number + 1) * 7 * DAY_MS
        rollout, entries = rolled_out(number, names, at_ms, ends=number < sizes.rollouts)
        row = {
            "id": rollout.plan.id, "state": rollout.state.value, "plan": to_json(rollout.plan),
            "bundle": f"bundles/{number}", "previous": f"bundles/{number - 1}",
            "created_ms": at_ms, "changed_ms": at_ms,
        }  # fmt: skip
        db.execute(insert(schema.rollouts), row)
        rows = [
            {"rollout": rollout.plan.id, "number": entry.number, "entry": entry.to_json()}
            for entry in entries
        ]
        insert_many(db, schema.rollout_log, rows)


def rolled_out(
    number: int, names: list[str], at_ms: int, *, ends: bool
) -> tuple[Rollout, list[Entry]]:
    """One device of 500 fails, one of 25 stays away."""
    plan = Plan(
        id=f"r-{number}", release=Release(version=f"2.{number}", counter=100 + number),
        previous=Release(version=f"2.{number - 1}", counter=99 + number), author="ann", approvals=1,
        soak_ms=0, least_looks=0, devices_per_minute=1000.0,
    )  # fmt: skip
    rollout = Rollout(plan)
    entries = [*rollout.submit("ann", at_ms), *rollout.approve("bob", at_ms)]
    entries += rollout.join(dict.fromkeys(names, "Europe/Berlin"), at_ms)
    ran = Model(
        name="en-demo", version=plan.release.version, release_counter=plan.release.counter,
        manifest_sha256=bytes(32), precision="int8",
    )  # fmt: skip
    told = 0
    for _ in range(1000):
        if rollout.state in OVER:
            break
        at_ms += 60_000
        entries += rollout.tick(at_ms)
        new, told = rollout.devices.touched[told:], len(rollout.devices.touched)
        if not ends and told > 0.6 * len(names):
            new = new[: len(new) // 2]
        here = [name for name in new if hash_of(name) % 25]
        entries += rollout.seen(here, at_ms)
        for name in here:
            failed = hash_of(name) % 500 == 1
            report = UpdateReport(
                session=1, sequence=1, attempt="a" * 32, target="en-demo", at_ms=at_ms,
                target_counter=plan.release.counter, state="failed" if failed else "committed",
                running=None if failed else ran, error="no space" if failed else "",
            )  # fmt: skip
            entries += rollout.report(name, report, at_ms)
        if not ends and told > 0.6 * len(names):
            break
    return rollout, entries


def hash_of(name: str) -> int:
    return int(name[-5:]) * 7919 % 100_003


def _runs(folder: Path, sizes: Sizes, now_ms: int) -> None:
    """Runs with twelve steps each, and two entries of the ledger for each."""
    runs = Runs(folder / "pipeline" / "runs")
    rng = random.Random(3)
    for number in range(sizes.runs):
        created = (now_ms - (sizes.runs - number) * DAY_MS / 4) / 1000
        plan = RunPlan(
            id=f"run-{number:04}", why="slice room/3: the mean confidence fell", code="c" * 64,
            commands={}, inputs={"replay": ("replay.jsonl",)}, settings={"recipe": "finetune"},
            created=created,
        )  # fmt: skip
        runs.create(plan)
        steps = tuple(
            StepRecord(
                name=f"step-{n}",
                state="done",
                key=rng.randbytes(32).hex(),
                folder=f"f/{n}",
                argv=("vitconformer", "cloud", "label", "--shard", str(n)),
                needs={"segments": rng.randbytes(32).hex()},
                started=created,
                finished=created + 60,
                cpu_seconds=55.5,
                tries=1,
            )
            for n in range(12)
        )
        newest = number == sizes.runs - 1
        runs.write(
            Run(id=plan.id, state="waiting" if newest else "done", started=created, steps=steps)
        )
    path = folder / "ledger.jsonl"
    sets = {
        name: {"wer": 0.1, "words": 9000, "interval": [-0.01, 0.01]} for name in ("a", "b", "c")
    }
    for number in range(sizes.runs):
        verdict = os.urandom(32).hex()
        body: dict[str, Any] = {
            "verdict": verdict, "decision": "promote", "reasons": ["better on the target"],
            "champion": {"version": f"0.{number}"}, "challenger": {"version": f"0.{number + 1}"},
            "sets": sets, "training": {"steps": 300},
        }  # fmt: skip
        ledger.append(path, "verdict", "gate", body)
        more = {"verdict": verdict, "challenger": "x", "release_counter": number}
        ledger.append(path, "publication", "ann", more)


def small() -> Sizes:
    """For tests."""
    return dataclasses.replace(
        Sizes(), devices=60, segments=3000, telemetry=600, events=500, tombstones=100,
        dead_letters=20, alarms=100, erasures=5, datasets=4, members=20, models=12, rollouts=3,
        runs=6,
    )  # fmt: skip
