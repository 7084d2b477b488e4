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
    slots.download(release.fetch)
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.contract.bundle import MANIFEST_NAME
from edge_runtime.ota.durable import Damaged, Durable
from edge_runtime.ota.errors import SourceError, TrustError
from edge_runtime.ota.fs import Fs
from edge_runtime.ota.http import HttpSource
from edge_runtime.ota.update import Candidate

METADATA, TARGETS = "metadata/", "targets/"  # of a repository
CLOCK_SLACK_S = 300.0  # that a clock may be set back by, as those of devices are now and then
_LINK = "root.json"  # python-tuf makes it anew every time


@dataclass(frozen=True, slots=True)
class Release:
    """A release that was signed for a family of models."""

    candidate: Candidate
    custom: Mapping[str, Any]  # what else was signed with it: what it needs of a device
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
        self.files: dict[str, str] = {}  # what is believed: python-tuf's cache, path -> content
        try:
            for content in self._durable.load()[:1]:
                known = json.loads(content)
                self._seen_s, self.files = known["seen_s"], known["files"]
        except Damaged:
            pass  # the floor of the record still guards against old releases

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
        return Release(Candidate(number, version, sha256), custom, folder, self._source)

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
        content = {"seen_s": self._seen_s, "files": files}
        self._durable.save(json.dumps(content, sort_keys=True).encode())


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
