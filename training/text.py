"""Books to utterances: plain Project Gutenberg text in, lines to read aloud out.

The transcript is exactly what is read.  Everything a reader would have to interpret (numbers,
years, money, abbreviations, accents) is written out in words *first*, and the synthesiser is then
given those words and no others; only the pauses (commas) and the sentence's end survive next to
them.  A sentence holding anything that cannot be written out for certain is dropped, not guessed.

Order of work::

    book -> paragraphs      header, licence, headings, verse, tables, footnotes, furniture out
         -> sentences       abbreviations expanded before the split, so that "Mr." ends nothing
         -> clauses         runs of words between pauses
         -> utterances      1..22 words; a sentence's pieces never overlap

Transcripts use the alphabet ``a``-``z``, apostrophe *inside* a word, and space.  An apostrophe at
the edge of a word ("'tis", "goin'") is not heard and not written; a hyphen is a space.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.errors import ConfigError

Split = Literal["train", "dev", "test"]

MAX_WORDS = 22  # about 9 s at 2.5 words a second: streaming models see every position early
SHORT_WORDS = 5  # CTC finds its alignment on short utterances first
SHORT_SENTENCES = 0.03  # this share of the sentences is chopped into pieces of 1..SHORT_WORDS words

_TRANSCRIPT = re.compile(r"[a-z]+(?:'[a-z]+)*(?: [a-z]+(?:'[a-z]+)*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """A line to read: `text` is the transcript, `spoken` the same words with commas and an end."""

    text: str
    spoken: str


def is_transcript(text: str) -> bool:
    """Whether `text` is words of a-z and inner apostrophes, separated by single spaces."""
    return _TRANSCRIPT.fullmatch(text) is not None


def _unit_interval(*key: object) -> float:
    """A number in [0, 1) that depends on `key` only: the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def split_of(text: str, seed: int = 0) -> Split:
    """The split a transcript belongs to (96 / 2 / 2), whatever the voice or the book."""
    place = _unit_interval("split", seed, text)
    return "train" if place < 0.96 else "dev" if place < 0.98 else "test"


# --- numbers --------------------------------------------------------------------------------------

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip


def cardinal(n: int) -> str:
    """1215 -> "one thousand two hundred fifteen".  0 <= n < 10**12."""
    if not 0 <= n < 10**12:
        raise ValueError(f"no words for the number {n}")
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + (f" {_ONES[n % 10]}" if n % 10 else "")
    scale, name = next(s for s in _SCALES if n >= s[0])
    return f"{cardinal(n // scale)} {name}" + (f" {cardinal(n % scale)}" if n % scale else "")


def ordinal(n: int) -> str:
    """21 -> "twenty first"."""
    head, _, last = cardinal(n).rpartition(" ")
    last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return f"{head} {last}".strip()


def year(n: int) -> str:
    """1847 -> "eighteen forty seven", 1900 -> "nineteen hundred", 2003 -> "two thousand three"."""
    high, low = divmod(n, 100)
    if high % 10 == 0 and low < 10:
        return cardinal(n)
    if low == 0:
        return f"{cardinal(high)} hundred"
    return f"{cardinal(high)} {'oh ' if low < 10 else ''}{cardinal(low)}"


def _plural(words: str) -> str:
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words[-1] in "sx" else "s")


def _number(digits: str) -> str:
    """Digits as read: grouped by commas it is a count, four digits from 1100 to 2099 are a year."""
    n = int(digits.replace(",", ""))
    return year(n) if "," not in digits and len(digits) == 4 and 1100 <= n < 2100 else cardinal(n)


def _money(match: re.Match[str]) -> str:
    sign, digits, cents, scale = match.groups()
    unit, small = ("dollar", "cent") if sign == "$" else ("pound", "penny")
    n = int(digits.replace(",", ""))
    if scale:
        decimals = f" point {' '.join(_ONES[int(d)] for d in cents)}" if cents else ""
        return f"{cardinal(n)}{decimals} {scale} {unit}s"
    words = [f"{cardinal(n)} {unit}{'' if n == 1 else 's'}"] if n or not cents else []
    if cents and int(cents):
        plural = "pence" if small == "penny" else "cents"
        words.append(f"{cardinal(int(cents))} {small if int(cents) == 1 else plural}")
    return " and ".join(words)


