"""Where the agent gets its recogniser from, and when it gets another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_runtime.agent.config import RecognizerSettings
from edge_runtime.ota.health import Health

if TYPE_CHECKING:
    from edge_runtime.decoding import DecoderConfig
    from edge_runtime.ota.updater import Updater
    from edge_runtime.recognizer import Recognizer


class Models(Protocol):
    """The models of a device. `start` and `changed` are called by the recognising thread."""

    def start(self) -> Recognizer:
        """A recogniser that works. Raises EdgeError where there is none, and is asked again."""

    def changed(self) -> Recognizer | None:
        """Another one to use from the next stream on, or None. Must not wait for anything."""

    def observe(self, health: Health) -> None:
        """How the running one does; called every few seconds, by one thread."""

    def status(self) -> dict[str, Any]:
        """For people, and JSON."""

    def close(self) -> None:
        """Ends what runs in the background."""


class UpdatedModels:
    """The bundles of an updater (`edge_runtime.ota.updater`)."""

    def __init__(self, updater: Updater[Recognizer]) -> None:
        self.updater = updater
        self._began = False

    def start(self) -> Recognizer:
        recognizer = self.updater.start(background=not self._began)
        self._began = True
        return recognizer

    def changed(self) -> Recognizer | None:
        return self.updater.changed()

    def observe(self, health: Health) -> None:
        self.updater.observe(health)

    def status(self) -> dict[str, Any]:
        return self.updater.status()

    def close(self) -> None:
        self.updater.close()


class FixedModel:
    """One bundle for ever."""

    def __init__(self, open_bundle: Callable[[], Recognizer]) -> None:
        self._open = open_bundle

    def start(self) -> Recognizer:
        return self._open()

    def changed(self) -> Recognizer | None:
        return None

    def observe(self, health: Health) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {"updates": "off"}

    def close(self) -> None:
        pass


def open_recognizer(settings: RecognizerSettings, bundle: Path | None = None) -> Recognizer:
    """A recogniser as the settings want it, of this bundle or of theirs. Raises EdgeError."""
    from edge_runtime.recognizer import Recognizer

    path = bundle or settings.bundle
    return Recognizer.open(
        path,
        chunk_ms=settings.chunk_ms,
        decoder=_decoder(settings, path),
        precision=settings.precision,
        backend=settings.backend,
        threads=settings.threads,
    )


def _decoder(settings: RecognizerSettings, bundle: Path) -> DecoderConfig:
    from edge_runtime.bundle import Bundle
    from edge_runtime.decoding import BeamConfig, GreedyConfig

    if not settings.beam:
        return GreedyConfig()
    language_model: dict[str, Any] = {}
    if settings.lm is not None:
        language_model = {"lm": str(settings.lm), "lm_weight": settings.lm_weight}
    else:
        language_model = Bundle.open(bundle).decoding()
    return BeamConfig(
        beam=settings.beam,
        hotwords=settings.hotwords,
        nbest=settings.alternatives + 1,
        **language_model,
    )
