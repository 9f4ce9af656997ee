"""Answers against references: BLEU is sacreBLEU's own, words overlap as in SQuAD, and the right policy is recognised."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from chatwright.evaluate.answers import Answered, ask, references_by_label, score, stated_label, token_f1
from chatwright.evaluate.metrics import score_intervals
from chatwright.evaluate.stage import _shown
from chatwright.feedback.conversations import Conversation, Message
from chatwright.foundation.streams import seed_for
from chatwright.model.chat import ChatModel
from chatwright.model.directory import LoadedModel

REFERENCES = {
    "returns": "You can return an item within thirty days with its receipt.",
    "shipping": "Parcels leave our store on the day after the order.",
    "out-of-scope": "I can only help with questions about our shop.",
}


def conversation(question, label, *, before=()):
    turns = [Message(role, text) for role, text in zip(("user", "assistant"), before, strict=False)]
    messages = (*turns, Message("user", question), Message("assistant", REFERENCES[label]))
    return Conversation(messages=messages, source="test.jsonl:1", label=label)


def answered(label, answer, **fields):
    return Answered(conversation("How?", label, **fields), answer)


def test_bleu_and_chrf_equal_sacrebleu_to_the_last_digit():
    answers = ["You can return an item within ten days.", "Parcels leave on the day after.", "No."]
    items = [answered(label, text) for label, text in zip(REFERENCES, answers, strict=True)]
    figures = score(items, REFERENCES)
    wanted = [list(REFERENCES.values())]
    assert figures["bleu"] == round(sacrebleu.corpus_bleu(answers, wanted).score, 4)
    assert figures["chrf"] == round(sacrebleu.corpus_chrf(answers, wanted).score, 4)
    assert "tok:13a" in figures["bleu_signature"]
    assert f"version:{sacrebleu.__version__}" in figures["bleu_signature"]


def test_several_references_are_scored_as_sacrebleu_does():
    answers = ["The cat sat on the mat today.", "It is raining hard outside.", "No."]
    right = [["A cat sat on the mat.", "The cat sat on a mat today."], ["It rains hard outside."], ["Yes.", "No."]]
    items = []
    for answer, (first, *more) in zip(answers, right, strict=True):
        turns = (Message("user", "?"), Message("assistant", first))
        items.append(Answered(Conversation(messages=turns, source="x:1", more_references=tuple(more)), answer))
    figures = score(items, {})
    streams = [[several[0] for several in right], [right[0][1], None, right[2][1]]]
    bleu = sacrebleu.BLEU()
    assert figures["bleu"] == round(bleu.corpus_score(answers, streams).score, 4)
    assert figures["bleu"] > round(sacrebleu.corpus_bleu(answers, streams[:1]).score, 4)
    assert figures["bleu_signature"] == str(bleu.get_signature())
    assert "nrefs:var" in figures["bleu_signature"]
    assert figures["exact"] == round(1 / 3, 4)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("At nine.", "at NINE", 1.0),
        ("It leaves at nine", "at nine", 2 * 0.5 * 1.0 / 1.5),
        ("nine nine nine", "nine", 2 * (1 / 3) / (4 / 3)),
        ("no", "yes", 0.0),
        ("", "yes", 0.0),
        ("", "", 0.0),
        ("Zwölf-Minuten", "zwölf minuten", 1.0),
    ],
)
def test_token_f1_of_known_cases(answer, reference, expected):
    assert token_f1(answer, reference) == pytest.approx(expected)


@given(st.text(max_size=40), st.text(max_size=40))
def test_token_f1_is_symmetric_and_between_zero_and_one(one, other):
    assert token_f1(one, other) == pytest.approx(token_f1(other, one))
    assert 0 <= token_f1(one, other) <= 1


def test_the_stated_label_is_that_of_the_nearest_reference_if_it_is_near_enough():
    assert stated_label("You can return any item within thirty days, with its receipt!", REFERENCES) == "returns"
    assert stated_label("I can only help with our shop.", REFERENCES) == "out-of-scope"
    assert stated_label("The ferry leaves at nine in the morning.", REFERENCES) is None
    assert stated_label("", REFERENCES) is None
    assert stated_label("anything", {}) is None


def test_the_reference_of_a_label_is_its_most_frequent_answer():
    frequent = [conversation(f"{number}?", "returns") for number in range(2)]
    rare = Conversation(messages=(Message("user", "?"), Message("assistant", "Rare.")), source="x:1", label="returns")
    unlabelled = Conversation(messages=(Message("user", "?"), Message("assistant", "None.")), source="x:2")
    assert references_by_label([rare, *frequent, unlabelled]) == {"returns": REFERENCES["returns"]}


def test_scores_of_answers_made_by_hand():
    items = [
        answered("returns", REFERENCES["returns"] + " "),
        answered("shipping", "Parcels leave our store the day after your order."),
        answered("returns", REFERENCES["shipping"], before=("Hello", "Hello!")),
        answered("out-of-scope", REFERENCES["out-of-scope"]),
        answered("out-of-scope", "Paris is the capital of France."),
    ]
    figures = score(items, REFERENCES)
    assert figures["questions"] == 5
    assert figures["exact"] == 0.4
    assert figures["right"] == 0.6
    kinds = {"one turn": (2, 1.0), "out of scope": (2, 0.5), "several turns": (1, 0.0)}
    assert {kind: (item["questions"], item["right"]) for kind, item in figures["right_by_kind"].items()} == kinds
    assert figures["right_by_kind"]["several turns"]["right_95"] == [0.0, 0.7935]
    mean = sum(token_f1(item.answer, item.reference) for item in items) / 5
    assert figures["token_f1"] == pytest.approx(mean, abs=1e-4)


def test_every_figure_of_answers_has_an_interval_that_stays_the_same():
    said = ["You can return an item within thirty days.", "Parcels leave on the day after.", "No."] * 20
    items = [answered(label, text) for label, text in zip([*REFERENCES] * 20, said, strict=True)]
    figures = score(items, REFERENCES)
    for key in ("right", "exact", "bleu", "chrf", "token_f1"):
        low, high = figures[f"{key}_95"]
        assert low <= figures[key] <= high
        assert low < high
    assert score(items, REFERENCES) == figures
    few = score(items[:6], REFERENCES)
    assert few["chrf_95"][1] - few["chrf_95"][0] > figures["chrf_95"][1] - figures["chrf_95"][0]


def test_the_interval_of_bleu_is_that_of_scores_of_answers_drawn_and_scored_whole():
    said = ["You can return an item within ten days.", "Parcels leave on the day after.", "No.", "At nine or ten."] * 5
    right = [[*REFERENCES.values(), "At ten."][number % 4] for number in range(20)]
    generator = np.random.Generator(np.random.PCG64(seed_for(1, "bootstrap answers")))
    drawn = []
    for _ in range(100):
        chosen = generator.integers(0, 20, 20)
        drawn.append(sacrebleu.corpus_bleu([said[n] for n in chosen], [[right[n] for n in chosen]]).score)
    found = score_intervals(said, [[one] for one in right], resamples=100)
    assert found["bleu_95"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-3)


def test_one_answer_alone_has_no_interval_but_that_of_its_share():
    figures = score([answered("returns", REFERENCES["returns"])], REFERENCES)
    assert figures["exact_95"] == [0.2065, 1.0]
    assert "bleu_95" not in figures


def test_without_labels_nothing_is_called_right():
    item = Answered(Conversation(messages=(Message("user", "?"), Message("assistant", "Yes.")), source="x:1"), "Yes.")
    assert "right" not in score([item], REFERENCES)
    assert score([], REFERENCES) == {"questions": 0}


def test_each_question_gets_the_answer_it_would_get_alone(tiny_network, tiny_tokenizer):
    model = ChatModel(LoadedModel(tiny_network, tiny_tokenizer, {}, "digest"), name="tiny")
    asked = [conversation("the ferry? " * repeats, "returns") for repeats in (4, 1, 3, 2)]
    together = ask(model, asked, max_tokens=6, rows=3)
    assert [item.conversation for item in together] == asked
    alone = [ask(model, [item], max_tokens=6)[0].answer for item in asked]
    assert [item.answer for item in together] == alone


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_says_whether_it_was_cut_at_its_most_tokens(tiny_network, tiny_tokenizer, monkeypatch, beams):
    model = ChatModel(LoadedModel(tiny_network, tiny_tokenizer, {}, "digest"), name="tiny")
    asked = [conversation(question, "returns") for question in ("Why?", "The ferry?")]
    for stops, finish in ((frozenset(), "length"), (frozenset(range(tiny_tokenizer.size)), "stop")):
        monkeypatch.setattr(model.encoder, "stop_ids", lambda stops=stops: stops)  # no token ends an answer, or any
        found = ask(model, asked, max_tokens=3, beams=beams)
        assert [_shown(item, {})["finish"] for item in found] == [finish, finish]
