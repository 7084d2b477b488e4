"""Latency: how long after a word was spoken it is on the screen.

Speech with known word times: the sentences of sentences.txt read by two festival voices, whose
synthesiser says when each word ends. Audio is pushed in blocks of 20 ms, followed by three seconds
of silence; the recogniser is greedy with endpointing. An event's time is the audio pushed so far
plus the processor time of the push that returned it. What is on the screen is the finals so far and
the last partial.

* word emission latency: from the end of a spoken word to the first event after its beginning whose
  text, aligned with the reference, has that word right. Of words that are right in the end only. It
  includes the wait for the chunk to fill; it is negative where a word was written before it ended.
* end of speech to final: from the end of the last word to the final event that has it. `by pause`:
  the endpoint rule waits for 0.8 s of silence. `at the end of a stream`: the audio ends there, with
  the last word, and `finish` is called.
* churn: words taken back / words written, where a change of the text takes back everything behind
  the words that both versions begin with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import SAMPLE_RATE, Samples, Table

VOICES = ("cmu_us_slt_arctic_hts", "kal_diphone")
CHUNKS_MS = (80, 160, 320, 640)
BLOCK_MS = 20
SILENCE_S = 3.0
RANKS = (50, 90, 99)

# Reads sentences into WAV files and prints each word with its end.
_SCRIPT = """
(define (say text file)
  (let ((utt (utt.synth (eval (list 'Utterance 'Text text)))))
    (utt.save.wave utt file 'riff)
    (format t "= %s\\n" file)
    (mapcar
      (lambda (w)
        (format t "%s %f %f\\n" (item.name w) (item.feat w "word_start") (item.feat w "word_end")))
      (utt.relation.items utt 'Word))))
"""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word of the reference."""

    word: str
    start: float  # s
    end: float  # s


@dataclass(frozen=True, slots=True)
class Shown:
    """What is on the screen from `time` on."""

    time: float  # s
    words: tuple[str, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sentences", type=int, help="only the first N")


def run(args: argparse.Namespace) -> dict[str, Any]:
    text = Path(__file__).with_name("sentences.txt").read_text("ascii")
    sentences = text.splitlines()[: args.sentences]
    with tempfile.TemporaryDirectory(prefix="vitconformer-bench-") as folder:
        spoken = [u for voice in VOICES for u in speak(voice, sentences, Path(folder))]
        audio = measure.save_clips((samples for samples, _ in spoken), Path(folder))
        words = [[[w.word, w.start, w.end] for w in said] for _, said in spoken]
        return {
            str(chunk_ms): measure.child(
                follow, bundle=str(args.bundle), chunk_ms=chunk_ms, audio=audio, words=words
            )
            for chunk_ms in CHUNKS_MS
        }


def speak(
    voice: str, sentences: Sequence[str], folder: Path
) -> list[tuple[Samples, tuple[Spoken, ...]]]:
    """Each sentence read aloud, with the times of its words."""
    script = folder / f"{voice}.scm"
    lines = [f'(say "{s}." "{folder / f"{voice}-{i}.wav"}")' for i, s in enumerate(sentences)]
    script.write_text("\n".join([f"(voice_{voice})", _SCRIPT, *lines]), "ascii")
    try:
        done = subprocess.run(
            ["festival", "-b", str(script)], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise SystemExit("latency.py needs festival and its voices: see `make test`") from None
    return [
        (measure.load(Path(path)), words) for path, words in parse_times(done.stdout.splitlines())
    ]


def parse_times(lines: Iterable[str]) -> list[tuple[str, tuple[Spoken, ...]]]:
    """The script's output: `= FILE`, then `word start end` for each of its words."""
    found: list[tuple[str, list[Spoken]]] = []
    for line in lines:
        name, *rest = line.split()
        if name == "=":
            found.append((rest[0], []))
        else:
            found[-1][1].append(Spoken(name.lower(), float(rest[0]), float(rest[1])))
    return [(path, tuple(words)) for path, words in found]


def follow(
    *, bundle: str, chunk_ms: int, audio: list[str], words: list[list[list[Any]]]
) -> dict[str, Any]:
    """Latencies at one chunk size, over all sentences."""
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle, chunk_ms=chunk_ms, precision="float32")
    silence = np.zeros(round(SILENCE_S * SAMPLE_RATE), np.float32)
    screens(recognizer.stream(), silence)  # first runs allocate
    emission: list[float] = []
    by_pause: list[float] = []
    at_end: list[float] = []
    taken_back = written = reference = 0
    for path, rows in zip(audio, words, strict=True):
        said = [Spoken(*row) for row in rows]
        end = round(said[-1].end * SAMPLE_RATE)
        samples = np.load(path)
        shown, final = screens(recognizer.stream(), np.concatenate([samples, silence]))
        latencies = emission_latencies(said, shown)
        emission += latencies
        by_pause += [final - said[-1].end] if final is not None else []
        back, wrote = churn(shown)
        taken_back, written, reference = taken_back + back, written + wrote, reference + len(said)
        _, final = screens(recognizer.stream(), samples[:end])
        at_end += [final - end / SAMPLE_RATE] if final is not None else []
    return {
        "sentences": len(audio),
        "words": reference,
        "words_right": len(emission),
        "emission_s": measure.percentiles(emission, *RANKS),
        "final_by_pause_s": measure.percentiles(by_pause, *RANKS),
        "final_at_end_s": measure.percentiles(at_end, *RANKS),
        "churn": taken_back / written if written else 0.0,
    }


def screens(stream: Any, samples: Samples) -> tuple[list[Shown], float | None]:
    """Every change of the text in order, and when the last final with words came."""
    pushed = 0
    finals: tuple[str, ...] = ()
    shown: list[Shown] = []
    last_final = None
    blocks = list(measure.blocks(samples, BLOCK_MS))
    for number in range(len(blocks) + 1):
        start = time.process_time()
        if number < len(blocks):
            pushed += len(blocks[number])
            events = stream.push(blocks[number])
        else:
            events = stream.finish()
        now = pushed / SAMPLE_RATE + time.process_time() - start
        for event in events:
            words = finals + tuple(event.text.split())
            if event.type == "final":
                finals = words
                last_final = now if event.text else last_final
            if words != (shown[-1].words if shown else ()):
                shown.append(Shown(now, words))
    return shown, last_final


def emission_latencies(said: Sequence[Spoken], shown: Sequence[Shown]) -> list[float]:
    """Per word that is right in the end: from its end to its first right event after its start."""
    if not shown:
        return []
    reference = [spoken.word for spoken in said]
    right = [hits(reference, state.words) for state in shown]
    return [
        next(
            state.time - said[i].end
            for state, words in zip(shown, right, strict=True)
            if i in words and state.time > said[i].start
        )
        for i in sorted(right[-1])
        if shown[-1].time > said[i].start
    ]


def hits(reference: Sequence[str], words: Sequence[str]) -> set[int]:
    """Indices of the reference words that a text has right."""
    from edge_runtime.metrics import align

    found, index = set(), 0
    for expected, word in align(reference, words).pairs:
        if expected is not None and expected == word:
            found.add(index)
        index += expected is not None
    return found


def churn(shown: Sequence[Shown]) -> tuple[int, int]:
    """Words taken back, and words written, over all changes of the text."""
    taken_back = written = 0
    before: tuple[str, ...] = ()
    for state in shown:
        common = 0
        for old, new in zip(before, state.words, strict=False):
            if old != new:
                break
            common += 1
        taken_back += len(before) - common
        written += len(state.words) - common
        before = state.words
    return taken_back, written


def table(results: dict[str, Any]) -> Table:
    def ms(found: dict[str, float]) -> str:
        return " / ".join(f"{1e3 * found[f'p{rank}']:.0f}" for rank in RANKS)

    header = ["chunk", "words right", "word emission p50 / p90 / p99, ms",
              "end of speech to final, by pause, ms", "at the end of a stream, ms",
              "churn"]  # fmt: skip
    return [header] + [
        [
            f"{chunk_ms} ms",
            f"{found['words_right']} of {found['words']}",
            ms(found["emission_s"]),
            ms(found["final_by_pause_s"]),
            ms(found["final_at_end_s"]),
            f"{found['churn']:.1%}",
        ]
        for chunk_ms, found in results.items()
    ]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
