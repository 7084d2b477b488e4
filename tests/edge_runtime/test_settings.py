"""Settings from TOML: right values come through, wrong ones are named with file, key and cure."""

from __future__ import annotations

import dataclasses
from datetime import time
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.settings import read_settings


@dataclasses.dataclass(frozen=True)
class Window:
    start: time
    end: time = time(6)


@dataclasses.dataclass(frozen=True)
class Broker:
    host: str
    port: int = 8883
    timeout_s: float = 20.0
    ca: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"port: {self.port} (expected 1 to 65535)")


@dataclasses.dataclass(frozen=True)
class Everything:
    broker: Broker
    quiet: tuple[Window, ...] = ()
    enabled: bool = False


def read(tmp_path: Path, text: str) -> Everything:
    path = tmp_path / "a.toml"
    path.write_text(text)
    return read_settings(Everything, path)


def test_every_kind_of_value_comes_through(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        'enabled = true\n[broker]\nhost = "b"\ntimeout_s = 3\nca = "ca.pem"\n'
        "[[quiet]]\nstart = 22:00:00\n",
    )
    assert found == Everything(
        Broker("b", timeout_s=3.0, ca=Path("ca.pem")), (Window(time(22)),), True
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "broker: is missing (expected a table)"),
        ("broker = 3", "broker: 3 (expected a table)"),
        ("[broker]", "broker: host: is missing (expected text in quotes)"),
        ('[broker]\nhost = "b"\nprot = 1', "broker: unknown field 'prot'; did you mean 'port'?"),
        ('[broker]\nhost = "b"\nport = 1.5', "broker: port: 1.5 (expected a whole number)"),
        ('[broker]\nhost = "b"\nport = true', "broker: port: True (expected a whole number)"),
        ('[broker]\nhost = "b"\nport = 0', "broker: port: 0 (expected 1 to 65535)"),
        ('[broker]\nhost = "b"\n[quiet]\nstart = 1', "quiet: {'start': 1} (expected a list)"),
        ('[broker]\nhost = "b"\n[[quiet]]\nstart = "22"', "(expected a time of day such as"),
        ("[broker", "not TOML"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_its_key_and_what_was_expected(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "a.toml") in str(caught.value)
    assert says in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: cannot be read: No such file"):
        read_settings(Everything, tmp_path / "no.toml")


def test_a_url_where_a_path_is_expected_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('host = "h"\nca = "s3://fleet/ca.pem"\n')
    with pytest.raises(ConfigError, match=r"s\.toml: ca: 's3://fleet/ca\.pem' is a URL"):
        read_settings(Broker, path)
