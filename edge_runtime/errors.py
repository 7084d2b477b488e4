"""What can go wrong, sorted by who must act.

    EdgeError
    ├── ConfigError              the operator: change an option or a file      -> exit 2
    ├── AudioError               the audio source: reopen, repair or drop it
    ├── BackendError             the engine could not start or run: try the next backend
    ├── ContractError            the peer sent something illegal: drop it, count it, go on
    ├── StorageError             the device's disk: free some, or repair it; recognising goes on
    └── BundleError              the model files must not be used: keep the old ones, report
        ├── BundleTampered       a file is not the one the manifest promised: fetch it again
        └── BundleIncompatible   sound, but not for this runtime: update one of the two

Every error of a lower library is mapped onto one of these, with the cause chained. A mistake of the
calling code (wrong shape, wrong type) stays a ValueError or TypeError: nobody should catch those.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigError(EdgeError):
    """An option or a configuration file is wrong; the operator must change it."""


class AudioError(EdgeError):
    """The audio cannot be used: unreadable, NaN samples, or a source that went away."""


class BackendError(EdgeError):
    """The inference engine could not start or failed while running."""


class ContractError(EdgeError):
    """A message, topic or identifier that the contract between device and cloud does not allow.

    The message text names the kind of message and the field, each where known; the same facts are
    attributes.
    """

    def __init__(
        self,
        problem: str,
        *,
        message: str | None = None,
        field: str | None = None,
        expected: str | None = None,
    ) -> None:
        where = ": ".join(part for part in (message, field) if part)
        text = f"{where}: {problem}" if where else problem
        super().__init__(f"{text} (expected {expected})" if expected else text)
        self.problem = problem
        self.message = message
        self.field = field
        self.expected = expected


class StorageError(EdgeError):
    """What must be kept could not be written or read; nothing was half-written."""


class BundleError(EdgeError):
    """Model files that must not be used. Nothing was loaded.

    The message names the file, the field, what was expected and what to do, each where known; the
    same facts are attributes for callers that report them.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        field: str | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        where = ": ".join(part for part in (file, field) if part)
        message = f"{where}: {problem}" if where else problem
        if expected:
            message += f" (expected {expected})"
        if remedy:
            message += f"; {remedy}"
        super().__init__(message)
        self.problem = problem
        self.file = file
        self.field = field
        self.expected = expected
        self.remedy = remedy


class BundleTampered(BundleError):
    """A file differs from the size or digest in the manifest, or is missing; fetch it again."""


class BundleIncompatible(BundleError):
    """A sound bundle that this runtime cannot run: other schema, frontend or graph contract."""
