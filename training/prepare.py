"""Corpora people have, as manifests.

    librispeech   READER/CHAPTER/*.flac beside READER-CHAPTER.trans.txt, one manifest per subset
    commonvoice   LOCALE/{train,dev,test}.tsv and LOCALE/clips/*.mp3, one manifest per list

Audio stays where it is and as it is: whatever libsndfile opens is read at training time.  Texts go
through `training.text.normalise`; what cannot be written in a-z and apostrophes is left out and
counted, since a transcript that is not what was said teaches mistakes.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.audio import open_audio
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import Utterance
from training.text import normalise


@dataclass(frozen=True, slots=True)
class Entry:
    """A recording as a corpus lists it; `text` is not normalised yet."""

    audio: Path
    text: str
    speaker: str
    duration: float | None = None  # s, where the corpus says


def librispeech(root: Path) -> dict[str, list[Entry]]:
    """Entries by subset ("train-clean-100"); `root` is the corpus or one subset.

    Raises:
        ConfigError: no transcripts below `root`, or a line of one is not "ID TEXT".
    """
    subsets: dict[str, list[Entry]] = {}
    for transcript in sorted(root.rglob("*.trans.txt")):
        chapter = transcript.parent
        reader = chapter.parent
        entries = subsets.setdefault(reader.parent.name, [])
        for number, line in enumerate(_read(transcript).splitlines(), start=1):
            name, _, text = line.partition(" ")
            if not text.strip():
                raise ConfigError(f"{transcript}:{number}: expected 'ID TEXT', not {line[:60]!r}")
            # Upper case would make initials of one-letter words.
            entries.append(Entry(chapter / f"{name}.flac", text.lower(), reader.name))
    if not subsets:
        raise ConfigError(f"{root}: no *.trans.txt below it; is this LibriSpeech, unpacked?")
    return subsets


def commonvoice(root: Path, locale: str) -> dict[str, list[Entry]]:
    """Entries by list ("train", "dev", "test"); `root` holds LOCALE/, or is it.

    Raises:
        ConfigError: no lists there, or one lacks a column.
    """
    base = root / locale if (root / locale).is_dir() else root
    durations = {
        row["clip"]: float(row["duration[ms]"]) / 1000
        for row in _table(base / "clip_durations.tsv", "clip", "duration[ms]", optional=True)
    }
    lists: dict[str, list[Entry]] = {}
    for name in ("train", "dev", "test"):
        rows = _table(base / f"{name}.tsv", "client_id", "path", "sentence", optional=True)
        # A client id is 128 hex digits; 16 keep speakers apart just as well.
        entries = [
            Entry(
                base / "clips" / row["path"],
                row["sentence"],
                row["client_id"][:16],
                durations.get(row["path"]),
            )
            for row in rows
        ]
        if entries:
            lists[name] = entries
    if not lists:
        raise ConfigError(
            f"{base}: no train.tsv, dev.tsv or test.tsv; name the folder that holds {locale}/"
        )
    return lists


def utterances(entries: Iterable[Entry], left_out: Counter[str]) -> Iterator[Utterance]:
    """Entries with normalised text and known duration; `left_out` counts the others by reason.

    Raises:
        AudioError: a recording is missing or cannot be read.
    """
    for entry in entries:
        text = normalise(entry.text)
        if not text:
            left_out["text cannot be written in a-z and apostrophes"] += 1
            continue
        duration = _duration(entry.audio) if entry.duration is None else entry.duration
        if duration <= 0:
            left_out["no sound"] += 1
            continue
        yield Utterance(
            audio_filepath=entry.audio,
            duration=round(duration, 4),
            text=text,
            speaker=entry.speaker,
        )


def _duration(audio: Path) -> float:
    """Seconds, by the header; by reading where the header does not say."""
    with open_audio(audio) as source:
        if source.duration_s is not None:
            return source.duration_s
        return sum(len(block) for block in source.blocks(30.0)) / 16_000


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _table(path: Path, *columns: str, optional: bool = False) -> Iterator[dict[str, str]]:
    """Rows of a tab-separated file. Quotes are text: Common Voice does not escape them."""
    if optional and not path.exists():
        return
    rows = csv.DictReader(_read(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = [column for column in columns if column not in (rows.fieldnames or ())]
    if missing:
        raise ConfigError(f"{path}: no column {missing[0]!r}")
    for row in rows:
        if any(row[column] is None for column in columns):
            raise ConfigError(f"{path}:{rows.line_num}: fewer columns than the header")
        yield row
