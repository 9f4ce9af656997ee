"""The support example keeps what its README says: size, sound answers, and no test wording in the training part.

Two wordings are near copies if, after case, punctuation, doubled letters and chat spellings are evened out,
their words or their letter triples overlap by the shares below, or what is left without function words does.
"""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from chatwright.feedback.conversations import Conversation, read_conversations

SUPPORT = Path(__file__).parents[2] / "examples" / "support"
OUT_OF_SCOPE = "out-of-scope"
MAX_WORD_OVERLAP = 0.6  # Jaccard index of the sets of words
MAX_TRIPLE_OVERLAP = 0.55  # Jaccard index of the sets of three letters in a row
MAX_CONTENT_OVERLAP = 0.6  # Jaccard index of the stems of content words, where both have at least two

CHAT_SPELLINGS = dict(
    re.findall(
        r"(\S+)=(\S+)",
        "u=you ur=your r=are pls=please plz=please 2=to 4=for n=and wot=what wat=what whats=what wats=what "
        "wheres=where whens=when im=i ive=i tmrw=tomorrow thx=thanks teh=the hw=how b4=before cos=because",
    )
)
FUNCTION_WORDS = frozenset(  # doubled letters already evened out
    re.findall(
        r"\w+",
        "a an the i my me you your yours we our us it its is are am be do does did can could may might wil would "
        "should shal of to for in on at by with from and or if so please hi helo hey ok how what where when which who "
        "there here this that have has had get one any some not no",
    )
)


class Wording(NamedTuple):
    """The features by which wordings are compared."""

    words: frozenset[str]
    triples: frozenset[str]
    content: frozenset[str]


def wording(text: str) -> Wording:
    cleaned = re.sub(r"[^a-z0-9 ]", "", re.sub(r"[-/.]", " ", text.lower()))
    words = [re.sub(r"(.)\1+", r"\1", CHAT_SPELLINGS.get(word, word)) for word in cleaned.split()]
    joined = f" {' '.join(words)} "
    content = {word for word in words if word not in FUNCTION_WORDS}
    stems = {re.sub(r"(ing|ed|es|s|e)$", "", word) if len(word) > 4 else word for word in content}
    triples = frozenset(joined[start : start + 3] for start in range(len(joined) - 2))
    return Wording(frozenset(words), triples, frozenset(stems))


def overlaps(first: list[frozenset[str]], second: list[frozenset[str]]) -> np.ndarray:
    """Jaccard index of each set of the first list with each of the second; 0 where both are empty."""
    columns = {feature: column for column, feature in enumerate(sorted(frozenset().union(*first, *second)))}

    def table(sets: list[frozenset[str]]) -> np.ndarray:
        rows = np.zeros((len(sets), len(columns)), dtype=np.float32)
        for row, features in enumerate(sets):
            rows[row, [columns[feature] for feature in features]] = 1
        return rows

    left, right = table(first), table(second)
    shared = left @ right.T
    return shared / np.maximum(left.sum(1)[:, None] + right.sum(1)[None, :] - shared, 1)


def near_copies(first: list[str], second: list[str]) -> list[tuple[str, str]]:
    """Pairs of a text of the first list and a near copy of it in the second."""
    left, right = [wording(text) for text in first], [wording(text) for text in second]
    content = overlaps([one.content for one in left], [one.content for one in right])
    sizes = np.minimum.outer([len(one.content) for one in left], [len(one.content) for one in right])
    is_near = overlaps([one.words for one in left], [one.words for one in right]) >= MAX_WORD_OVERLAP
    is_near |= overlaps([one.triples for one in left], [one.triples for one in right]) >= MAX_TRIPLE_OVERLAP
    is_near |= (content == 1) | ((content >= MAX_CONTENT_OVERLAP) & (sizes >= 2))
    return [(first[row], second[column]) for row, column in np.argwhere(is_near)]


@cache
def policies() -> dict[str, str]:
    lines = (SUPPORT / "policies.jsonl").read_text(encoding="ascii").splitlines()
    return {entry["id"]: entry["answer"] for entry in map(json.loads, lines)}


@cache
def part(name: str) -> list[Conversation]:
    return read_conversations(SUPPORT / f"{name}.jsonl")


def user_turns(talk: Conversation) -> list[str]:
    return [message.content for message in talk.messages if message.role == "user"]


def test_the_example_has_the_promised_size() -> None:
    everything = part("train") + part("test")
    declined = [talk for talk in everything if talk.label == OUT_OF_SCOPE]
    assert len(policies()) >= 60
    assert len(everything) - len(declined) >= 1500
    assert len(declined) >= 150
    assert sum(talk.label == OUT_OF_SCOPE for talk in part("test")) >= 50


def test_every_policy_is_asked_for_in_both_parts() -> None:
    trained, tested = (Counter(talk.label for talk in part(name)) for name in ("train", "test"))
    assert set(trained) == set(tested) == set(policies())
    assert min(tested.values()) >= 4
    assert min(trained.values()) >= 20
    assert {talk.label for talk in part("test") if len(talk.messages) > 2} == set(policies())


def test_answers_are_distinct_and_of_a_length_that_a_small_model_can_say() -> None:
    assert len(set(policies().values())) == len(policies())
    for identity, answer in policies().items():
        assert 18 <= len(answer.split()) <= 38, identity


@pytest.mark.parametrize("name", ["train", "test"])
def test_every_answer_is_the_policy_and_every_first_answer_a_known_one(name: str) -> None:
    known = set(policies().values())
    for talk in part(name):
        answers = [message.content for message in talk.messages if message.role == "assistant"]
        assert answers[-1] == policies()[str(talk.label)], talk.source
        assert answers[0] in known, talk.source
        assert len(talk.messages) in (2, 4), talk.source


@pytest.mark.parametrize("name", ["policies.jsonl", "train.jsonl", "test.jsonl", "README.md"])
def test_the_files_are_plain_ascii(name: str) -> None:
    assert (SUPPORT / name).read_bytes().isascii()
    if name.endswith(".jsonl"):
        assert "\\u" not in (SUPPORT / name).read_text(encoding="ascii")


def test_no_question_stands_twice() -> None:
    questions = Counter(tuple(user_turns(talk)) for talk in part("train") + part("test"))
    assert [question for question, times in questions.items() if times > 1] == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Cancel my order!", "can i cancel an order", True),
        ("How long does delivery take?", "how long does delivry take", True),
        ("whats the return deadline", "Return deadline?", True),
        ("Where can I park?", "Is there a place for my car?", False),
    ],
)
def test_near_copies_are_told_from_other_wordings(first: str, second: str, expected: bool) -> None:
    assert (near_copies([first], [second]) == [(first, second)]) is expected


def test_no_wording_of_the_test_part_nor_a_near_copy_is_in_the_training_part() -> None:
    # Every user turn counts, first turns too: a test question may not be seen even on the way to another one.
    trained, tested = (sorted({text for talk in part(name) for text in user_turns(talk)}) for name in ("train", "test"))
    assert near_copies(trained, tested) == []
