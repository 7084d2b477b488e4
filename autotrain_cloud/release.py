"""The repository of releases: what devices trust, as files that any web server can serve.

::

    REPO/metadata/     The Update Framework's roles, with consistent snapshots
    REPO/targets/models/FAMILY/SHA256.NAME      files of bundles; SHA256.delta: what leads to them
    KEYS/keys.json     which keys sign for which role, and where their private halves are
    KEYS/*.pem         those of them that are files
    KEYS/pending.json  keys of a root that waits for its signatures (`autotrain_cloud.ceremony`)

======== ============ =========== ===============================================================
role     keys         valid for   says
======== ============ =========== ===============================================================
root     2 of 3       a year      which keys the other roles have; kept away from any network
targets  1            a year      which key may release which family of models
FAMILY   1            a quarter   the manifest of the release that devices are to run
snapshot 1            a month     which versions of the above belong together
timestamp 1           a week      which snapshot is the newest; to be signed anew before it ends
======== ============ =========== ===============================================================

A private key is named by a URI that securesystemslib understands: a file here, or an HSM (`hsm:`)
or a cloud's key service (`awskms:`, `gcpkms:`, `azurekms:`) when keys.json is edited to say so.

Everything is written in the order in which devices may read it: files, then what names them, the
timestamp last.  Whoever reads while a release is published sees the old one or the new one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from securesystemslib.signer import CryptoSigner, Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from autotrain_cloud import deltas
from autotrain_cloud.locks import locked
from edge_runtime.bundle import Bundle
from edge_runtime.contract.bundle import MANIFEST_NAME, is_plain_name
from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically
from edge_runtime.ota.compat import malformed

VALID = {"root": 365, "targets": 365, "family": 92, "snapshot": 31, "timestamp": 7}  # days
ROOT_KEYS, ROOT_THRESHOLD = 3, 2
TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
P = ParamSpec("P")
T = TypeVar("T")
PRETTY = JSONSerializer(compact=False)


@dataclass(slots=True)
class KeyRing:
    """The keys of every role: public halves, and where to find the private ones."""

    folder: Path
    roles: dict[str, list[tuple[Key, str]]] = field(default_factory=dict)  # role -> (key, URI)

    @classmethod
    def load(cls, folder: Path, name: str = "keys.json") -> KeyRing:
        """Raises ConfigError for a folder that is no key ring."""
        path = folder / name
        try:
            roles = {
                role: [
                    (Key.from_dict(one["keyid"], dict(one["public"])), str(one["uri"]))
                    for one in keys
                ]
                for role, keys in json.loads(path.read_text("utf-8")).items()
            }
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {error.strerror}; `vitconformer release init` makes keys"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: is not a list of keys: {error!r}") from error
        return cls(folder, roles)

    def save(self, name: str = "keys.json") -> None:
        described = {
            role: [{"keyid": k.keyid, "public": k.to_dict(), "uri": uri} for k, uri in keys]
            for role, keys in self.roles.items()
        }
        write_atomically(self.folder / name, json.dumps(described, indent=1).encode())

    def free_name(self, role: str) -> str:
        """For another key of a role."""
        number = 1
        while (self.folder / f"{role}-r{number}.pem").exists():
            number += 1
        return f"{role}-r{number}"

    def make(self, role: str, name: str) -> Key:
        """A new key in a file of its own, readable by its owner alone."""
        signer = CryptoSigner.generate_ed25519()
        path = self.folder / f"{name}.pem"
        if path.exists():
            raise ConfigError(f"{path}: there is a key already; move it away")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, signer.private_bytes, mode=0o600)
        self.roles.setdefault(role, []).append((signer.public_key, f"file2:{path.name}"))
        return signer.public_key

    def signers(self, role: str) -> list[Signer]:
        """Raises ConfigError, naming the key, if one cannot be used."""
        if role not in self.roles:
            raise ConfigError(f"{self.folder}/keys.json: has no keys for {role!r}")
        found = []
        for key, uri in self.roles[role]:
            if not uri:
                continue  # kept elsewhere, and only its public half is known here
            kind, _, name = uri.partition(":")
            if kind == "file2" and not Path(name).is_absolute():
                uri = f"file2:{(self.folder / name).absolute()}"
            try:
                found.append(Signer.from_priv_key_uri(uri, key))
            except FileNotFoundError:
                continue  # a root key that is kept elsewhere; the threshold decides
            except Exception as error:  # every kind of key has errors of its own
                raise ConfigError(f"{uri}: this key cannot be used: {error}") from error
        return found


def _one_at_a_time(change: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(change)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        repository: Any = args[0]
        with repository._alone():
            return change(*args, **kwargs)

    return alone


class Repository:
    """A repository on disk, and the keys at hand."""

    def __init__(self, folder: Path, keys: KeyRing) -> None:
        self.folder = folder
        self.keys = keys
        self._depth = 0  # of `_alone`

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Of all processes that change the repository, one at a time; a killed one lets go."""
        if self._depth:
            yield
            return
        with locked(self.keys.folder / "lock"):
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0

    @classmethod
    def create(cls, folder: Path, keys_folder: Path, families: list[str]) -> Repository:
        """A repository without releases, with new keys. Raises ConfigError if one is there."""
        if (folder / "metadata").exists() or (keys_folder / "keys.json").exists():
            raise ConfigError(f"{folder} or {keys_folder}: there is a repository, or keys, already")
        keys = KeyRing(keys_folder)
        made = cls(folder, keys)
        for number in range(1, ROOT_KEYS + 1):
            keys.make("root", f"root-{number}")
        for role in TOP_LEVEL[1:]:
            keys.make(role, role)
        root = Root(expires=until("root"), consistent_snapshot=True)
        for role in TOP_LEVEL:
            for key, _ in keys.roles[role]:
                root.add_key(key, role)
        root.roles["root"].threshold = ROOT_THRESHOLD
        targets = Targets(expires=until("targets"), delegations=Delegations({}, {}))
        snapshot, timestamp = Snapshot(expires=until("snapshot")), Timestamp()
        for family in families:
            made._delegate(targets, family)
        keys.save()
        made.write("root", Metadata(root))
        made.write("targets", Metadata(targets))
        for family in families:
            made.write(family, Metadata(Targets(expires=until("family"))))
            snapshot.meta[f"{family}.json"] = MetaFile(1)
        made.write("snapshot", Metadata(snapshot))
        timestamp.expires = until("timestamp")
        made.write("timestamp", Metadata(timestamp))
        return made

    @_one_at_a_time
    def publish_once(
        self, bundle: Bundle, needs: Mapping[str, Any] | None = None, *, last: int = deltas.LAST
    ) -> bool:
        """Publishes, unless this very bundle is the release already; -> whether it was not.

        For whoever was cut off and cannot know how far it came: what is missing is done.
        Raises ConfigError as `publish` does, for another bundle of the same release counter too.
        """
        family = bundle.manifest.name
        found = self.read(family, Targets).signed
        now = found.targets.get(f"models/{family}/{MANIFEST_NAME}")
        content = (bundle.path / MANIFEST_NAME).read_bytes()
        if now is None or now.hashes["sha256"] != hashlib.sha256(content).hexdigest():
            self.publish(bundle, needs, last=last)
            return True
        snapshot = self.read("snapshot", Snapshot).signed
        timestamp = self.read("timestamp", Timestamp).signed
        if (
            snapshot.meta[f"{family}.json"].version != found.version
            or timestamp.snapshot_meta.version != snapshot.version
        ):
            self.refresh()
        return False

    @_one_at_a_time
    def publish(
        self, bundle: Bundle, needs: Mapping[str, Any] | None = None, *, last: int = deltas.LAST
    ) -> int:
        """Makes a bundle the release of its family; -> its release counter.

        `needs` is signed with it: what a device must have or be (`edge_runtime.ota.compat`), beside
        what the bundle's manifest says of its runtime.  Deltas are made against the `last`
        releases.  Raises ConfigError for a family that has no role, needs that no device could
        understand, or a release counter that does not rise.
        """
        manifest = bundle.manifest
        family = manifest.name
        found = self.read(family, Targets)
        path = f"models/{family}/{MANIFEST_NAME}"
        now = found.signed.targets.get(path)
        if now is not None and now.custom and now.custom["release"] >= manifest.release_counter:
            raise ConfigError(
                f"{bundle.path / MANIFEST_NAME}: release_counter: {manifest.release_counter} is "
                f"not above {now.custom['release']}, which is published; export with a higher one"
            )
        wanted = {**manifest.runtime, **(needs or {})}
        if wrong := malformed(wanted):
            raise ConfigError(f"needs: {wrong}")
        folder = self._files(family)
        folder.mkdir(parents=True, exist_ok=True)
        signed_deltas = deltas.make(folder, bundle, last)
        for name, entry in manifest.files.items():
            write_atomically(folder / f"{entry.sha256}.{name}", bundle.file(name).read_bytes())
        target = TargetFile.from_file(path, str(bundle.path / MANIFEST_NAME), ["sha256"])
        content = (bundle.path / MANIFEST_NAME).read_bytes()
        write_atomically(folder / f"{target.hashes['sha256']}.{MANIFEST_NAME}", content)
        target.unrecognized_fields["custom"] = {
            "release": manifest.release_counter,
            "version": manifest.version,
            "needs": wanted,
            "size": sum(entry.size for entry in manifest.files.values()) + len(content),
            "deltas": signed_deltas,
        }
        found.signed.targets[path] = target
        self.renew(family, found, "family")
        self.refresh()
        return manifest.release_counter

    @_one_at_a_time
    def add(self, family: str) -> None:
        """A further family of models, with a key of its own."""
        targets = self.read("targets", Targets)
        if family in self.delegated() or family in TOP_LEVEL:
            raise ConfigError(f"{self.folder}: there is a role {family!r} already")
        if not is_plain_name(family):
            raise ConfigError(f"{family!r}: a family is named as its bundles are")
        self._delegate(targets.signed, family)
        self.keys.save()
        self.write(family, Metadata(Targets(expires=until("family"))), within=targets.signed)
        self.renew("targets", targets, "targets")
        self.refresh()

    @_one_at_a_time
    def prune(self, family: str, keep: int) -> int:
        """Removes what only releases before the `keep` newest need, and metadata as old; -> bytes.

        Devices that run older ones fetch whole files.
        """
        signed = self.read(family, Targets).signed.targets.values()
        custom = [target.custom or {} for target in signed]
        freed = deltas.prune(
            self._files(family),
            {k: v for one in custom for k, v in one.get("deltas", {}).items()},
            keep,
            [target.hashes["sha256"] for target in signed],
        )
        for role in ("targets", "snapshot", family):  # of root all: new devices follow the chain
            version = self.read(role, Targets if role != "snapshot" else Snapshot).signed.version
            for path in (self.folder / "metadata").glob(f"[0-9]*.{role}.json"):
                if int(path.name.split(".")[0]) <= version - keep:
                    freed += path.stat().st_size
                    path.unlink()
        return freed

    @_one_at_a_time
    def revoke(self, family: str) -> None:
        """Devices that do not run the family's release yet will not take it up."""
        found = self.read(family, Targets)
        if not found.signed.targets:
            raise ConfigError(f"{self.folder}: {family!r} has no release to revoke")
        found.signed.targets.clear()
        self.renew(family, found, "family")
        self.refresh()

    @_one_at_a_time
    def rotate(self, role: str) -> None:
        """A new key for a role in the place of one that may be known to others, or is old.

        For root, the oldest of its keys is replaced; old and new keys sign, so that devices can
        follow.
        """
        if role not in self.keys.roles:
            raise ConfigError(f"{self.folder}: no role {role!r}: {', '.join(self.keys.roles)}")
        before = self.keys.signers("root") if role == "root" else []
        self.keys.roles[role].pop(0)
        self.keys.make(role, self.keys.free_name(role))
        self.keys.save()  # first: when what follows is cut off, rotating once more mends it
        top = role in TOP_LEVEL
        above = self.read("root", Root) if top else self.read("targets", Targets)
        assign_keys(above.signed, role, [key for key, _ in self.keys.roles[role]])
        name = "root" if top else "targets"
        self.renew(name, above, name, before)
        if role not in ("root", "snapshot", "timestamp"):
            # What the old key has signed is worth nothing now.
            self.renew(role, self.read(role, Targets), "targets" if top else "family")
        self.refresh()

    @_one_at_a_time
    def renew_targets(self) -> None:
        """Signs anew which families there are."""
        self.renew("targets", self.read("targets", Targets), "targets")

    @_one_at_a_time
    def refresh(self) -> None:
        """Signs anew what says how fresh everything is: to be run daily, and after any change."""
        snapshot = self.read("snapshot", Snapshot)
        for role in ("targets", *self.delegated()):
            version = self.read(role, Targets).signed.version
            snapshot.signed.meta[f"{role}.json"] = MetaFile(version)
        self.renew("snapshot", snapshot, "snapshot")
        timestamp = self.read("timestamp", Timestamp)
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        self.renew("timestamp", timestamp, "timestamp")

    def status(self) -> list[str]:
        """A line for every role: its version, until when it is valid, and what is released."""
        kinds = {"root": Root, "snapshot": Snapshot, "timestamp": Timestamp}
        lines = []
        for role in (*TOP_LEVEL, *self.delegated()):
            signed = self.read(role, kinds.get(role, Targets)).signed
            line = f"{role:12} version {signed.version}, valid until {signed.expires:%Y-%m-%d}"
            if role not in TOP_LEVEL:
                custom = [target.custom or {} for target in signed.targets.values()]
                released = [f"{one['version']} (release {one['release']})" for one in custom]
                line += f": {', '.join(released) or 'no release'}"
            lines.append(line)
        return lines

    # -- inside ------------------------------------------------------------------------------------

    def _files(self, family: str) -> Path:
        return self.folder / "targets" / "models" / family

    def delegated(self) -> list[str]:
        delegations = self.read("targets", Targets).signed.delegations
        return sorted(delegations.roles or {}) if delegations else []

    def _delegate(self, targets: Targets, family: str) -> None:
        key = self.keys.make(family, family)
        role = DelegatedRole(family, [], 1, True, paths=[f"models/{family}/*"])
        assert targets.delegations is not None and targets.delegations.roles is not None
        targets.delegations.roles[family] = role
        targets.add_key(key, family)

    def read(self, role: str, kind: Any) -> Metadata[Any]:
        """The newest metadata of a role."""
        folder = self.folder / "metadata"
        if role == "timestamp":
            path = folder / "timestamp.json"
        else:
            versions = [int(p.name.split(".")[0]) for p in folder.glob(f"[0-9]*.{role}.json")]
            path = folder / f"{max(versions, default=0)}.{role}.json"
        try:
            found: Metadata[Any] = Metadata[kind].from_file(str(path))
        except DeserializationError as error:
            raise ConfigError(f"{path}: is not metadata of a repository: {error}") from error
        except Exception as error:  # securesystemslib's StorageError, when there is no file
            raise ConfigError(f"{self.folder}: has no role {role!r}: {error}") from error
        return found

    def renew(
        self, role: str, metadata: Metadata[Any], kind: str, also: list[Signer] | None = None
    ) -> None:
        """Signs and writes the next version of a role; `also` are keys that the next one lacks."""
        metadata.signed.version += 1
        metadata.signed.expires = until(kind)
        self.write(role, metadata, also)

    def write(
        self,
        role: str,
        metadata: Metadata[Any],
        also: list[Signer] | None = None,
        within: Targets | None = None,
    ) -> None:
        """Signs and writes; `within`: what delegates to it, where that is not written yet."""
        metadata.signatures.clear()
        for signer in [*(also or []), *self.keys.signers(role)]:
            metadata.sign(signer, append=True)
        # What devices would refuse is not written.
        trusted = [metadata.signed] if role == "root" else []
        if role != "root" or metadata.signed.version > 1:
            above = "root" if role in TOP_LEVEL else "targets"
            kind = Root if above == "root" else Targets
            trusted.append(within or self.read(above, kind).signed)
        for delegator in trusted:
            try:
                delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            except UnsignedMetadataError as error:
                raise ConfigError(
                    f"{self.keys.folder}: the keys that are here do not suffice for {role!r} "
                    f"({error}); bring the others, or `vitconformer release rotate {role}`"
                ) from error
        name = f"{role}.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        write_atomically(self.folder / "metadata" / name, metadata.to_bytes(PRETTY))


def assign_keys(signed: Root | Targets, role: str, keys: list[Key]) -> None:
    """Makes these, and no others, the keys of a role."""
    if isinstance(signed, Root):
        present = signed.roles[role].keyids
    else:
        assert signed.delegations is not None and signed.delegations.roles is not None
        present = signed.delegations.roles[role].keyids
    ours = [key.keyid for key in keys]
    for keyid in [keyid for keyid in present if keyid not in ours]:
        signed.revoke_key(keyid, role)
    for key in keys:
        signed.add_key(key, role)


def until(kind: str) -> datetime:
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return now + timedelta(days=VALID[kind])
