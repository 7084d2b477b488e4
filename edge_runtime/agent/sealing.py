"""Bytes at rest: AES-256-GCM under a key that never leaves the device.

What is sealed is bound to facts beside it, its id for one: opened with other facts, or changed by
one bit, it does not open. A nonce is random, which is safe for 2^32 seals under one key (NIST SP
800-38D, section 8.3); a segment a second reaches that after 136 years.

The key lies in a file beside the data, so it protects what leaves the disk without it, and what was
deleted, not a device whose whole disk was taken. Where there is a TPM, keep the key file on a
volume that it unlocks.
"""

from __future__ import annotations

import hashlib
import secrets
import stat
from pathlib import Path

from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.files import sync_directory, write_atomically

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16


class Sealer:
    """Seals and opens under one key."""

    OVERHEAD = _NONCE_BYTES + _TAG_BYTES  # bytes that sealing adds

    def __init__(self, key: bytes) -> None:
        """Raises ConfigError where the cryptography package is missing."""
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigError(
                "sealing segments needs cryptography: pip install 'vitconformer[agent]'"
            ) from error
        self._cipher = AESGCM(key)
        self.key_id = int.from_bytes(hashlib.sha256(b"id of " + key).digest()[:4], "big") >> 1

    def seal(self, data: bytes, bound: bytes) -> bytes:
        """Nonce, ciphertext and tag; opens with the same `bound` only."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """What was sealed. Raises StorageError if it, or what it was bound to, was changed."""
        from cryptography.exceptions import InvalidTag

        try:
            nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, rest, bound)
        except (InvalidTag, ValueError, TypeError) as error:
            raise StorageError("is damaged, or was sealed under another key") from error


def load_key(path: Path) -> bytes:
    """The key in this file; made on first use, readable by its owner only.

    Raises ConfigError if others can read it or it is no key, StorageError if it cannot be made.
    """
    try:
        key = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return _new_key(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot read the key: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(f"{path}: others may read this key (mode {mode:o}): chmod 600 it")
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{path}: has {len(key)} bytes, not the {KEY_BYTES} of a key: restore it, or move it"
            " away to begin with a new one"
        )
    return key


def _new_key(path: Path) -> bytes:
    key = secrets.token_bytes(KEY_BYTES)
    try:
        write_atomically(path, key, mode=0o600)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot write a new key: {error.strerror}") from error
    return key
