"""agent.toml: every key is documented, every path has its place, every mistake a name."""

from __future__ import annotations

import configparser
import dataclasses
import re
import shutil
import subprocess
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.agent import keys
from edge_runtime.agent.config import AgentSettings, read_agent_settings
from edge_runtime.errors import ConfigError

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "agent.md").read_text("utf-8")
LEAST = '[device]\nstate = "state"\nname = "a"\n[recognizer]\nbundle = "bundle"\n'


def every_key(kind: type, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, types.UnionType):
            (hint,) = (each for each in hint.__args__ if each is not types.NoneType)
        if dataclasses.is_dataclass(hint):
            yield from every_key(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_every_key_is_documented_with_a_meaning() -> None:
    for key in every_key(AgentSettings):
        table, _, name = key.partition(".")
        [section] = re.findall(rf"^### \[{table}\].*?(?=^### |\Z)", DOCUMENT, re.M | re.S)
        rows = [line for line in section.splitlines() if line.startswith(f"| `{name}` |")]
        assert len(rows) == 1, key
        assert len(rows[0].split("|")[4].strip()) > 4, key


def test_the_document_is_what_the_settings_say() -> None:
    assert DOCUMENT.endswith(keys.tables()), "python -m edge_runtime.agent.keys writes it"


def test_the_first_example_of_the_document_is_right(tmp_path: Path) -> None:
    [example] = re.findall(r"## A first agent.toml\n\n```toml\n(.*?)```", DOCUMENT, re.S)
    file = tmp_path / "agent.toml"
    file.write_text(example)
    assert read_agent_settings(file).broker is not None


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(LEAST + '[audio]\nfiles = ["talks", "/abs.wav"]\n')
    settings = read_agent_settings(file)
    assert settings.device.state == tmp_path / "state"
    assert settings.recognizer.bundle == tmp_path / "bundle"
    assert settings.audio.files == (tmp_path / "talks", Path("/abs.wav"))
    assert settings.sampling.random_share == 0.01


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ('[broker]\nhost = ""\n', "broker: host: is empty"),
        ('[broker]\nhost = "b"\nport = 0\n', "broker: port: 1 to 65535, not 0"),
        ('[broker]\nhost = "b"\nkey = "k"\ncertificate = "c"\n', "broker: ca: is missing"),
        ("[telemetry]\ninterval_s = 0\n", "telemetry: interval_s: 1 to 86400, not 0"),
        ('[sampling]\ntime_zone = "Mars/North"\n', "'Mars/North' is not known here"),
        ("[outbox]\nquota = 3\n", "unknown field 'quota'; did you mean 'quota_mb'?"),
        ("[audio]\nspeed = -1\n", "audio: speed: 0 to 1000, not -1"),
        ('[recognizer.x]\na = "b"\n', "unknown field 'x'"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_expectation(
    more: str, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(LEAST + more)
    with pytest.raises(ConfigError) as caught:
        read_agent_settings(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert expected in str(caught.value)


def test_a_broker_without_certificates_needs_a_name(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(LEAST.replace('name = "a"\n', "") + '[broker]\nhost = "b"\n')
    with pytest.raises(ConfigError, match="device: name: is missing"):
        read_agent_settings(file)


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    unit = ROOT / "deploy" / "systemd" / "vitconformer-agent.service"
    text = unit.read_text("utf-8")
    if shutil.which("systemd-analyze"):
        installed = tmp_path / unit.name
        installed.write_text(re.sub(r"/opt/vitconformer/bin/vitconformer", "/bin/true", text))
        done = subprocess.run(
            ["systemd-analyze", "verify", str(installed)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert unit.name not in done.stderr
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    service = dict(parser["Service"])
    assert service["Type"] == "notify"
    assert service["ProtectSystem"] == "strict"
    assert service["DynamicUser"] == "yes"
    assert int(service["WatchdogSec"]) > 60  # `agent.STUCK_S`
    assert "agent run --config /etc/vitconformer/agent.toml" in service["ExecStart"]