def _clock(match: re.Match[str]) -> str:
    hour, minute = cardinal(int(match[1])), int(match[2])
    if not minute:
        return f"{hour} o'clock"
    return f"{hour} {'oh ' if minute < 10 else ''}{cardinal(minute)}"


def _decimal(match: re.Match[str]) -> str:
    return f"{_number(match[1])} point " + " ".join(_ONES[int(digit)] for digit in match[2])


_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_COUNT = r"(?<![\d,])(?:\d{1,3}(?:,\d{3}){1,3}|\d{1,12})"  # below 10**12, as `cardinal` is
_FIGURES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (  # in this order
    (rf"([$\xa3])\s?({_COUNT})(?:\.(\d+))?(?: (million|billion|thousand))?(?!\d)", _money),
    (r"\b((?:1[1-9]|20)\d0)'?s\b", lambda m: _plural(year(int(m[1])))),
    (r"\b(\d{1,12})(?:st|nd|rd|th|d)\b", lambda m: ordinal(int(m[1]))),
    (r"\b([12]?\d):([0-5]\d)\b", _clock),
    (rf"\b({_MONTH}) ([1-3]?\d)\b(?!,?\d)", lambda m: f"{m[1]} {ordinal(int(m[2]))}"),
    (r"\b1/2\b", "one half"),
    (r"\b1/4\b", "one quarter"),
    (rf"({_COUNT})\.(\d+)\b", _decimal),
    (rf"({_COUNT})\s?%", lambda m: f"{_number(m[1])} percent"),
    (rf"(?<![A-Za-z\d.,/])({_COUNT})(?![\d/])", lambda m: _number(m[1])),
)


# --- abbreviations --------------------------------------------------------------------------------

_BEFORE_A_NAME = {
    "Mr": "mister", "Mrs": "missus", "Ms": "miz", "Dr": "doctor", "St": "saint", "Ste": "sainte",
    "Messrs": "messieurs", "Mme": "madame", "Mlle": "mademoiselle", "Capt": "captain",
    "Col": "colonel", "Gen": "general", "Lieut": "lieutenant", "Lt": "lieutenant",
    "Sergt": "sergeant", "Prof": "professor", "Rev": "reverend", "Hon": "honorable",
    "Gov": "governor", "Sen": "senator", "Mt": "mount", "Ft": "fort",
}  # fmt: skip
_ANYWHERE = {
    "&c": "et cetera", "etc": "et cetera", "viz": "namely", "i.e": "that is", "vs": "versus",
    "e.g": "for example", "Jr": "junior", "Sr": "senior", "Esq": "esquire", "Co": "company",
    "Bros": "brothers", "Vol": "volume", "vol": "volume", "Ave": "avenue", "A.D": "a d",
    "A.M": "a m", "P.M": "p m", "a.m": "a m", "p.m": "p m", "A. M": "a m", "P. M": "p m",
    "B.C": "b c", "Jan": "January", "Feb": "February", "Aug": "August", "Sept": "September",
    "Oct": "October", "Nov": "November", "Dec": "December", "Mass": "Massachusetts",
    "Va": "Virginia", "Pa": "Pennsylvania",
}  # fmt: skip
_NAME_NEXT = re.compile(rf"\b({'|'.join(_BEFORE_A_NAME)})(?:\.|(?=\s+[A-Z]))\s*(?=[A-Z])")
# "Smith & Co. The" ends a sentence, "at 5 p.m. on" does not: an upper-case letter decides.
_LONGEST_FIRST = sorted(_ANYWHERE, key=len, reverse=True)
_ABBREVIATION = re.compile(
    rf"(?<![A-Za-z.])({'|'.join(map(re.escape, _LONGEST_FIRST))})\."
    r"(?=([\"']?(?:\s+[\"']?[A-Z]|\s*$))?)"
)
_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "`": "'", "\u201c": '"', "\u201d": '"', "\xab": '"', "\xbb": '"',
     "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "--", "\u2014": "--", "\u2026": "..."}
)  # fmt: skip
_ROMAN = re.compile(r"(?<=[a-z]\s)(?=[IVX]{2,5}\b)X{0,2}(?:IX|IV|V?I{0,3})(?<=[IVX])\b(?!')")
_ROMAN_VALUE = {"I": 1, "V": 5, "X": 10}


