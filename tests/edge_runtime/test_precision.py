"""Which model runs where: INT8 only where it is there, fast and right."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.precision import Processor, choose, this_processor

EVERYTHING = ("float32", "int8-arm64", "int8-dynamic", "int8-x86")


@pytest.mark.parametrize(
    ("machine", "features", "available", "expected"),
    [
        ("x86_64", "avx2 avx512_vnni", EVERYTHING, "int8-dynamic"),
        ("x86_64", "avx2 avx_vnni", EVERYTHING, "int8-dynamic"),
        ("x86_64", "avx_vnni", ("float32", "int8-dynamic"), "int8-dynamic"),
        ("x86_64", "avx2 avx512f", EVERYTHING, "int8-dynamic"),
        ("x86_64", "avx2 avx512f", (*EVERYTHING, "int8-dynamic7"), "int8-dynamic7"),
        ("x86_64", "avx2 avx_vnni", (*EVERYTHING, "int8-dynamic7"), "int8-dynamic"),
        ("x86_64", "", EVERYTHING, "float32"),
        ("x86_64", "asimddp", EVERYTHING, "float32"),
        ("aarch64", "fp asimd asimddp", EVERYTHING, "int8-dynamic"),
        ("aarch64", "fp asimd", EVERYTHING, "float32"),
        ("aarch64", "asimddp", ("float32", "int8-x86"), "float32"),
        ("riscv64", "", EVERYTHING, "float32"),
        ("x86_64", "avx512_vnni", ("float32",), "float32"),
        ("riscv64", "", ("int8-x86",), "int8-x86"),
    ],
)
def test_the_fastest_model_that_is_right_is_chosen(
    machine: str, features: str, available: tuple[str, ...], expected: str
) -> None:
    precision, why = choose(available, Processor(machine, frozenset(features.split())))
    assert precision == expected
    assert why


def test_products_of_bytes_overflow_on_x86_without_vnni_alone() -> None:
    assert Processor("x86_64", frozenset(("avx2", "avx512f"))).overflows
    assert not Processor("x86_64", frozenset(("avx2", "avx_vnni"))).overflows
    assert not Processor("aarch64", frozenset()).overflows


def test_features_are_read_as_linux_tells_them(tmp_path: Path) -> None:
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor\t: 0\nflags\t\t: fpu avx512_vnni\nbugs\t\t: none\n")
    arm.write_text("processor\t: 0\nFeatures\t: fp asimddp\n")
    assert "avx512_vnni" in this_processor(x86).features
    assert "asimddp" in this_processor(arm).features
    assert this_processor(tmp_path / "gone").features == frozenset()
