"""Label Studio's JSON: tasks out, annotations in.

A task's `data` holds audio, the device's and the teachers' words; the teacher's text is there as a
prediction, so that a person corrects instead of typing.  The labelling configuration that fits is
`CONFIG`.  Format: https://labelstud.io/guide/tasks and .../guide/export, version 1.x.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotrain_cloud.labels.records import Label
from autotrain_cloud.review import Item, Review
from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically

CONFIG = """<View>
  <Audio name="audio" value="$audio"/>
  <Text name="device" value="$device_text"/>
  <TextArea name="transcript" toName="audio" maxSubmissions="1" editable="true" rows="2"/>
  <Choices name="verdict" toName="audio" choice="single" required="true">
    <Choice value="text"/>
    <Choice value="unusable"/>
  </Choices>
</View>
"""


def export_tasks(items: Sequence[Item], labels: Mapping[str, Label], path: Path) -> int:
    """Write tasks for a queue; -> how many.  Raises ConfigError for an item without a label."""
    tasks = []
    for item in items:
        if item.segment_id not in labels:
            raise ConfigError(f"segment {item.segment_id} is queued, but has no label")
        tasks.append(_task(item, labels[item.segment_id]))
    write_atomically(path, json.dumps(tasks, indent=1, ensure_ascii=False).encode() + b"\n")
    return len(tasks)


def _task(item: Item, label: Label) -> dict[str, Any]:
    return {
        "data": {
            "audio": label.segment.audio,
            "segment_id": label.segment.id,
            "device_text": label.segment.text,
            "teacher_text": label.teacher.text if label.teacher else "",
            "second_text": label.second.text if label.second else "",
            "why": item.why,
        },
        "predictions": [
            {
                "model_version": label.teacher.provenance.model if label.teacher else "none",
                "score": label.trust,
                "result": [_area(label.text)],
            }
        ],
    }


def _area(text: str) -> dict[str, Any]:
    return {
        "from_name": "transcript",
        "to_name": "audio",
        "type": "textarea",
        "value": {"text": [text]},
    }


def import_reviews(path: Path) -> list[Review]:
    """The annotations of an export, by task and time.

    Tasks without one are skipped: they are not done yet.  Raises ConfigError naming file, task and
    field.
    """
    try:
        tasks = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(tasks, list):
        raise ConfigError(f"{path}: not a Label Studio export (expected a list of tasks)")
    reviews = []
    for number, task in enumerate(tasks, start=1):
        where = f"{path}: task {number}"
        if not isinstance(task, dict):
            raise ConfigError(f"{where}: expected named fields")
        data = task.get("data")
        segment = data.get("segment_id") if isinstance(data, dict) else None
        if not isinstance(segment, str) or not segment:
            raise ConfigError(f"{where}: data.segment_id: {segment!r} (expected a segment's id)")
        annotations = task.get("annotations", [])
        if not isinstance(annotations, list):
            raise ConfigError(f"{where}: annotations: expected a list")
        for annotation in annotations:
            if not isinstance(annotation, dict):
                raise ConfigError(f"{where}: annotations: expected named fields")
            if not annotation.get("was_cancelled"):
                reviews.append(_review(annotation, segment, where))
    return reviews


def _review(annotation: Mapping[str, Any], segment: str, where: str) -> Review:
    found: dict[str, str] = {}
    for result in annotation.get("result") or ():
        value = result.get("value", {}) if isinstance(result, dict) else {}
        for name, key in (("transcript", "text"), ("verdict", "choices")):
            if isinstance(result, dict) and result.get("from_name") == name:
                items = value.get(key)
                items = [items] if isinstance(items, str) else items
                if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
                    raise ConfigError(f"{where}: {name}: {items!r} (expected text)")
                found[name] = " ".join(items)
    verdict = found.get("verdict", "text" if "transcript" in found else "")
    if verdict == "text" and not found.get("transcript", "").strip():
        raise ConfigError(f"{where}: transcript: is missing or empty; mark silence as unusable")
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    try:
        return Review(
            segment_id=segment,
            reviewer=f"label-studio:{by}" if by is not None else "",
            at_ms=_milliseconds(annotation.get("updated_at") or annotation.get("created_at")),
            verdict=verdict,
            text=found.get("transcript", "") if verdict == "text" else "",
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: updated_at: {error} (expected a time in ISO 8601)") from error


def _milliseconds(text: Any) -> int:
    if not isinstance(text, str):
        raise ValueError(f"{text!r}")
    at = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.timezone.utc)
    return round(at.timestamp() * 1000)
