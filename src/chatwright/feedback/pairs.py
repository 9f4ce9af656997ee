"""Questions and answers derived from documents by rules: marked ones, and sections under their headings.

No model writes here: an answer is the document's own words, a question its heading in a few plain wordings. Not as good
as what customers really ask (their tickets), but a beginning where there are none. What yields nothing is counted.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data.document import PART_PATTERN, iter_documents
from chatwright.feedback.conversations import OUT_OF_SCOPE
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, UsageError

MAX_FILE_BYTES = 4 << 20  # a document of one's own; more is a dump, and belongs into a corpus
MAX_ANSWER_CHARACTERS = 600
MIN_ANSWER_CHARACTERS = 20

_TEXT_SUFFIXES = (".md", ".markdown", ".txt", ".rst")
_HEADING = re.compile(r"(#{1,6})[ \t]+(\S[^\n]*)")
_UNDERLINE = re.compile(r"([=~^*-])\1{2,}")
_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})([^\n]*)")
_ASKED = re.compile(r"[*_ \t]{0,4}(?:Q|Question)[*_]{0,2}[ \t]?[:.][*_]{0,2}[ \t]+(\S[^\n]*)", re.IGNORECASE)
_ANSWERED = re.compile(r"[*_ \t]{0,4}(?:A|Answer)[*_]{0,2}[ \t]?[:.][*_]{0,2}[ \t]+(\S[^\n]*)", re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\]\n]{0,300})\]\([^)\n]{0,1000}\)")
_MARKS = re.compile(r"[*_`]{1,3}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORDINGS = ("{}", "hi, {}", "please tell me: {}", "i would like to know: {}", "question: {}", "{} thanks")
# Nothing that any shop or product answers: what a helper without them says to these is invented.
_ELSEWHERE = (
    "What is the capital of Peru?",
    "Who won the football world cup in 1998?",
    "How far away is the moon?",
    "Write me a poem about autumn.",
    "What is 17 times 23?",
    "Can you recommend a good film for tonight?",
    "What will the weather be like tomorrow?",
    "Translate 'good morning' into Italian.",
    "Who wrote Hamlet?",
    "How do I boil an egg?",
    "Should I buy shares now?",
    "I have a headache, what should I take?",
    "Tell me a joke.",
    "What is the meaning of life?",
    "How old is the universe?",
    "Which party should I vote for?",
    "Write a Python function that sorts a list.",
    "Who are you in love with?",
    "When does the next train to Berlin leave?",
    "Can my landlord raise the rent?",
)


class Pair(NamedTuple):
    """A question, its answer, and where both stand."""

    question: str
    answer: str
    label: str


@dataclass
class Derived:
    """What documents yielded, and what was left aside for which reason."""

    pairs: list[Pair] = field(default_factory=list)
    documents: int = 0
    left_aside: Counter[str] = field(default_factory=Counter)

    def facts(self) -> dict[str, Any]:
        """For a person or a program."""
        answers = len({pair.label for pair in self.pairs})
        return {
            "documents": self.documents,
            "answers": answers,
            "questions": len(self.pairs),
            "left_aside": dict(self.left_aside),
        }


def derive_pairs(folder: Path, *, refusal: str | None = None) -> Derived:
    """Pairs from a folder of texts, or from a corpus of this system.

    Args:
        folder: with Markdown, reStructuredText or plain text, folders within it too; or with `part-*.parquet`, as the
            stages `collect` and `clean` leave them.
        refusal: the answer to questions that are none of the documents' business; None adds none.

    Raises:
        UsageError: there is no such folder.
        DataError: nothing in it yields a question.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder `{folder}`", hint="name a folder of Markdown or text files")
    derived = Derived()
    seen: set[str] = set()
    for name, text in _texts(folder, derived):
        derived.documents += 1
        found = list(_pairs_of(name, text, derived))
        derived.left_aside["document without a question or a heading"] += not found
        for pair in found:
            _add(pair, derived, seen)
    if not derived.pairs:
        raise DataError(
            f"`{folder}` yields no question: {derived.documents} documents were read",
            cause="neither `Q:` and `A:` nor headings with text under them were found",
            hint="write `## A question?` above each answer, or give a CSV with the columns `question` and `answer`",
        )
    for question in _ELSEWHERE if refusal else ():
        derived.pairs += [Pair(wording, str(refusal), OUT_OF_SCOPE) for wording in wordings(question)]
    return derived


def _add(pair: Pair, derived: Derived, seen: set[str]) -> None:
    key = " ".join(pair.question.lower().split())
    if key in seen:
        derived.left_aside["question that another document asks too"] += 1
        return
    seen.add(key)
    derived.pairs += [pair._replace(question=wording) for wording in wordings(pair.question)]


def wordings(question: str) -> list[str]:
    """A question as it stands, and as people type it; without a question mark, too."""
    typed = question[:1].lower() + question[1:].rstrip("?. ") if question[1:2].islower() else question.rstrip("?. ")
    return [question, *(pattern.format(typed) for pattern in _WORDINGS if pattern.format(typed) != question)]


