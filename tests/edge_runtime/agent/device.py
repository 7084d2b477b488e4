"""An agent as its own process, at a real broker; and segments without a recogniser."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_runtime.agent.control import ask
from tests.broker import Broker
from tests.edge_runtime.command_line import COMMAND, ROOT, environment, vitconformer

CONSENT = 'id = "c-1"\nfrom = 2020-01-01T00:00:00Z\n'
PATIENCE_S = 300  # nothing takes so long, but on a busy machine


def wait_until(what: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


class AgentProcess:
    """`vitconformer agent run`, really. `tables` are those of agent.toml beside what is needed."""

    def __init__(
        self,
        folder: Path,
        broker: Broker | None = None,
        *,
        name: str = "kitchen-1",
        consent: str | None = CONSENT,
        port: int | None = None,
        certificate: tuple[Path, Path] | None = None,
        tables: str = "",
        sampling: str = "confidence_below = 1.0",
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = folder / "agent.toml"
        self.state = folder / "state"
        self.consent = folder / "consent.toml"
        if consent is not None:
            self.consent.write_text(consent, "utf-8")
        lines = [
            "[device]", 'state = "state"',
            "[recognizer]", f'bundle = "{ROOT}/bundles/en-demo"',
            "[sampling]", sampling,
            "[outbox]", "reserve_mb = 0",
        ]  # fmt: skip
        if consent is not None:
            lines += ["[consent]", 'file = "consent.toml"']
        if broker is not None:
            pem, key = certificate or broker.identity(name)
            lines += [
                "[broker]", f'host = "{broker.host}"', f"port = {port or broker.port}",
                f'ca = "{broker.ca}"', f'certificate = "{pem}"', f'key = "{key}"',
            ]  # fmt: skip
        self.config.write_text("\n".join([*lines, tables]) + "\n", "utf-8")
        self._log = folder / "agent.log"
        self.process: subprocess.Popen[str] | None = None

    def start(self, *args: str, files: str = "samples", speed: str = "0") -> None:
        command = [*COMMAND, "agent", "run", "--config", str(self.config), "--linger", "20"]
        command += ["--files", str(ROOT / files), "--speed", speed, *args]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment(),
            )  # fmt: skip

    def run(self, *args: str, **options: str) -> str:
        """To the end of the files; -> stdout."""
        self.start(*args, **options)
        assert self.process is not None
        out, _ = self.process.communicate(timeout=2 * PATIENCE_S)
        assert self.process.returncode == 0, self.log
        return out

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def ask(self, *args: str) -> subprocess.CompletedProcess[str]:
        return vitconformer("agent", args[0], "--config", self.config, *args[1:])

    def status(self) -> dict[str, Any]:
        """Of the running agent; {} if none runs."""
        try:
            return ask(self.state, {"do": "status"}) or {}
        except FileNotFoundError:
            return {}

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def close(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
