"""Questions and answers derived from documents: the documents' own words, and a count for all that yields nothing."""

import json
import time

import pytest

from chatwright.feedback.conversations import OUT_OF_SCOPE, read_conversations
from chatwright.feedback.pairs import MAX_ANSWER_CHARACTERS, derive_pairs, wordings, write_pairs
from chatwright.foundation.errors import DataError, UsageError

FAQ = """# Returns

## Can I return opened tea?

Opened tea **cannot** come back, see [our rules](https://example.org/rules).
Unopened packets can, within 30 days.

## Teapots
We take back teapots that were never used.

## Empty heading

Delivery
--------
Parcels leave every working day at four.

Q: Do you ship to France?
A: Yes, to all of the mainland, in about five days.
Corsica takes a week.

**Question:** Is there a shop?
**Answer:** There is one in Saltmere, by the harbour.
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "docs" / "inner").mkdir(parents=True)
    (tmp_path / "docs" / "faq.md").write_text(FAQ)
    (tmp_path / "docs" / "inner" / "plain.txt").write_text("Only prose, and not a heading in it.")
    (tmp_path / "docs" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "docs" / "bad.md").write_bytes(b"# H\xff\n")
    return tmp_path / "docs"


def by_question(derived):
    return {pair.question: pair for pair in derived.pairs}


def test_headings_and_marked_questions_yield_the_documents_own_words(folder):
    found = by_question(derive_pairs(folder))
    opened = found["Can I return opened tea?"]
    assert opened.answer == "Opened tea cannot come back, see our rules. Unopened packets can, within 30 days."
    assert found["What about Returns: Teapots?"].answer == "We take back teapots that were never used."
    assert found["Do you ship to France?"].answer.endswith("Corsica takes a week.")
    assert found["Is there a shop?"].answer == "There is one in Saltmere, by the harbour."


def test_all_wordings_of_a_question_share_a_label_and_an_answer(folder):
    derived = derive_pairs(folder)
    groups = {}
    for pair in derived.pairs:
        groups.setdefault(pair.label, set()).add(pair.answer)
    assert all(len(answers) == 1 for answers in groups.values())
    assert len(derived.pairs) == sum(
        len(wordings(question)) for question in ("Can I return opened tea?",) * len(groups)
    )
    assert len(set(wordings("Is there a shop?"))) == 7


def test_what_yields_nothing_is_counted_with_its_reason(folder):
    counts = derive_pairs(folder).left_aside
    assert counts["file of the kind `.png`"] == 1
    assert counts["file that is not UTF-8"] == 1
    assert counts["document without a question or a heading"] == 1
    assert counts["heading or question without an answer"] >= 1


def test_a_question_asked_twice_is_taken_once(folder):
    (folder / "other.md").write_text("## Can I return  OPENED tea?\nNo, sorry, that is not possible.\n")
    derived = derive_pairs(folder)
    assert derived.left_aside["question that another document asks too"] == 1
    assert by_question(derived)["Can I return opened tea?"].answer.startswith("Opened tea cannot")


def test_refusals_are_added_where_they_are_wanted(folder):
    assert not any(pair.label == OUT_OF_SCOPE for pair in derive_pairs(folder).pairs)
    refused = [pair for pair in derive_pairs(folder, refusal="I only know tea.").pairs if pair.label == OUT_OF_SCOPE]
    assert len(refused) >= 100
    assert {pair.answer for pair in refused} == {"I only know tea."}


def test_what_is_written_is_read_as_conversations(folder, tmp_path):
    derived = derive_pairs(folder)
    write_pairs(derived, tmp_path / "pairs.jsonl")
    read = read_conversations(tmp_path / "pairs.jsonl")
    assert [(item.messages[0].content, item.label) for item in read] == [(p.question, p.label) for p in derived.pairs]
    assert json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])["answer"]


def test_answers_end_with_a_sentence_and_within_their_length(tmp_path):
    (tmp_path / "a.md").write_text("# Long?\n" + "This is one of many sentences. " * 100)
    answer = derive_pairs(tmp_path).pairs[0].answer
    assert len(answer) <= MAX_ANSWER_CHARACTERS
    assert answer.endswith("sentences.")


def test_a_folder_that_is_not_there_or_yields_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        derive_pairs(tmp_path / "none")
    (tmp_path / "a.txt").write_text("prose")
    with pytest.raises(DataError, match="yields no question: 1 documents were read"):
        derive_pairs(tmp_path)


@pytest.mark.parametrize("piece", ["*", "[", "[](", "Q: ", "# ", "=", "a. ", "_ \t", "![x](" + "y"])
def test_hostile_text_takes_linear_time(tmp_path, piece):
    for line in (piece * (200_000 // len(piece)), (piece + "\n") * (200_000 // len(piece))):
        (tmp_path / "a.md").write_text("# Heading?\nAn answer of some length.\n\nAnd more of it.\n\n## Next\n" + line)
        began = time.process_time()
        derive_pairs(tmp_path)
        assert time.process_time() - began < 2.0


def test_comments_and_rules_in_fenced_code_are_no_headings(tmp_path):
    code = "# comment in the shell\nmake all\nlines\n-----\n```python\n"
    text = (
        f"## How do I build it?\n\nRun these two commands:\n\n````sh\n{code}````\nand wait.\n\n~~~\n## not one\n~~~\n"
    )
    (tmp_path / "doc.md").write_text(text + "\n## What then?\n\nEnjoy the program that you have built.\n")
    found = {question: pair.answer for question, pair in by_question(derive_pairs(tmp_path)).items()}
    assert {question for question in found if question[0].isupper()} == {"How do I build it?", "What then?"}
    told = found["How do I build it?"]
    assert told.startswith("Run these two commands:")
    assert all(words in told for words in ("# comment in the shell make all lines", "and wait.", "## not one"))
    assert "````" not in told


@pytest.mark.parametrize(
    ("name", "heading"),
    [("a.txt", "Where is it?\n~~~~~~~~~~~~\n"), ("a.rst", "~~~~~~~~~~~~\nWhere is it?\n~~~~~~~~~~~~\n")],
)
def test_tildes_that_underline_a_heading_are_no_fence(tmp_path, name, heading):
    (tmp_path / name).write_text(f"{heading}\nIt is behind the harbour, in Saltmere.\n\n{heading.replace('is it', 'am I')}\nYou are in front of the harbour.\n")  # fmt: skip
    assert {"Where is it?", "Where am I?"} <= by_question(derive_pairs(tmp_path)).keys()
