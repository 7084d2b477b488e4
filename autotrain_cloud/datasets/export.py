"""From a data set to the manifest that `vitconformer features` reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autotrain_cloud.datasets.manifest import Dataset, Row
from autotrain_cloud.segments import Segment, segment_audio
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import Utterance, write_manifest


def export(dataset: Dataset, path: Path, *, splits: Iterable[str]) -> int:
    """Write the utterances of these splits as JSON lines; -> how many.

    Audio that libsndfile cannot open as it lies (in an object store, headerless, or a clip) is
    written beside the manifest, as FLAC.  Raises ConfigError: no such rows; AudioError and
    StorageError as `segment_audio`.
    """
    wanted = set(splits)
    rows = [row for row in dataset.rows if row.split in wanted]
    if not rows:
        raise ConfigError(f"{dataset.path}: no rows of split {', '.join(sorted(wanted))}")
    return write_manifest(
        path, [_utterance(row, path.parent / f"{path.stem}-audio") for row in rows]
    )


def _utterance(row: Row, folder: Path) -> Utterance:
    location = row.audio.removeprefix("file://")
    audio = Path(location)
    if "://" in location or row.codec == "pcm16" or row.end_s is not None:
        audio = _copied(row, folder)
    return Utterance(
        audio_filepath=audio,
        duration=row.duration_s,
        text=row.text,
        speaker=row.speaker or row.device,
        extra={"segment": row.segment_id, "weight": row.weight, "source": row.source},
    )


def _copied(row: Row, folder: Path) -> Path:
    import soundfile

    target = folder / f"{row.segment_id}.flac"
    if not target.exists():
        segment = Segment(
            id=row.segment_id, audio=row.audio, duration_s=row.duration_s, codec=row.codec,
            start_s=row.start_s, end_s=row.end_s,
            sample_rate=row.sample_rate, text="", device=row.device,
        )  # fmt: skip
        samples = segment_audio(segment, Path())
        folder.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        soundfile.write(temporary, samples, 16_000, format="FLAC")
        temporary.replace(target)
    return target
