"""The vocabulary of a CTC model: `tokens.txt`, one `piece id` per line, `<blk>` last.

Pieces are SentencePiece's: a leading `▁` (U+2581) starts a word, and text is the pieces joined with
every `▁` read as a space. The blank is the last id because the exported graphs put it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import BundleError

WORD_START = "\u2581"  # ▁
BLANK = "<blk>"
MAX_BYTES = 16 << 20  # a vocabulary of a million pieces; anything larger is not a token list

_REMEDY = "export the model again; tokens.txt holds one 'piece id' per line"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Pieces by token id; the last one is the blank."""

    pieces: tuple[str, ...]
    word_starts: tuple[bool, ...]  # per id: does this piece start a word?

    @classmethod
    def from_pieces(cls, pieces: Sequence[str]) -> Vocabulary:
        """`pieces` by id, `<blk>` last. Raises ValueError for anything else."""
        if not pieces or pieces[-1] != BLANK:
            raise ValueError(f"the last piece must be {BLANK}")
        return cls(tuple(pieces), tuple(piece.startswith(WORD_START) for piece in pieces))

    @classmethod
    def load(cls, path: Path | str) -> Vocabulary:
        """Reads `tokens.txt`. Raises BundleError naming the file and the line."""
        path = Path(path)
        try:
            with path.open("rb") as source:
                data = source.read(MAX_BYTES + 1)
        except OSError as error:
            raise BundleError(
                f"cannot be read: {error.strerror}", file=str(path), remedy=_REMEDY
            ) from error
        if len(data) > MAX_BYTES:
            raise BundleError(f"is larger than {MAX_BYTES} bytes", file=str(path), remedy=_REMEDY)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError("is not UTF-8 text", file=str(path), remedy=_REMEDY) from error
        return cls.parse(text, file=str(path))

    @classmethod
    def parse(cls, text: str, *, file: str = "tokens.txt") -> Vocabulary:
        """The content of `tokens.txt`. Raises BundleError naming `file` and the line."""
        by_id: dict[int, str] = {}
        # Only \n ends a line: a piece may be U+2028 or another character splitlines() cuts at.
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            piece, _, digits = line.rstrip(" \t").rpartition(" ")
            if not piece or not (digits.isascii() and digits.isdigit() and len(digits) < 9):
                raise BundleError(
                    "is malformed",
                    file=file,
                    field=f"line {number}",
                    expected="'piece id'",
                    remedy=_REMEDY,
                )
            if int(digits) in by_id:
                raise BundleError(
                    f"id {int(digits)} appears twice",
                    file=file,
                    field=f"line {number}",
                    remedy=_REMEDY,
                )
            by_id[int(digits)] = piece
        missing = next((i for i in range(len(by_id)) if i not in by_id), None)
        if missing is not None:
            raise BundleError(f"id {missing} is missing", file=file, remedy=_REMEDY)
        pieces = [by_id[i] for i in range(len(by_id))]
        if not pieces or pieces[-1] != BLANK:
            raise BundleError(
                "does not end with the blank",
                file=file,
                expected=f"'{BLANK}' with the highest id",
                remedy=_REMEDY,
            )
        return cls.from_pieces(pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def blank_id(self) -> int:
        return len(self.pieces) - 1

    def to_text(self) -> str:
        """The content of `tokens.txt`."""
        return "".join(f"{piece} {i}\n" for i, piece in enumerate(self.pieces))

    def detokenise(self, ids: Sequence[int]) -> str:
        """Text of a token sequence without blanks; words separated by single spaces."""
        return " ".join(
            "".join(self.pieces[i] for i in ids if i != self.blank_id)
            .replace(WORD_START, " ")
            .split()
        )

    def words(self, ids: Sequence[int]) -> list[tuple[str, int, int]]:
        """`(word, first, stop)` per word, `ids[first:stop]` being its tokens (no blanks in `ids`).

        Joining the words with spaces gives `detokenise(ids)` for every vocabulary whose pieces
        carry `▁` at their start only; a lone `▁` belongs to the word that follows it.
        """
        found: list[tuple[str, int, int]] = []
        first = 0
        for stop in range(1, len(ids) + 1):
            if stop < len(ids) and not self.word_starts[ids[stop]]:
                continue
            spelt = "".join([self.pieces[i] for i in ids[first:stop]])
            word = spelt.replace(WORD_START, " ").strip()
            if word:
                found.append((word, first, stop))
                first = stop
        return found
