"""A small terminal: what a program wrote, as a person sees it."""

from __future__ import annotations

import re
import unicodedata


class Screen:
    """A terminal of some width: text, carriage return, newline, erase to end of line, colours."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.wrapped = False
        self._column = 0

    def write(self, text: str) -> int:
        for token in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|.|\n", text):
            if token == "\n":
                self.lines.append("")
                self._column = 0
            elif token == "\r":
                self._column = 0
            elif token == "\x1b[K":
                assert self._column == 0, "only whole lines are erased"
                self.lines[-1] = ""
            elif not token.startswith("\x1b"):
                self.lines[-1] += token
                self._column += cells(token)
                self.wrapped |= self._column > self.columns - 1
        return len(text)

    def flush(self) -> None:
        pass


def cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