def _roman_ordinal(match: re.Match[str]) -> str:
    """ "Charles II" -> "Charles the second".  A lone I is the pronoun, so it is never a numeral."""
    values = [_ROMAN_VALUE[letter] for letter in match[0]]
    later = [*values[1:], 0]
    return "the " + ordinal(sum(-v if v < w else v for v, w in zip(values, later, strict=True)))


def expand(text: str) -> str:
    """Write out abbreviations and figures; case and punctuation stay, to split sentences by.

    Typographic quotes and dashes become plain ones here, so that nothing later meets any.
    """
    text = text.translate(_PLAIN).replace(" & ", " and ")
    text = re.sub(r"\bNo\. ?(?=\d)", "number ", text)
    text = _NAME_NEXT.sub(lambda m: f"{_BEFORE_A_NAME[m[1]]} ", text)
    text = re.sub(r"(?<=[a-z] )St\.", "street", text)
    text = _ABBREVIATION.sub(lambda m: _ANYWHERE[m[1]] + ("." if m[2] else ""), text)
    text = re.sub(r"\b([A-Z])\.(?=\s?[A-Z][.\w])", r"\1 ", text)  # initials: "J. R. Smith"
    text = _ROMAN.sub(_roman_ordinal, text)
    for pattern, replacement in _FIGURES:
        text = re.sub(pattern, replacement, text)
    return text


# --- words ----------------------------------------------------------------------------------------

_PAUSE = re.compile(r"\s*(?:--+|[,;:()\[\]]|\.{3,}|[.!?](?=.))[\s,;:-]*")
_FOLD = str.maketrans({"\xe6": "ae", "\u0153": "oe", "\xc6": "Ae", "\u0152": "Oe", "\xdf": "ss"})
# Not a word of English anyone would pronounce as spelt: "hrrmph", "xiv", "pgdp".
_VOWELLESS = re.compile(r"(?<!')\b(?!(?:hm+|mm+|sh+|pst|nth)\b)[b-df-hj-np-tv-xz]{2,}\b")
_STUTTER = re.compile(r"(.)\1\1")


def words(text: str) -> list[str]:
    """Lower-case words of expanded text, accents folded, hyphens as spaces; [] if unreadable."""
    text = unicodedata.normalize("NFKD", text.translate(_FOLD))
    text = "".join(c for c in text if not unicodedata.combining(c)).lower()
    text = re.sub(r"\b(to)-(day|night|morrow)|\b(good)-(bye?)\b", r"\1\2\3\4", text)
    text = re.sub(r"[-/\"_=*.,;:!?()\[\]{}~]", " ", text)
    found = [w for w in (token.strip("'") for token in text.split()) if w]
    line = " ".join(found)
    if not is_transcript(line) or _VOWELLESS.search(line) or _STUTTER.search(line):
        return []
    return found


def normalise(text: str) -> str:
    """Any English text as a transcript, or "" if some of it cannot be written in words.

    >>> normalise("Mr. Smith paid $5 on May 3d, 1847.")
    'mister smith paid five dollars on may third eighteen forty seven'
    """
    return " ".join(words(expand(text)))


# --- books ----------------------------------------------------------------------------------------

_FURNITURE = re.compile(
    r"gutenberg|pgdp|transcrib|produced by|e-text|etext|copyright|all rights reserved|https?:"
    r"|www\.|@|^\W*(?:chapter|contents|illustrat|footnote|note:|page|part|book|vol|epoch|finis)\b"
    r"|^\W*the end\b",
    re.IGNORECASE,
)
_BOOK_END = re.compile(
    r"^(?:\*\*\* ?END OF|End of (?:the |this )?Project Gutenberg).*", re.MULTILINE | re.IGNORECASE
)
# A footnote's text, set off like a paragraph: "[1] See the map.", "{3}  Oxford he must have meant."
_FOOTNOTE = re.compile(r"^\s*[\[{](?:\d+|[A-Z*])[\]}]\s+\S")
_BRACKETED = re.compile(r"\[[^\[\]]{0,2000}\]|\{[^{}]{0,2000}\}")


