"""What the rules share: a text's shape, each part computed once and only if asked for, and their verdicts."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from chatwright.data.codes import UNSPACED, codes_of, kinds_of
from chatwright.data.terms import Terms, terms_of

# Lines that are code by their first characters: doctest prompts, shell prompts.
_CODE_STARTS = (">>>", "... ", "$ ", "#!")
_CODE_INDENT = 4
# A line of one or two words is a heading of an API's documentation ("Returns", "-------", "x : int") more often
# than boilerplate, so only longer ones count as repeated. Between functions that take the same parameters even whole
# paragraphs repeat: with Gopher's limits a fifth of the bytes of Python's best libraries was dropped.
_MIN_REPEATABLE_WORDS = 3


class Shape:
    """What the rules ask of a text, each part computed once and only if asked for."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def lines(self) -> list[str]:
        """Lines with something in them, without outer spaces."""
        return [stripped for line in self.text.split("\n") if (stripped := line.strip())]

    @cached_property
    def prose(self) -> list[str]:
        """Lines that do not look like code: no prompt, no deep indentation."""
        kept = []
        for line in self.text.split("\n"):
            stripped = line.strip()
            indent = len(line) - len(line.lstrip())
            if stripped and indent < _CODE_INDENT and not stripped.startswith(_CODE_STARTS) and stripped != "...":
                kept.append(stripped)
        return kept

    @cached_property
    def paragraphs(self) -> list[str]:
        """Pieces between blank lines."""
        return [stripped for piece in self.text.split("\n\n") if (stripped := piece.strip())]

    @cached_property
    def words(self) -> list[str]:
        """Pieces between white space."""
        return self.text.split()

    @cached_property
    def terms(self) -> Terms:
        """Words with a letter or a digit: borders of tables and operators are none."""
        return terms_of(self.text)

    @cached_property
    def unspaced(self) -> int:
        """Letters and marks of writing that sets no spaces between words: Chinese, Japanese, Thai, Lao, Burmese, Khmer.

        Each counts as a word where words are counted, as in `duplicates.shingles`; to cut such text into real words
        takes a dictionary for each language. They are no `terms`: those have lengths and make phrases.
        """
        if self.text.isascii():
            return 0
        return int(np.count_nonzero(kinds_of(codes_of(self.text)) & UNSPACED))

    @cached_property
    def alphabetic_share(self) -> float:
        """Share of terms with at least one letter."""
        return share_of(self.terms.with_letter, len(self.terms))

    @cached_property
    def repeated_lines(self) -> "Repetition":
        """Repetition among lines."""
        return _repetition(self.lines)

    @cached_property
    def repeated_paragraphs(self) -> "Repetition":
        """Repetition among paragraphs."""
        return _repetition(self.paragraphs)


class Repetition(NamedTuple):
    """Shares of pieces, and of their characters, that stood in the text before."""

    share: float
    character_share: float


class Verdict(NamedTuple):
    """Why a text is dropped."""

    reason: str
    detail: str


def num_words(line: str) -> int:
    """Words of a line that is not empty and has no outer spaces; nearly always told without cutting it."""
    if line.isascii() and "  " not in line and line.isprintable():
        return line.count(" ") + 1
    return len(line.split())


def share_of(part: float, whole: int) -> float:
    """A share, 0 of nothing."""
    return part / whole if whole else 0.0


def above(reason: str, share: float, limit: float) -> Verdict | None:
    """A verdict if the share exceeds its limit."""
    return Verdict(reason, f"{share:.3f}, at most {limit:g}") if share > limit else None


def _repetition(pieces: list[str]) -> Repetition:
    seen: set[str] = set()
    count = characters = 0
    for piece in pieces:
        if piece not in seen:
            seen.add(piece)
        elif len(piece.split(maxsplit=_MIN_REPEATABLE_WORDS - 1)) >= _MIN_REPEATABLE_WORDS:
            count += 1
            characters += len(piece)
    return Repetition(share_of(count, len(pieces)), share_of(characters, sum(map(len, pieces))))
