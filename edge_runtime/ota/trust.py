"""What a repository of releases says, and whether to believe it.

The Update Framework (https://theupdateframework.github.io/specification/latest/), checked by
python-tuf with three things around it that it leaves to its user:

* its cache is a handful of files that a power cut can tear, and with them goes the protection
  against being served yesterday's releases; here all of it is one durable value;
* the first root of trust is what this device was delivered with, never what the cache says;
* a clock that has been set back makes expired metadata fresh again, so time may not run backwards.

::

    trust = Trust(fs, source, root=Path("root.json").read_bytes())
    release = trust.newest("en-demo")           # None: there is none for this family
    slots.offer(release.candidate)
    slots.download(release.fetch, release.deltas)
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.contract.bundle import MANIFEST_NAME, FileEntry
from edge_runtime.ota.durable import Damaged, Durable
from edge_runtime.ota.errors import SourceError, TrustError
from edge_runtime.ota.fs import Fs
from edge_runtime.ota.http import HttpSource
from edge_runtime.ota.slots import Deltas
from edge_runtime.ota.update import Candidate

METADATA, TARGETS = "metadata/", "targets/"  # of a repository
SEEN_EVERY_S = 6 * 3600.0  # the time is written down, where nothing else is new: flash wears out
CLOCK_SLACK_S = 300.0  # that a clock may be set back by, as those of devices are now and then
_LINK = "root.json"  # python-tuf makes it anew every time


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release that was signed for a family of models."""

    candidate: Candidate
    custom: Mapping[str, Any]  # what else was signed with it: what it needs of a device
    needs: Mapping[str, Any]  # see `edge_runtime.ota.compat`
    deltas: Deltas  # those there are, of any file against any base
    size: int  # bytes of the bundle, 0 if nobody said
    folder: str  # in the repository
    source: HttpSource

    def fetch(self, name: str, sha256: str, start: int) -> Iterator[bytes]:
        """A file of the bundle, for `Slots.download`: every file lies under its digest."""
        return self.source.get(f"{self.folder}/{sha256}.{name}", start)