def paragraphs(book: str) -> Iterator[str]:
    """The running prose of a Gutenberg text, one line a paragraph; all furniture is left out."""
    book = book.replace("\r\n", "\n").replace("\ufeff", "").translate(_PLAIN)
    if start := re.search(r"^\*\*\* ?START OF.*$", book, re.MULTILINE):
        book = book[start.end() :]
    if end := _BOOK_END.search(book):
        book = book[: end.start()]
    book = "\n\n".join(b for b in re.split(r"\n\s*\n", book) if not _FOOTNOTE.match(b))
    book = _BRACKETED.sub("", book)  # illustrations, stage directions: these may span paragraphs
    for block in re.split(r"\n\s*\n", book):
        lines = [line for line in block.splitlines() if line.strip()]
        if not lines or _FURNITURE.search(block):
            continue
        # Set-off verse, tables, title pages: lines that begin far in or hold columns.
        if sum(line.startswith("   ") or "   " in line.strip() for line in lines) > len(lines) / 2:
            continue
        # A hyphen at a line's end is a compound's ("after-\nlecture"): words are never broken.
        text = re.sub(r"(?<=\w-) (?=\w)", "", " ".join(line.strip() for line in lines))
        text = re.sub(r"\s+", " ", re.sub(r"[_=*#^~|]", "", text)).strip()
        letters = [c for c in text if c.isalpha()]
        if not letters or sum(c.isupper() for c in letters) > 0.3 * len(letters):
            continue  # headings
        if not re.search(r"[.!?:;,\-][\"')]*$", text):
            continue  # captions, table rows: prose ends in punctuation
        yield text


def sentences(paragraph: str) -> Iterator[str]:
    """Sentences of a paragraph, already expanded."""
    text = expand(paragraph)
    yield from filter(None, re.split(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])", text))


def _clauses(sentence: str) -> list[list[str]] | None:
    """Runs of words between pauses; None if any word is unreadable."""
    found = []
    for part in _PAUSE.split(sentence):
        if re.search(r"\w", part):
            run = words(part)
            if not run:
                return None
            found.append(run)
    return found


_BREAK_BEFORE = frozenset((
    "and", "but", "or", "which", "that", "who", "when", "where", "while", "because", "if", "for",
    "with", "from", "as", "than", "until", "after", "before", "to", "in", "of", "by", "on", "at",
))  # fmt: skip


def _cut(run: list[str], limit: int) -> Iterator[list[str]]:
    """A run longer than `limit`, cut near its middle before a word that can begin a phrase."""
    if len(run) <= limit:
        yield run
        return
    middle = len(run) / 2
    places = [i for i in range(1, len(run)) if run[i] in _BREAK_BEFORE] or range(1, len(run))
    at = min(places, key=lambda i: abs(i - middle))
    yield from _cut(run[:at], limit)
    yield from _cut(run[at:], limit)


def utterances_of(sentence: str) -> Iterator[Utterance]:
    """Cut an expanded sentence into utterances of 1..22 words; none if it is unreadable."""
    clauses = _clauses(sentence)
    if not clauses:
        return
    key = " ".join(w for run in clauses for w in run)
    place = _unit_interval("length", key)
    if place < SHORT_SENTENCES:
        limit = 1 + int(place / SHORT_SENTENCES * SHORT_WORDS)
    else:  # a spread of lengths, so that no position in an utterance is special
        limit = 13 + int(_unit_interval("limit", key) * (MAX_WORDS - 12))
    end = re.search(r"[.!?](?=[\"')]*$)", sentence)
    pieces: list[list[list[str]]] = [[]]
    for run in (piece for clause in clauses for piece in _cut(clause, limit)):
        if pieces[-1] and sum(map(len, pieces[-1])) + len(run) > limit:
            pieces.append([])
        pieces[-1].append(run)
    for i, piece in enumerate(pieces):
        mark = end[0] if end and i == len(pieces) - 1 else "."
        yield Utterance(
            text=" ".join(w for run in piece for w in run),
            spoken=", ".join(" ".join(run) for run in piece) + mark,
        )


def utterances(books: Iterable[str]) -> list[Utterance]:
    """Every utterance of the books, each transcript once, in reading order."""
    seen: dict[str, Utterance] = {}
    for book in books:
        for paragraph in paragraphs(book):
            for sentence in sentences(paragraph):
                for utterance in utterances_of(sentence):
                    seen.setdefault(utterance.text, utterance)
    return list(seen.values())


def read_books(paths: Iterable[Path]) -> list[str]:
    """The texts of files and of all .txt files in folders.  Raises ConfigError naming the path."""
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"{path}: no .txt file there")
        files += found
    try:
        return [f.read_text(encoding="utf-8", errors="replace") for f in files]
    except OSError as e:
        raise ConfigError(f"{e.filename}: {e.strerror}") from e
