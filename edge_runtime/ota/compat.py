"""What a release needs of a device, signed with it, and whether this device has it.

============ ================== ==================================================================
need         for example        of the device
============ ================== ==================================================================
arch         aarch64,x86_64     its processor, one of these
device       kiosk-v2           its kind, as its operator calls it, one of these
sm           87,89              its GPU's compute capability, one of these
release      >=3                the release it runs: what must be taken on the way
free_bytes   40000000           its disk, beyond what is kept free
agent        >=0.4,<2           the version of this software
onnxruntime  >=1.20             the version of a package; likewise tensorrt, jetpack and any other
============ ================== ==================================================================

Pure: facts come in, refusals go out, each in words.  What is not known is not assumed: a need that
a device has no fact for is not met.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

LISTS = ("arch", "device", "sm")  # one of several
_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([0-9]+(?:\.[0-9]+)*)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a device is."""

    arch: str = ""
    device: str = ""
    sm: str = ""
    release: int = 0  # that runs
    free_bytes: int = 0  # beyond what is to be kept free
    versions: Mapping[str, str] = field(default_factory=dict)  # agent, onnxruntime, tensorrt, ...


def refusals(needs: Mapping[str, object], facts: Facts) -> list[str]:
    """Why a release with these needs must not run on such a device; [] if it may."""
    found = []
    for name, need in needs.items():
        text = str(need)
        if name in LISTS:
            wanted = [one.strip() for one in text.split(",")]
            has = str(getattr(facts, name))
            if has not in wanted:
                found.append(f"it is for {name} {' or '.join(wanted)}, this is {has or 'unknown'}")
        elif name == "free_bytes":
            if not text.isdecimal():
                found.append(f"it needs {text!r} of disk, which is no number of bytes")
            elif facts.free_bytes < int(text):
                free = max(facts.free_bytes, 0) / 1e6
                found.append(f"it needs {int(text) / 1e6:.1f} MB of disk, {free:.1f} are free")
        else:
            has = str(facts.release) if name == "release" else facts.versions.get(name, "")
            if not has:
                found.append(f"it needs {name} {text}, and there is none here")
                continue
            try:
                fits = satisfies(has, text)
            except ValueError as error:
                found.append(f"it needs {name} {text}: {error}")
            else:
                if not fits:
                    found.append(f"it needs {name} {text}, this is {has}")
    return found


def malformed(needs: Mapping[str, object]) -> str:
    """What no device could understand of these needs; "" if all is well."""
    for name, need in needs.items():
        text = str(need)
        if name in LISTS:
            continue
        if name == "free_bytes":
            if not text.isdecimal():
                return f"{name}: a number of bytes, not {text!r}"
            continue
        try:
            satisfies("0", text)
        except ValueError as error:
            return f"{name}: {error}"
    return ""


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version is within `>=1.20,<2`. Only its leading numbers count: 1.20rc1 is 1.20.

    Raises ValueError for what is no specifier or no version.
    """
    ours = _numbers(version)
    for clause in specifier.split(","):
        found = _CLAUSE.fullmatch(clause)
        if not found:
            raise ValueError(f"{clause.strip()!r} is not like >=1.20")
        theirs = _numbers(found[2])
        width = max(len(ours), len(theirs))
        padded = [(*numbers, *[0] * (width - len(numbers))) for numbers in (ours, theirs)]
        if not _OPERATORS[found[1]](*padded):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?([0-9]+(?:\.[0-9]+)*)", version)
    if not found:
        raise ValueError(f"{version!r} is not a version")
    return tuple(int(number[:9]) for number in found[1].split("."))
