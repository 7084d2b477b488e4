"""What a release needs against what a device is; every refusal says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ota.compat import Facts, malformed, refusals, satisfies
from edge_runtime.ota.facts import this_device

ORIN = Facts(
    arch="aarch64", sm="87", device="kiosk-v2", release=4, free_bytes=50_000_000,
    versions={"agent": "0.4.2", "onnxruntime": "1.20.1", "tensorrt": "10.3.0", "jetpack": "6.2"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        ({}, ""),
        ({"arch": "x86_64, aarch64", "sm": "87"}, ""),
        ({"tensorrt": ">=10.3,<11", "jetpack": "==6.2", "agent": ">=0.4"}, ""),
        ({"release": ">=4", "free_bytes": "50000000"}, ""),
        ({"arch": "x86_64"}, "it is for arch x86_64, this is aarch64"),
        ({"sm": "89,90"}, "it is for sm 89 or 90, this is 87"),
        ({"device": "phone"}, "it is for device phone, this is kiosk-v2"),
        ({"tensorrt": ">=10.4"}, "it needs tensorrt >=10.4, this is 10.3.0"),
        ({"onnxruntime": "<1.20"}, "it needs onnxruntime <1.20, this is 1.20.1"),
        ({"release": ">=5"}, "it needs release >=5, this is 4"),
        ({"free_bytes": 60_000_000}, "it needs 60.0 MB of disk, 50.0 are free"),
        ({"npu": ">=1"}, "it needs npu >=1, and there is none here"),
        ({"agent": "new"}, "it needs agent new: 'new' is not like >=1.20"),
        ({"free_bytes": "much"}, "it needs 'much' of disk, which is no number of bytes"),
    ],
)
def test_every_need_is_compared_and_every_refusal_says_why(
    needs: dict[str, object], why: str
) -> None:
    assert "; ".join(refusals(needs, ORIN)) == why


def test_what_a_device_does_not_know_of_itself_is_not_assumed() -> None:
    assert refusals({"sm": "87", "arch": "aarch64"}, Facts()) == [
        "it is for sm 87, this is unknown",
        "it is for arch aarch64, this is unknown",
    ]


@pytest.mark.parametrize(
    ("version", "specifier", "fits"),
    [
        ("1.20", "==1.20.0", True),
        ("1.20rc1", ">=1.20", True),
        ("10.3.0+cuda12", "<10.10", True),
        ("9.9", ">=10", False),
        ("2", "!=2.0", False),
        ("v1.2", "> 1.1 , < 2", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, specifier: str, fits: bool) -> None:
    assert satisfies(version, specifier) is fits


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4),
    st.lists(st.integers(0, 99), min_size=1, max_size=4),
)
def test_exactly_one_of_less_equal_and_more_holds(a: list[int], b: list[int]) -> None:
    one, other = (".".join(map(str, numbers)) for numbers in (a, b))
    assert sum(satisfies(one, f"{sign}{other}") for sign in ("<", "==", ">")) == 1
    assert satisfies(one, f">={other}") is not satisfies(one, f"<{other}")


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_text_raises_anything_but_a_refusal(name: str, need: str) -> None:
    assert isinstance(refusals({name: need}, ORIN), list)
    assert isinstance(malformed({name: need}), str)


def test_this_machine_is_described_and_what_is_told_wins(tmp_path: Path) -> None:
    facts = this_device(tmp_path, release=4, keep_free=10, known={"sm": "87", "jetpack": "6.2"})
    assert facts.arch and facts.versions["onnxruntime"] and facts.versions["agent"]
    assert (facts.sm, facts.versions["jetpack"], facts.release) == ("87", "6.2", 4)
    assert facts.free_bytes > 0
    assert this_device(tmp_path, release=4, known={"arch": "riscv64"}).arch == "riscv64"