class Trust:
    """What is known of one repository."""

    def __init__(
        self,
        fs: Fs,
        source: HttpSource,
        *,
        root: bytes,
        metadata: str = METADATA,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`root`: the root metadata that came with the device.  `metadata`: where the rest of it
        is, from the source's URL on.
        """
        self._source = source
        self._root = root
        self._url = source.url + metadata
        self._now = now
        self._durable = Durable(fs, "trust")
        self._seen_s = 0.0  # the latest time at which the repository was believed
        self._saved: tuple[float, dict[str, str]] = (0.0, {})  # what is durable
        self.files: dict[str, str] = {}  # what is believed: python-tuf's cache, path -> content
        try:
            for content in self._durable.load()[:1]:
                known = json.loads(content)
                self._seen_s, self.files = known["seen_s"], known["files"]
                self._saved = (self._seen_s, self.files)
        except Damaged:
            pass  # the floor of the record still guards against old releases

    @property
    def seen_s(self) -> float:
        """When the repository was believed last, since 1970."""
        return self._seen_s

    def digests(self) -> dict[str, str]:
        """What is believed, role by role: "VERSION SHA-256" of its newest metadata."""
        found: dict[str, tuple[int, str]] = {}
        for name, content in self.files.items():
            role = name.removesuffix(".json").removeprefix("root_history/")
            version = json.loads(content)["signed"]["version"]
            if name.startswith("root_history/"):
                role = "root"
            if role not in found or version > found[role][0]:
                found[role] = (version, hashlib.sha256(content.encode()).hexdigest())
        return {role: f"{version} {digest}" for role, (version, digest) in sorted(found.items())}

    def newest(self, family: str) -> Release | None:
        """The release of a family that is to be run now, or None if there never was one.

        Raises as `target`.
        """
        path = f"models/{family}/{MANIFEST_NAME}"
        target = self.target(path)
        return target and self._release(target, f"{TARGETS}models/{family}", path)

    def target(self, path: str | None) -> Any:
        """Asks the repository; -> the `tuf.api.metadata.TargetFile` of `path`, None if it has none.

        Raises SourceError or TrustError. What was believed on the way is remembered in any case.
        """
        from tuf.api import exceptions as tuf
        from tuf.ngclient.updater import Updater

        now = self._now()
        if now < self._seen_s - CLOCK_SLACK_S:
            raise TrustError(
                f"the clock says {_date(now)}, but it has been {_date(self._seen_s)}; set it right",
                attack="freeze",
            )
        with tempfile.TemporaryDirectory() as folder:
            self._unpack(Path(folder))
            try:
                updater = Updater(
                    folder, self._url, fetcher=_fetcher(self._source), bootstrap=self._root
                )
                updater.refresh()
                found = updater.get_targetinfo(path) if path else None
                self._seen_s = max(self._seen_s, now)
            except tuf.RepositoryError as error:
                raise TrustError(f"{self._url}: {error}", attack=_attack(error)) from error
            except tuf.DownloadLengthMismatchError as error:
                raise TrustError(f"{self._url}: {error}", attack="endless data") from error
            except tuf.DownloadError as error:
                raise SourceError(str(error), status=getattr(error, "status_code", None)) from error
            finally:
                self._pack(Path(folder))
        return found

    def _release(self, target: Any, folder: str, path: str) -> Release:
        custom = target.custom or {}
        number, version = custom.get("release"), custom.get("version")
        sha256 = target.hashes.get("sha256")
        if not isinstance(number, int) or not isinstance(version, str) or sha256 is None:
            raise TrustError(
                f"{path}: is signed without its release, version and SHA-256",
                attack="arbitrary software",
            )
        try:
            deltas = {
                new: {base: _entry(**entry) for base, entry in found.items()}
                for new, found in custom.get("deltas", {}).items()
            }
            needs, size = dict(custom.get("needs", {})), int(custom.get("size", 0))
        except (TypeError, ValueError, AttributeError) as error:
            raise TrustError(
                f"{path}: what is signed with it is not understood: {error}",
                attack="arbitrary software",
            ) from error
        return Release(
            candidate=Candidate(number, version, sha256),
            custom=custom,
            needs=needs,
            deltas=deltas,
            size=size,
            folder=folder,
            source=self._source,
        )

    def _unpack(self, folder: Path) -> None:
        for name, content in self.files.items():
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            target.write_text(content, "utf-8")

    def _pack(self, folder: Path) -> None:
        files = {
            path.relative_to(folder).as_posix(): path.read_text("utf-8")
            for path in sorted(folder.rglob("*.json"))
            if path.name != _LINK or path.parent != folder
        }
        self.files = files
        seen_s, known = self._saved
        if files == known and self._seen_s < seen_s + SEEN_EVERY_S:
            return
        content = {"seen_s": self._seen_s, "files": files}
        for _ in self._durable.files:  # both: one that is lost must not bring yesterday back
            self._durable.save(json.dumps(content, sort_keys=True).encode())
        self._saved = (self._seen_s, files)


def _entry(sha256: str, size: int) -> FileEntry:
    if not isinstance(sha256, str) or not isinstance(size, int):
        raise ValueError(f"a delta is {sha256!r:.80}, {size!r:.20}")
    return FileEntry(sha256=sha256, size=size)


def _fetcher(source: HttpSource) -> Any:
    """`source` as python-tuf wants it."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient.fetcher import FetcherInterface

    class Fetcher(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            try:
                yield from source.get(url)
            except SourceError as error:
                if error.status is None:
                    raise
                raise DownloadHTTPError(str(error), error.status) from error

    return Fetcher()


def _attack(error: Exception) -> str:
    from tuf.api import exceptions as tuf

    names = {
        tuf.ExpiredMetadataError: "freeze",
        tuf.BadVersionNumberError: "rollback",
        tuf.LengthOrHashMismatchError: "mix-and-match",
        tuf.UnsignedMetadataError: "key compromise",
    }
    for kind, name in names.items():
        if isinstance(error, kind):
            return name
    return "arbitrary software"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
