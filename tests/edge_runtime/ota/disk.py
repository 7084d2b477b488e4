"""A disk that forgets: everything the port of `edge_runtime.ota.fs` allows a power cut to do.

Files are inodes with the bytes they have and the bytes that were synced; directories likewise with
names.  `PoweredDisk(cut_at=n)` does n operations that change something and then raises `PowerCut`;
`after_cut` is what a restart finds, for one way to forget.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Union

DATA = ("kept", "dropped", "truncated", "zeroed")  # what became of bytes that were not synced
NAMES = ("kept", "dropped", "newest")  # and of names: all changes, none, or only the last one
WAYS = tuple(itertools.product(NAMES, DATA))


class PowerCut(BaseException):
    """No code may catch it by accident."""


@dataclass
class File:
    data: bytes = b""
    synced: bytes | None = None  # None: never

    def surviving(self, way: str) -> bytes:
        if way == "kept":
            return self.data
        if way == "dropped":
            return self.synced or b""
        old = self.synced or b""
        start = len(old) if self.data.startswith(old) else 0
        new = self.data[start:]
        return self.data[:start] + (bytes(len(new)) if way == "zeroed" else new[: len(new) // 2])


@dataclass
class Directory:
    entries: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)
    newest: dict[str, Node | None] = field(default_factory=dict)  # None: removed

    def change(self, **names: Node | None) -> None:
        """One atomic change of names."""
        self.newest = names
        for name, node in names.items():
            if node is None:
                del self.entries[name]
            else:
                self.entries[name] = node

    def surviving(self, way: str) -> dict[str, Node]:
        if way == "kept":
            return self.entries
        changed = {**self.synced, **(self.newest if way == "newest" else {})}
        return {name: node for name, node in changed.items() if node is not None}


Node = Union[File, Directory]  # noqa: UP007 -- evaluated when the module is imported


class PoweredDisk:
    """`Fs` in memory."""

    def __init__(self, root: Directory | None = None, *, cut_at: int | None = None) -> None:
        self.root = root or Directory()
        self.cut_at = cut_at
        self.done = 0

    def after_cut(self, names: str, data: str) -> PoweredDisk:
        def survive(node: Node) -> Node:
            if isinstance(node, File):
                content = node.surviving(data)
                return File(content, content)
            kept = {name: survive(child) for name, child in node.surviving(names).items()}
            return Directory(kept, dict(kept))

        root = survive(self.root)
        assert isinstance(root, Directory)
        return PoweredDisk(root)

    def _change(self) -> None:
        if self.done == self.cut_at:
            raise PowerCut
        self.done += 1

    def _find(self, path: str) -> Node:
        node: Node = self.root
        for name in path.split("/"):
            if name == ".":
                continue
            if not isinstance(node, Directory) or name not in node.entries:
                raise FileNotFoundError(path)
            node = node.entries[name]
        return node

    def _directory(self, path: str) -> tuple[Directory, str]:
        parent, _, name = path.rpartition("/")
        node = self._find(parent or ".")
        assert isinstance(node, Directory)
        return node, name

    def read(self, path: str) -> bytes:
        node = self._find(path)
        assert isinstance(node, File)
        return node.data

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.read(path)).hexdigest()

    def size(self, path: str) -> int:
        try:
            return len(self.read(path))
        except FileNotFoundError:
            return -1

    def list(self, path: str) -> list[str]:
        try:
            node = self._find(path)
        except FileNotFoundError:
            return []
        assert isinstance(node, Directory)
        return sorted(node.entries)

    def write(self, path: str, data: bytes) -> None:
        self._change()
        directory, name = self._directory(path)
        node = directory.entries.get(name)
        if isinstance(node, File):
            node.data = data
        else:
            directory.change(**{name: File(data)})

    def append(self, path: str, data: bytes) -> None:
        self._change()
        directory, name = self._directory(path)
        if name not in directory.entries:
            directory.change(**{name: File()})
        node = directory.entries[name]
        assert isinstance(node, File)
        node.data += data

    def rename(self, old: str, new: str) -> None:
        self._change()
        source, name = self._directory(old)
        target, new_name = self._directory(new)
        assert not isinstance(target.entries.get(new_name), Directory), "not empty"
        node = source.entries[name]
        if source is target:
            target.change(**{name: None, new_name: node})
        else:
            target.change(**{new_name: node})
            source.change(**{name: None})

    def remove(self, path: str) -> None:
        directory, name = self._directory(path)
        node = directory.entries.get(name)
        if node is None:
            return
        if isinstance(node, Directory):  # as rmtree does: one by one
            for child in sorted(node.entries):
                self.remove(f"{path}/{child}")
        self._change()
        directory.change(**{name: None})

    def mkdir(self, path: str) -> None:
        directory, name = self._directory(path)
        if name not in directory.entries:
            self._change()
            directory.change(**{name: Directory()})

    def sync(self, path: str) -> None:
        self._change()
        node = self._find(path)
        if isinstance(node, File):
            node.synced = node.data
        else:
            node.synced, node.newest = dict(node.entries), {}
