"""Sound over HTTP as players ask for it."""

from __future__ import annotations

import io
import random
import wave

from autotrain_cloud.api.sound import Sound, answer
from tests.autotrain_cloud.api.fleet import Asker, segment_id

SIZE = 300  # of the fleet's sounds


def test_the_sound_is_what_the_device_sent(viewer: Asker) -> None:
    for number, kind in ((0, "audio/ogg"), (1, "audio/flac")):
        response = viewer("GET", f"/v1/segments/{segment_id(number)}/audio")
        assert response.headers["content-type"].startswith(kind)
        assert response.content == random.Random(number).randbytes(SIZE)
        assert response.headers["accept-ranges"] == "bytes"
        assert "no-cache" in response.headers["cache-control"]
    raw = viewer("GET", f"/v1/segments/{segment_id(2)}/audio")
    with wave.open(io.BytesIO(raw.content)) as found:
        assert (found.getframerate(), found.getnchannels(), found.getsampwidth()) == (16_000, 1, 2)
        assert found.readframes(1000) == random.Random(2).randbytes(SIZE)


def test_ranges_add_up_to_the_whole(viewer: Asker) -> None:
    path = f"/v1/segments/{segment_id(0)}/audio"
    whole = viewer("GET", path)
    tag = whole.headers["etag"]

    def ask(range: str, **more: str) -> tuple[int, bytes, str]:
        found = viewer("GET", path, headers={"Range": range, **more})
        return found.status_code, found.content, found.headers.get("content-range", "")

    assert ask("bytes=0-99") == (206, whole.content[:100], "bytes 0-99/300")
    assert ask("bytes=100-") == (206, whole.content[100:], "bytes 100-299/300")
    assert ask("bytes=-10") == (206, whole.content[-10:], "bytes 290-299/300")
    assert ask("bytes=290-9999") == (206, whole.content[290:], "bytes 290-299/300")
    assert ask("bytes=300-")[::2] == (416, "bytes */300")
    assert ask("bytes=-0")[::2] == (416, "bytes */300")
    for nonsense in ("bytes=5-2", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,4-5", "bytes"):
        assert ask(nonsense) == (200, whole.content, "")
    assert ask("bytes=0-9", **{"If-Range": tag})[0] == 206
    assert ask("bytes=0-9", **{"If-Range": '"other"'})[0] == 200
    again = viewer("GET", path, headers={"If-None-Match": f'"x", W/{tag}'})
    assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == tag


def test_who_listens_is_noted_once(viewer: Asker) -> None:
    path = f"/v1/segments/{segment_id(1)}/audio"
    before = viewer.get("/v1/events")["next"]
    viewer("GET", path, headers={"Range": "bytes=0-9"})
    viewer("GET", path, headers={"Range": "bytes=10-"})
    told = viewer.get("/v1/events", since=before)["items"]
    assert [(event["kind"], event["facts"]["who"]) for event in told] == [("listened", "vera")]
    assert viewer("GET", "/v1/segments/none/audio").status_code == 404


def test_any_range_gives_bytes_that_are_there() -> None:
    sound = Sound.of("opus", 16_000, "a" * 64).with_data(bytes(range(10)))
    for first in range(10):
        for last in range(first, 12):
            response = answer(sound, range=f"bytes={first}-{last}", if_range=None)
            assert response.body == bytes(range(10))[first : last + 1]
