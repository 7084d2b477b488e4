"""A new root where the root keys are away from the repository, on machines without a network.

::

    here         propose(repository, rotate=["timestamp"])  ->  root.json, not signed by anybody
    elsewhere    sign(root.json, signer)                        once for each key that is there
    here         adopt(repository, root.json)                   devices follow from now on

A proposal changes nothing: the new keys wait in ``KEYS/pending.json``, and the repository goes on
with the old ones until the root is adopted, which can be repeated after a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from autotrain_cloud.release import (
    PRETTY,
    TOP_LEVEL,
    KeyRing,
    Repository,
    assign_keys,
    until,
)
from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically

PENDING = "pending.json"


def propose(
    repository: Repository,
    *,
    rotate: Sequence[str] = (),
    add: Sequence[Key] = (),
    drop: Sequence[str] = (),
) -> bytes:
    """The next root, unsigned: valid for another year, with new keys for the roles in `rotate`.

    `add` are public root keys that were made elsewhere, `drop` ids of root keys.  Raises
    ConfigError for what there is not, and for a root that nobody could sign.
    """
    keys = KeyRing(repository.keys.folder, {r: list(k) for r, k in repository.keys.roles.items()})
    for role in rotate:
        if role not in TOP_LEVEL[1:]:
            raise ConfigError(f"{role!r}: a root gives keys to {', '.join(TOP_LEVEL[1:])}")
        keys.roles[role].pop(0)
        keys.make(role, keys.free_name(role))
    found = repository.read("root", Root)
    ids = [key.keyid for key, _ in keys.roles["root"]]
    if missing := [keyid for keyid in drop if keyid not in ids]:
        raise ConfigError(f"{missing[0]}: is no root key (there are {', '.join(ids)})")
    keys.roles["root"] = [
        *(one for one in keys.roles["root"] if one[0].keyid not in drop),
        *((key, "") for key in add if key.keyid not in ids),
    ]
    threshold = found.signed.roles["root"].threshold
    if len(keys.roles["root"]) < threshold:
        raise ConfigError(
            f"{len(keys.roles['root'])} root keys would be left, where {threshold} must sign"
        )
    for role in TOP_LEVEL:
        assign_keys(found.signed, role, [key for key, _ in keys.roles[role]])
    found.signed.version += 1
    found.signed.expires = until("root")
    found.signatures.clear()
    keys.save(PENDING)
    return found.to_bytes(PRETTY)


def new_key(path: Path) -> Key:
    """A private key in a file that is readable by its owner alone; -> its public half."""
    if path.exists():
        raise ConfigError(f"{path}: there is a file already")
    signer = CryptoSigner.generate_ed25519()
    write_atomically(path, signer.private_bytes, mode=0o600)
    return signer.public_key


def sign(path: Path, key: str, keyid: str = "") -> int:
    """Adds a signature to a proposed root; -> how many it has.

    `key` is a PEM file, or any URI of securesystemslib with the `keyid` that it has in the root.
    """
    found = _root(path)
    signer: Signer
    try:
        if keyid:
            if keyid not in found.signed.keys:
                raise ConfigError(f"{path}: has no key {keyid}")
            signer = Signer.from_priv_key_uri(key, found.signed.keys[keyid])
        else:
            signer = Signer.from_priv_key_uri(
                f"file2:{Path(key).absolute()}", _public(Path(key).read_bytes())
            )
    except ConfigError:
        raise
    except Exception as error:  # every kind of key has errors of its own
        raise ConfigError(f"{key}: this key cannot be used: {error}") from error
    found.sign(signer, append=True)
    write_atomically(path, found.to_bytes(PRETTY))
    return len(found.signatures)


def adopt(repository: Repository, path: Path) -> int:
    """Makes a signed proposal the root of the repository; -> its version. Raises ConfigError."""
    found, now = _root(path), repository.read("root", Root)
    content = path.read_bytes()
    if found.signed.version == now.signed.version and content == now.to_bytes(PRETTY):
        pass  # a crash came after it was written
    elif found.signed.version != now.signed.version + 1:
        raise ConfigError(
            f"{path}: is root {found.signed.version}, and {now.signed.version} is in use; "
            "propose it again"
        )
    for root, name in ((now.signed, "the present"), (found.signed, "the new")):
        try:
            root.verify_delegate("root", found.signed_bytes, found.signatures)
        except UnsignedMetadataError as error:
            raise ConfigError(
                f"{path}: too few of {name} root keys have signed: {error}"
            ) from error
    pending = KeyRing.load(repository.keys.folder, PENDING)
    for role in TOP_LEVEL:
        if {key.keyid for key, _ in pending.roles[role]} != set(found.signed.roles[role].keyids):
            raise ConfigError(f"{path}: is not what was proposed here: other keys for {role}")
    changed = set(now.signed.roles["targets"].keyids) != set(found.signed.roles["targets"].keyids)
    write_atomically(repository.folder / "metadata" / f"{found.signed.version}.root.json", content)
    pending.save()
    repository.keys.roles = pending.roles
    if changed:
        repository.renew_targets()
    repository.refresh()
    (repository.keys.folder / PENDING).unlink()
    return found.signed.version


def _public(pem: bytes) -> Key:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import SSlibKey

    return SSlibKey.from_crypto(load_pem_private_key(pem, None).public_key())


def _root(path: Path) -> Metadata[Root]:
    try:
        found: Metadata[Root] = Metadata[Root].from_bytes(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except DeserializationError as error:
        raise ConfigError(f"{path}: is no root: {error}") from error
    return found
