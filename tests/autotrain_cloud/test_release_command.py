"""`vitconformer release` as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.cli import main
from tests.autotrain_cloud.test_release import FAMILY, bundle


def test_a_repository_is_made_filled_rotated_and_told_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def release(*words: object) -> tuple[int, str, str]:
        where = ("--repo", tmp_path / "repo", "--keys", tmp_path / "keys")
        code = main(["release", *map(str, (*where, *words))])
        out, err = capsys.readouterr()
        return code, out, err

    assert release("status")[0] == 2
    code, out, err = release("init", FAMILY)
    assert code == 0 and Path(out.strip()).is_file() and "root keys" in err
    made = bundle(tmp_path, 4)
    assert release("publish", made.path, "--needs", "sm=87", "tensorrt=>=10.3") == (0, "4\n", "")
    code, _, err = release("publish", made.path, "--needs", "sm")
    assert code == 2 and "NAME=VALUE" in err
    code, _, err = release("publish", made.path)
    assert code == 2 and "is not above 4" in err
    for words in (("rotate", "timestamp"), ("refresh",)):
        assert release(*words)[0] == 0
    code, out, _ = release("status")
    assert code == 0 and "4.0 (release 4)" in out and out.count("valid until") == 5
    assert release("revoke", FAMILY)[0] == 0
    assert "no release" in release("status")[1]
    code, _, err = release("revoke", FAMILY)
    assert code == 2 and "no release to revoke" in err
    assert release("init", FAMILY)[0] == 2
