"""Errors of updates, by who must act; both leave the device as it was."""

from __future__ import annotations

from edge_runtime.errors import EdgeError


class SourceError(EdgeError):
    """The repository cannot be reached, or has not what it should: try again later."""

    def __init__(
        self, message: str, *, status: int | None = None, attack: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status  # of HTTP, where there was an answer
        self.attack = attack  # that this looks like, by its name in the TUF specification

    @property
    def for_good(self) -> bool:
        """Whether asking again soon is no use: the server says that the mistake is ours."""
        return (
            self.status is not None and 400 <= self.status < 500 and self.status not in (408, 429)
        )


class TrustError(EdgeError):
    """What a repository says must not be believed: its operator, or an attacker, did something.

    `attack` names it as the TUF specification does (1.0.34, section 1.5.2).
    """

    def __init__(self, message: str, *, attack: str) -> None:
        super().__init__(message)
        self.attack = attack
