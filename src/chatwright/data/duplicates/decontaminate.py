"""Documents that hold a passage of an evaluation set, found by runs of words. Not for copies among documents.

After Brown et al. 2020 (GPT-3, appendix C): a run of 13 words in common. Differences: a text of the evaluation set
that is shorter counts as one run, down to `least_words` words (their lower bound is 8 too), and the whole document
goes, not the neighbourhood of the passage. Frequent runs are not excepted, so a set of common phrases drops much;
the report counts it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TextIO

import numpy as np
from pydantic import Field

from chatwright.data import limits
from chatwright.data.duplicates.shingles import Hashes, shingles, word_hashes
from chatwright.foundation.config import Config
from chatwright.foundation.errors import DataError

_STEM = "evaluation-{}.npy"
_PART_CHARACTERS = 4 * limits.MIB  # of a set of plain text in memory, and its longest paragraph


class DecontaminateConfig(Config):
    """Evaluation sets that the corpus must not hold."""

    sets: tuple[str, ...] = ()  # JSON Lines (every string in them) or plain text (every paragraph)
    words: int = Field(default=13, ge=3, le=100)  # GPT-3: the same
    least_words: int = Field(default=8, ge=3, le=100)  # shorter evaluation texts are not looked for, and counted

    def problems(self) -> Iterator[str]:
        """The lower bound lies below."""
        if self.least_words > self.words:
            yield f"`least_words` must not exceed `words`: {self.least_words} > {self.words}"


class EvaluationCounts(NamedTuple):
    """What the sets gave."""

    texts: int
    too_short: int
    runs: int


class EvaluationRuns:
    """Hashes of all runs of the evaluation sets, by the number of their words."""

    def __init__(self, runs: dict[int, Hashes]):
        self._runs = runs

    def found_in(self, words: Hashes) -> int:
        """How many places of a document begin a run of an evaluation set.

        Args:
            words: what `word_hashes` gives for the document.
        """
        places = 0
        for size, runs in self._runs.items():
            if len(words) >= size:
                own = shingles(words, size=size)
                near = np.searchsorted(runs, own)
                near[near == len(runs)] = 0
                places += int(np.count_nonzero(runs[near] == own))
        return places

    def save(self, directory: Path) -> None:
        """Write one array a size."""
        for size, runs in self._runs.items():
            np.save(directory / _STEM.format(size), runs, allow_pickle=False)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """What `save` wrote; mapped, so that processes share it."""
        files = sorted(directory.glob(_STEM.format("*")))
        return cls({int(path.stem.split("-")[1]): np.load(path, mmap_mode="r", allow_pickle=False) for path in files})


def collect_runs(
    config: DecontaminateConfig, prepare: Callable[[str], str] = str
) -> tuple[EvaluationRuns, EvaluationCounts]:
    """Runs of all sets.

    Args:
        config: which sets.
        prepare: what was done to the texts of the corpus, since a passage is found only in the same form; nothing by
            default.

    Raises:
        DataError: a set is missing, unreadable or holds no text that is long enough.
    """
    found: dict[int, list[Hashes]] = {}
    texts = too_short = 0
    for name in config.sets:
        before = texts - too_short
        for text in _texts_of(Path(name)):
            words = word_hashes(prepare(text))
            texts += 1
            size = min(config.words, len(words))
            if size < config.least_words:
                too_short += 1
                continue
            found.setdefault(size, []).append(shingles(words, size=size))
        if texts - too_short == before:
            raise DataError(
                f"the evaluation set `{name}` holds no text of at least {config.least_words} words",
                hint="lower `clean.decontaminate.least_words`, or leave the set out",
            )
    runs = {size: np.unique(np.concatenate(hashes)) for size, hashes in sorted(found.items())}
    return EvaluationRuns(runs), EvaluationCounts(texts, too_short, sum(map(len, runs.values())))


def _texts_of(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix in {".jsonl", ".ndjson"}:
                yield from _texts_of_lines(file, path)
            else:
                yield from _paragraphs_of(file, path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the evaluation set `{path}` cannot be read: {error}") from error


def _paragraphs_of(file: TextIO, path: Path) -> Iterator[str]:
    """What stands between blank lines, read by parts: a set may be of any length, a paragraph may not."""
    rest = ""
    while part := file.read(_PART_CHARACTERS):
        *whole, rest = (rest + part).split("\n\n")
        yield from whole
        if len(rest) > limits.MAX_DOCUMENT_CHARACTERS:
            size = f"{limits.MAX_DOCUMENT_CHARACTERS:,} characters"
            raise DataError(
                f"the evaluation set `{path}` has a paragraph of more than {size}",
                hint="put blank lines between its texts, or write them as JSON Lines",
            )
    yield rest


def _texts_of_lines(lines: Iterator[str] | Any, path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield from _strings(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"`{path}` line {number} is not JSON: {error}") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    children: Sequence[Any] = (
        list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()
    )
    for child in children:
        yield from _strings(child)
