"""Dockerfile.jetson, as far as it can be looked at without building it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile.jetson").read_text(encoding="utf-8")
CODE = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()


def test_everything_that_is_copied_exists_and_is_not_ignored() -> None:
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", CODE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert len(sources) > 5
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in IGNORED, source
    assert IGNORED[0] == "*"


def test_the_image_has_no_torch_no_root_and_a_health_check() -> None:
    assert "torch" not in CODE
    assert "[train]" not in CODE
    final = CODE[CODE.rindex("FROM ") :]
    assert re.search(r"^USER (?!root)\w+$", final, re.MULTILINE)
    assert final.index("USER ") > final.rindex("apt-get")
    assert re.search(r"^HEALTHCHECK ", final, re.MULTILINE)
    assert "pip" not in final


def test_each_jetpack_is_a_matter_of_arguments() -> None:
    arguments = set(re.findall(r"^ARG (\w+)=", CODE, re.MULTILINE))
    assert arguments == {"UBUNTU", "L4T", "CUDA_PYTHON"}
    named = set(re.findall(r"--build-arg (\w+)=", TEXT))
    assert named == arguments
