"""What a fleet hears between words. Where a place is too loud for any teacher, this needs none.

    clips = heard_between(samples)                  # f32 [n] -> [f32 [m], ...]
    count = write_noise(shards, Path("noise"))      # noise.jsonl and its audio

Speech whose text is known, with the fleet's own noise laid under it, teaches what is spoken there
(multi-condition training: Lippmann et al., ICASSP 1987; Ko et al., ICASSP 2017). A clip is as loud
as it was beside speech of `SPEECH_POWER`: so it carries the signal-to-noise ratio it was heard at.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from autotrain_cloud.segments import Samples, read_segments, segment_audio
from autotrain_cloud.speech import speech_frames
from edge_runtime.audio import SAMPLE_RATE
from edge_runtime.errors import AudioError
from edge_runtime.files import write_atomically
from edge_runtime.manifest import SPEECH_POWER

log = logging.getLogger(__name__)

MANIFEST = "noise.jsonl"
_HOP = SAMPLE_RATE // 100  # samples of a frame
_BEFORE, _AFTER = 3, 10  # frames that belong to speech: a soft beginning, what a room sends back
_LEAST = 20  # frames of a clip
_SILENCE = 1e-8  # mean square: -80 dB of full scale, where nothing was recorded
_QUIET_DB = 20.0  # SNR from which there is nothing to learn


def heard_between(samples: Samples, *, quiet_db: float = _QUIET_DB) -> list[Samples]:
    """Noise of a recording: f32 [n] at 16 kHz -> clips of 0.2 s and more; none of a quiet place."""
    speech = speech_frames(samples)
    if not speech.any():
        return []
    runs = _runs(~_widened(speech))
    clips = [samples[start * _HOP : stop * _HOP] for start, stop in runs if stop - start >= _LEAST]
    if not clips:
        return []
    noise = _power(np.concatenate(clips))
    first, last = int(speech.argmax()), len(speech) - int(speech[::-1].argmax())
    spoken = _power(samples[first * _HOP : last * _HOP]) - noise
    if noise < _SILENCE or spoken <= 0 or 10 * np.log10(spoken / noise) > quiet_db:
        return []
    gain = np.float32(np.sqrt(SPEECH_POWER / spoken))
    return [np.clip(clip * gain, -1, 1) for clip in clips]


def write_noise(shards: Iterable[Path], out: Path) -> int:
    """A manifest without texts, and its audio; perhaps of no clip at all. -> their number.

    A segment whose audio cannot be read is told and left out. Raises ConfigError for a malformed
    shard, StorageError where audio cannot be reached now.
    """
    (out / "audio").mkdir(parents=True, exist_ok=True)
    lines = []
    for shard in shards:
        for segment in read_segments(shard):
            try:
                samples = segment_audio(segment, shard.parent)
            except AudioError as error:
                log.warning("segment %s is left out: %s", segment.id, error)
                continue
            for number, clip in enumerate(heard_between(samples)):
                path = out / "audio" / f"{segment.id}-{number}.flac"
                soundfile.write(path, clip, SAMPLE_RATE)
                lines.append({
                    "audio_filepath": f"audio/{path.name}", "duration": len(clip) / SAMPLE_RATE,
                    "text": "", "speaker": segment.device, "segment": segment.id,
                })  # fmt: skip
    write_atomically(out / MANIFEST, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return len(lines)


def _widened(speech: NDArray[np.bool_]) -> NDArray[np.bool_]:
    kernel = np.ones(_BEFORE + 1 + _AFTER)
    return np.convolve(speech, kernel)[_BEFORE : _BEFORE + len(speech)] > 0.5


def _runs(true: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where it begins and ends to be true, again and again."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))
