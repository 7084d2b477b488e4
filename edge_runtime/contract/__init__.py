"""What devices, training and cloud agree on. Standard library only, so every side can have it."""

from edge_runtime.contract.bundle import SCHEMA_VERSION, FileEntry, Manifest

__all__ = ["SCHEMA_VERSION", "FileEntry", "Manifest"]