def write_pairs(derived: Derived, target: Path) -> None:
    """As JSON Lines with `question`, `answer` and `label`, the file whole or not at all."""
    with storage.publish_file(target) as scratch, scratch.open("w", encoding="utf-8") as file:
        for pair in derived.pairs:
            file.write(json.dumps(pair._asdict(), ensure_ascii=False) + "\n")


def _texts(folder: Path, derived: Derived) -> Iterator[tuple[str, str]]:
    if any(folder.glob(PART_PATTERN)):
        for document in iter_documents(folder):
            yield document.path or document.id, document.text
        return
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if path.suffix.lower() not in _TEXT_SUFFIXES:
            derived.left_aside[f"file of the kind `{path.suffix.lower() or 'none'}`"] += 1
        elif path.stat().st_size > MAX_FILE_BYTES:
            derived.left_aside[f"file above {MAX_FILE_BYTES >> 20} MiB"] += 1
        else:
            try:
                yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError:
                derived.left_aside["file that is not UTF-8"] += 1


class _Section(NamedTuple):
    """A heading with what stands above it, and the lines under it."""

    path: tuple[str, ...]
    lines: list[str]


def _pairs_of(name: str, text: str, derived: Derived) -> Iterator[Pair]:
    """Marked questions first; a section that holds some is not taken as a whole too."""
    for number, section in enumerate(_sections(text.splitlines(), has_fences=not name.lower().endswith(".rst"))):
        marked = list(_marked(section.lines))
        found = marked or ([(_question_of(section.path), "\n".join(section.lines))] if section.path else [])
        for index, (question, body) in enumerate(found):
            answer = _answer_of(body)
            if len(answer) < MIN_ANSWER_CHARACTERS:
                derived.left_aside["heading or question without an answer"] += 1
                continue
            yield Pair(question, answer, f"{name}#{number}" + (f".{index}" if marked else ""))


def _sections(lines: list[str], *, has_fences: bool) -> Iterator[_Section]:
    path: list[tuple[int, str]] = []
    held: list[str] = []
    told = list(_out_of_fences(lines)) if has_fences else [(line, False) for line in lines]
    for (line, is_code), (following, goes_on) in itertools.pairwise([*told, ("", False)]):
        if is_code:
            held.append(line)
            continue
        level, heading = _heading(line, "" if goes_on else following)
        if not heading:
            if not _UNDERLINE.fullmatch(line.strip()):
                held.append(line)
            continue
        yield _Section(tuple(name for _, name in path), held)
        path = [*((depth, name) for depth, name in path if depth < level), (level, heading)]
        held = []
    yield _Section(tuple(name for _, name in path), held)


def _out_of_fences(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Each line and whether it stands in a fenced block of code (CommonMark 4.5); the fences are left out.

    Unlike there, tildes that underline the line above them are no fence: texts of other kinds have such headings.
    """
    fence, above = "", ""
    for line in lines:
        found = _FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence) and not found[2].strip():
                fence = ""
            else:
                yield line, True
        elif found and not (found[1][0] == "`" and "`" in found[2]) and not _heading(above, line)[0]:
            fence = found[1]
        else:
            yield line, False
        above = line


def _heading(line: str, following: str) -> tuple[int, str]:
    """The level and the words of a heading; level 0 for any other line."""
    found = _HEADING.fullmatch(line.rstrip())
    if found:
        return len(found[1]), _plain(found[2].rstrip("# "))
    under = _UNDERLINE.fullmatch(following.strip())
    if under and line.strip() and len(following.strip()) >= len(line.strip()) > 1:
        return 1 if under[1] == "=" else 2, _plain(line)
    return 0, ""


def _question_of(path: tuple[str, ...]) -> str:
    """The heading where it asks; otherwise the heading under what stands above it."""
    return path[-1] if path[-1].endswith("?") else f"What about {': '.join(path[-2:])}?"


def _marked(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    question: str | None = None
    answer: list[str] | None = None
    for line in lines:
        asked, answered = _ASKED.fullmatch(line.rstrip()), _ANSWERED.fullmatch(line.rstrip())
        if asked:
            if question and answer is not None:
                yield question, "\n".join(answer)
            question, answer = _plain(asked[1]), None
        elif answered and question:
            answer = [answered[1]]
        elif answer is not None:
            answer.append(line)
    if question and answer is not None:
        yield question, "\n".join(answer)


def _answer_of(body: str) -> str:
    """The text without markup, in whole sentences up to the longest answer."""
    text = " ".join(_plain(line.lstrip("-*+> \t")) for line in body.splitlines() if line.strip())
    kept = ""
    for sentence in _SENTENCE_END.split(" ".join(text.split())):
        if kept and len(kept) + 1 + len(sentence) > MAX_ANSWER_CHARACTERS:
            break
        kept = f"{kept} {sentence}".strip()
    return kept[:MAX_ANSWER_CHARACTERS]


def _plain(text: str) -> str:
    return _MARKS.sub("", _LINK.sub(r"\1", text)).strip()
