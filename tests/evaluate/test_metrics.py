"""Figures of texts: sacreBLEU's own to the last digit, ROUGE-L as its package has it, bootstrap that finds what is there."""

import json
import subprocess
import sys

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from chatwright.evaluate.metrics import paired_bootstrap, rouge_l, same, text_scores, token_f1
from chatwright.foundation.errors import UsageError

ANSWERS = ["The ferry leaves at nine.", "Children ride for free, of course", "There is no boat on Sunday", "Yes."]
REFERENCES = [
    ["The ferry leaves at nine in the morning.", "At nine the ferry departs."],
    ["Children ride free."],
    ["There is no boat on Sundays.", "No boat runs on Sunday", "On Sunday there is none"],
    ["Yes."],
]


def test_scores_equal_the_sacrebleu_command_to_the_last_digit(tmp_path):
    one = [several[0] for several in REFERENCES]
    (tmp_path / "answers").write_text("\n".join(ANSWERS) + "\n")
    (tmp_path / "reference").write_text("\n".join(one) + "\n")
    command = [sys.executable, "-m", "sacrebleu", tmp_path / "reference", "-i", tmp_path / "answers"]
    command += ["-m", "bleu", "chrf", "ter", "-w", "4"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ours = text_scores(ANSWERS, [[text] for text in one])
    assert [ours["bleu"], ours["chrf"], ours["ter"]] == [entry["score"] for entry in told]
    for key, entry in zip(("bleu", "chrf", "ter"), told, strict=True):
        assert entry["signature"].split("|")[1:] == ours[f"{key}_signature"].split("|")[1:]


def test_several_references_of_unequal_number_are_all_used():
    ours = text_scores(ANSWERS, REFERENCES)
    streams = [[s[place] if place < len(s) else None for s in REFERENCES] for place in range(3)]
    assert ours["bleu"] == round(sacrebleu.BLEU().corpus_score(ANSWERS, streams).score, 4)
    assert "nrefs:var" in ours["bleu_signature"]
    assert ours["bleu"] > text_scores(ANSWERS, [[several[0]] for several in REFERENCES])["bleu"]
    assert ours["exact"] == 0.25


@given(
    st.lists(st.sampled_from("abc"), max_size=8).map(" ".join),
    st.lists(st.sampled_from("abc"), max_size=8).map(" ".join),
)
def test_rouge_l_is_the_package_s(answer, reference):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge_score is not installed").RougeScorer(
        ["rougeL"]
    )
    assert rouge_l(answer, reference) == pytest.approx(scorer.score(reference, answer)["rougeL"].fmeasure)


@pytest.mark.parametrize(
    ("answer", "reference", "shared"),
    [
        ("\u0926\u093f\u0928", "\u0926\u093e\u0928", 0.0),  # Hindi: a day, a gift
        ("cafe\u0301 open", "caf\u00e9 open", 1.0),
        ("\u6211\u559c\u6b22\u732b\u3002", "\u6211\u559c\u6b22\u72d7", 0.75),  # Chinese: I like cats, dogs
        ("\u732b\u304c\u597d\u304d", "\u72ac\u304c\u597d\u304d", 0.75),  # Japanese, the same
        ("\u0e41\u0e21\u0e27\u0e14\u0e35", "\u0e41\u0e21\u0e27\u0e21\u0e35", 0.75),  # Thai, a vowel upon its letter
        ("It's 5 o'clock \u2764\ufe0f in_time!", "it s 5 O clock in time", 1.0),
    ],
)
def test_words_are_those_of_their_script(answer, reference, shared):
    assert token_f1(answer, reference) == pytest.approx(shared)
    assert rouge_l(answer, reference) == pytest.approx(shared)


def test_equal_is_equal_but_for_space_and_two_ways_to_write_a_letter():
    assert same(" caf\u00e9  open\n", "cafe\u0301 open")
    assert not same("Yes", "yes")


def test_the_paired_bootstrap_finds_a_better_system_and_no_difference_where_none_is():
    references = [[f"the ferry number {n} leaves the harbour at {n % 12} today"] for n in range(60)]
    good = [several[0] if n % 4 else "no idea about it" for n, several in enumerate(references)]
    bad = [several[0] if n % 2 else "no idea about it" for n, several in enumerate(references)]
    found = paired_bootstrap({"bad": bad, "good": good, "again": bad}, references, resamples=200)
    assert set(found) == {"bleu", "chrf", "ter"}
    assert found["bleu"]["bad"].p_value is None
    assert found["bleu"]["good"].p_value < 0.05
    assert found["bleu"]["again"].p_value > 0.5
    assert found["bleu"]["good"].score > found["bleu"]["bad"].score


@pytest.mark.parametrize(("count", "p_value"), [(2, 0.5), (1, None)])
def test_the_bootstrap_of_very_few_answers_says_no_more_than_their_signs(count, p_value):
    right = [f"the ferry number {n} leaves the harbour today" for n in range(count)]
    systems = {"bad": ["no idea about it"] * count, "good": right}
    found = paired_bootstrap(systems, [[text] for text in right], resamples=200)
    assert [found[metric]["good"].p_value for metric in ("bleu", "chrf", "ter")] == [p_value] * 3


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UsageError, match="2 answers cannot be scored against references for 1"):
        text_scores(["a", "b"], [["a"]])
    with pytest.raises(UsageError, match="answer 2 has no reference"):
        text_scores(["a", "b"], [["a"], []])
    with pytest.raises(UsageError, match="no answer"):
        text_scores([], [])
    with pytest.raises(UsageError, match="two systems"):
        paired_bootstrap({"one": ["a"]}, [["a"]])
