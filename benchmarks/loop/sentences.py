"""What is said in the loop: everyday English of 28 thousand sentences, and talk of an office.

A loop whose replay and guard come out of a small grammar teaches the model that grammar, and cannot
see what it forgets. So the general sentences are those by which WordNet (Fellbaum 1998; Debian's
`wordnet-base`) shows how its words are used: short, spoken, about everything. The office is a
grammar of ours, full of words that did not exist when the books of the first training were written,
and that a teacher of today knows.
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
_OFFICE = (
    "the engineer|our manager|a programmer|the technician|the president|a reporter|the pilot"
    "|my assistant|the operator|the scientist|the customer|the director".split("|"),
    "installed|downloaded|recorded|tested|launched|canceled|programmed|upgraded|repaired"
    "|telephoned about|complained about|explained|faxed|sponsored|monitored|photographed".split(
        "|"
    ),
    "the new software|a laser printer|the computer network|the video camera|an airline ticket"
    "|the television program|a credit card|the telephone system|the electric battery"
    "|the satellite picture|a nuclear reactor|the database|an internet service|the microphone"
    "|a parking garage|the elevator|the helicopter|the air conditioning".split("|"),
    "at the airport|during the conference|on the computer screen|in the laboratory"
    "|before the interview|after the phone call|on the weekend|at the shopping center"
    "|in the parking lot|during the budget meeting|on television|for the insurance company"
    "|at the gas station|in the basement office|with a microwave signal".split("|"),
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


def office(seed: int) -> Iterator[str]:
    """Endless, each another one."""
    draw, said = random.Random(seed), set[str]()
    while True:
        text = sentence(" ".join(draw.choice(part) for part in _OFFICE))
        if text not in said:
            said.add(text)
            yield text
