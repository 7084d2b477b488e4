"""What is said in the loop: everyday English of 28 thousand sentences, and talk of a workshop.

A loop whose replay and guard come out of a small grammar teaches the model that grammar, and cannot
see what it forgets. So the general sentences are those by which WordNet (Fellbaum 1998; Debian's
`wordnet-base`) shows how its words are used: short, spoken, about everything. The workshop is a
grammar of ours, full of words that the books of the first training do not have.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

WORDNET = Path("/usr/share/wordnet")
FILES = ("data.adj", "data.adv", "data.noun", "data.verb")
LENGTHS = range(5, 15)  # words
_EXAMPLE = re.compile(r'"([^"]+)"')
_PLAIN = re.compile(r"[A-Za-z',;.! ?-]+")
_LETTERS = re.compile(r"[A-Z]{2,}|\b[A-Z]\.")  # read out letter by letter: U.S., NATO

# Who, does what, to what, and where or when; nobody else's words.
_WORKSHOP = (
    "the apprentice|our electrician|the plumber|a welder|the foreman|my technician|the mechanic"
    "|your supervisor|the machinist|this robot|the contractor|an inspector".split("|"),
    "recalibrates|unscrews|lubricates|solders|replaces|tightens|disassembles|grinds|polishes"
    "|degreases|overhauls|clamps|labels|bypasses|magnetizes|laminates".split("|"),
    "the camshaft|a hydraulic pump|the gearbox|every solenoid|the voltmeter|a copper gasket"
    "|the crankshaft|both spark plugs|the thermostat|a titanium bolt|the circuit breaker"
    "|the alternator|a ball bearing|the lithium battery|the conveyor belt|the throttle valve"
    "|a stainless steel bracket|the exhaust manifold".split("|"),
    "in the garage|on the lathe|with a torque wrench|beside the compressor|before the diagnostics"
    "|during maintenance|under the forklift|with an oscilloscope|on the assembly line"
    "|after the inspection|with hydraulic fluid|at the workbench|using the soldering iron"
    "|behind the generator|while the turbine idles".split("|"),
)


def examples(folder: Path = WORDNET) -> list[str]:
    """Every usable sentence, each once, in an order that is random and always the same.

    Raises FileNotFoundError that says what to install.
    """
    found: dict[str, None] = {}
    for name in FILES:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; install Debian's wordnet-base")
        for line in path.read_text("ascii", errors="replace").splitlines():
            if not line.startswith("  "):  # the licence
                found.update(dict.fromkeys(filter(_usable, _EXAMPLE.findall(line))))
    texts = [sentence(text) for text in found]
    random.Random(0).shuffle(texts)
    return texts


def _usable(text: str) -> bool:
    words = len(text.split())
    return words in LENGTHS and bool(_PLAIN.fullmatch(text)) and not _LETTERS.search(text)


def sentence(text: str) -> str:
    """With a capital letter and a full stop, as synthesisers like it."""
    text = " ".join(text.replace("--", ", ").split())
    return text[0].upper() + text[1:].rstrip(",;.") + ("" if text.endswith(("?", "!")) else ".")


def workshop(seed: int) -> Iterator[str]:
    """Endless, each another one."""
    draw, said = random.Random(seed), set[str]()
    while True:
        text = sentence(" ".join(draw.choice(part) for part in _WORKSHOP))
        if text not in said:
            said.add(text)
            yield text
