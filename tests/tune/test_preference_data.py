"""Preferences from files and from people's feedback: shapes, rules, conflicts, and the card that tells of them."""

import contextlib
import json

import pytest

from chatwright.feedback.conversations import Message
from chatwright.feedback.store import Answer, FeedbackStore, Rating
from chatwright.foundation.errors import DataError
from chatwright.tune.preferences.card import data_card
from chatwright.tune.preferences.harvest import HarvestConfig, harvest, normalised, questions_of
from chatwright.tune.preferences.pairs import Pair, Preferences, Verdict, read_preferences, write_preferences

ASKED = (Message("user", "When does the ferry leave?"),)
SYSTEM = Message("system", "Be brief.")


def write(tmp_path, *records):
    path = tmp_path / "preferences.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def said(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "When does the ferry leave?", "chosen": "At nine.", "rejected": "No."},
        {"question": "When does the ferry leave?", "chosen": "At nine.", "rejected": "No."},
        {"prompt": [said("user", ASKED[0].content)], "chosen": [said("assistant", "At nine.")], "rejected": [said("assistant", "No.")]},
        {"prompt": [said("user", ASKED[0].content)], "chosen": said("assistant", "At nine."), "rejected": said("assistant", "No.")},
        {"chosen": [said("user", ASKED[0].content), said("assistant", "At nine.")], "rejected": [said("user", ASKED[0].content), said("assistant", "No.")]},
        {"prompt": ASKED[0].content, "chosen": [said("user", ASKED[0].content), said("assistant", "At nine.")], "rejected": [said("user", ASKED[0].content), said("assistant", "No.")]},
        {"chosen": [{"from": "human", "value": ASKED[0].content}, {"from": "gpt", "value": "At nine."}], "rejected": [{"from": "human", "value": ASKED[0].content}, {"from": "gpt", "value": "No."}]},
    ],
    ids=["texts", "question", "lists", "messages", "implicit prompt", "prompt twice", "sharegpt"],
)  # fmt: skip
def test_the_usual_shapes_of_pairs_are_read_as_the_same_pair(tmp_path, record):
    path = write(tmp_path, record)
    (pair,) = read_preferences(path).pairs
    assert pair == Pair(messages=ASKED, chosen="At nine.", rejected="No.", source=f"{path}:1")


def test_a_system_turn_an_input_and_a_weight_are_kept(tmp_path):
    record = {
        "system": "Be brief.",
        "instruction": "Translate.",
        "input": "Hafen",
        "chosen": "harbour",
        "rejected": "haven",
        "weight": 2,
    }
    (pair,) = read_preferences(write(tmp_path, record)).pairs
    assert pair.messages == (SYSTEM, Message("user", "Translate.\n\nHafen"))
    assert pair.weight == 2.0


def test_a_completion_with_a_label_is_a_verdict(tmp_path):
    record = {"prompt": "When does the ferry leave?", "completion": "No.", "label": False}
    (verdict,) = read_preferences(write(tmp_path, record)).verdicts
    assert (verdict.messages, verdict.answer, verdict.is_good) == (ASKED, "No.", False)


def test_all_problems_of_a_file_are_named_with_their_lines(tmp_path):
    path = write(
        tmp_path,
        {"prompt": "When?", "chosen": "At nine.", "rejected": "No."},
        {"prompt": "When?", "chosen": "No.", "rejected": "No. "},
        {"prompt": "When?", "chosen": "No."},
        {"prompt": "When?", "completion": "No.", "label": 1},
        {"chosen": [said("user", "A?"), said("assistant", "B")], "rejected": [said("user", "C?"), said("assistant", "D")]},
        {"prompt": "When?", "chosen": "At nine.", "rejected": "No.", "weight": -1},
        {"prompt": [said("assistant", "Hello")], "chosen": "At nine.", "rejected": "No."},
        {"chosen": "At nine.", "rejected": "No."},
    )  # fmt: skip
    with path.open("a") as file:
        file.write("not JSON\n")
    with pytest.raises(DataError) as caught:
        read_preferences(path)
    told = str(caught.value)
    assert "8 problems" in told
    assert all(f"{path}:{line}: expected" in told for line in range(2, 10))


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="empty"):
        read_preferences(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_preferences(tmp_path / "none.jsonl")


def test_what_is_written_is_read_back(tmp_path):
    wanted = Preferences(
        [Pair(messages=(SYSTEM, *ASKED), chosen="At nine.", rejected="No.", weight=1.5, origin="edit", source="a")],
        [Verdict(messages=ASKED, answer="No.", is_good=False, origin="thumb", source="b")],
    )
    write_preferences(tmp_path / "out.jsonl", wanted)
    found = read_preferences(tmp_path / "out.jsonl")
    assert [(p.messages, p.chosen, p.rejected, p.weight, p.origin) for p in found.pairs] == [
        ((SYSTEM, *ASKED), "At nine.", "No.", 1.5, "edit")
    ]
    assert [(v.messages, v.answer, v.is_good, v.origin) for v in found.verdicts] == [(ASKED, "No.", False, "thumb")]
    assert len(wanted.as_verdicts()) == 3


def entry(name, answer, *, ratings=(), choices=(), asked="When does the ferry leave?", **fields):
    """An answer as the store exports it."""
    ratings = [
        {"created": number, "thumb": None, "better_answer": None} | rating for number, rating in enumerate(ratings)
    ]
    choices = [{"created": number} | choice for number, choice in enumerate(choices)]
    return {"id": name, "messages": [said("user", asked)], "answer": answer, "model": "m", "finish": "stop", "ratings": ratings, "choices": choices} | fields  # fmt: skip


def harvested(*entries, tests=frozenset(), **config):
    return harvest(entries, HarvestConfig(**config), test_prompts=tests)


def sides(found):
    return [(pair.chosen, pair.rejected, pair.weight, pair.origin) for pair in found.preferences.pairs]


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ([said("user", "And?"), said("assistant", "")], "an empty turn before the answer"),
        ([said("user", "And?")], "turns that do not alternate"),
        ([said("assistant", "Hello.")], "turns that do not alternate"),
    ],
)
def test_turns_that_the_reader_of_preferences_refuses_are_left_out(before, reason):
    found = harvested(entry("a", "No.", ratings=[{"thumb": 1}], messages=[*before, said("user", "When?")]))
    assert (found.preferences.verdicts, found.dropped) == ([], {reason: 1})


def test_a_choice_is_a_pair():
    found = harvested(
        entry("a", "At nine.", choices=[{"against": "b", "choice": "won"}]),
        entry("b", "No.", choices=[{"against": "a", "choice": "lost"}]),
    )
    assert sides(found) == [("At nine.", "No.", 1.0, "choice")]


def test_a_tie_teaches_nothing_and_is_counted_once():
    found = harvested(
        entry("a", "At nine.", choices=[{"against": "b", "choice": "tie"}]),
        entry("b", "No.", choices=[{"against": "a", "choice": "tie"}]),
    )
    assert found.preferences == Preferences([], [])
    assert found.dropped == {"a tie": 1}


def test_both_bad_is_a_verdict_on_each():
    found = harvested(
        entry("a", "Perhaps.", choices=[{"against": "b", "choice": "both_bad"}]),
        entry("b", "No.", choices=[{"against": "a", "choice": "both_bad"}]),
    )
    assert [(verdict.answer, verdict.is_good) for verdict in found.preferences.verdicts] == [
        ("Perhaps.", False),
        ("No.", False),
    ]


def test_an_edit_beats_the_answer_and_the_thumb_stands_beside_it():
    found = harvested(entry("a", "No.", ratings=[{"thumb": -1, "better_answer": "At nine."}]))
    assert sides(found) == [("At nine.", "No.", 1.0, "edit")]
    assert [(verdict.answer, verdict.is_good) for verdict in found.preferences.verdicts] == [("No.", False)]


def test_ratings_of_answers_to_the_same_question_make_a_pair_for_each_person_who_gave_both():
    found = harvested(
        entry("a", "At nine.", ratings=[{"score": 5, "rater": "x"}, {"score": 4, "rater": "y"}]),
        entry("b", "No.", ratings=[{"score": 2, "rater": "x"}, {"score": 3, "rater": "y"}]),
        entry("c", "No idea.", asked="Where?", ratings=[{"score": 1, "rater": "x"}]),
    )
    assert sides(found) == [("At nine.", "No.", 2.0, "ratings")]


@pytest.mark.parametrize(("other", "count"), [(4, 0), (3, 1)])
def test_ratings_of_different_people_must_differ_by_the_margin(other, count):
    found = harvested(
        entry("a", "At nine.", ratings=[{"score": 4.5, "rater": "x"}]),
        entry("b", "No.", ratings=[{"score": other, "rater": "y"}]),
    )
    assert len(found.preferences.pairs) == count


def test_a_thumb_up_beats_a_thumb_down_on_the_same_question():
    found = harvested(entry("a", "At nine.", ratings=[{"thumb": 1}]), entry("b", "No.", ratings=[{"thumb": -1}]))
    assert sides(found) == [("At nine.", "No.", 1.0, "thumbs")]
    assert len(found.preferences.verdicts) == 2


def test_of_a_persons_opinions_the_newest_counts():
    found = harvested(
        entry(
            "a",
            "At nine.",
            ratings=[{"thumb": -1, "rater": "x"}, {"thumb": 1, "rater": "x"}, {"thumb": 1, "rater": "y"}],
        )
    )
    assert [(verdict.is_good, verdict.weight) for verdict in found.preferences.verdicts] == [(True, 2.0)]


def test_an_opinion_that_was_taken_back_votes_no_more():
    def choices(other, *said):
        return [{"against": other, "rater": "x", **one} for one in said]

    bad = {"choice": "both_bad", "better_answer": "At ten."}
    found = harvested(
        entry("a", "At nine.", choices=choices("b", bad, {"choice": "won"})),
        entry("b", "No.", choices=choices("a", bad, {"choice": "lost"})),
    )
    assert sides(found) == [("At nine.", "No.", 1.0, "choice")]
    assert found.preferences.verdicts == []
    edited = {"thumb": -1, "better_answer": "At ten.", "rater": "x"}
    up, down = ({"thumb": thumb, "rater": "x"} for thumb in (1, -1))
    assert sides(harvested(entry("a", "At nine.", ratings=[edited, up]))) == []
    assert sides(harvested(entry("a", "At nine.", ratings=[edited, up, down]))) == [("At ten.", "At nine.", 1.0, "edit")]  # fmt: skip


def test_both_bad_of_two_pairs_is_one_vote_against_an_answer_and_stands_beside_a_later_choice_of_a_third():
    said = [{"against": other, "choice": "both_bad", "rater": "x"} for other in "bc"]
    found = harvested(entry("a", "No.", choices=[*said, {"against": "d", "choice": "won", "rater": "x"}]))
    assert [(verdict.is_good, verdict.weight) for verdict in found.preferences.verdicts] == [(False, 1.0)]


def test_people_who_disagree_cancel_out_and_an_expert_weighs_more():
    one, other = {"thumb": 1, "rater": "x"}, {"thumb": -1, "rater": "y"}
    found = harvested(entry("a", "At nine.", ratings=[one, other]))
    assert found.preferences.verdicts == []
    assert found.dropped == {"people disagree on the answer": 1}
    found = harvested(entry("a", "At nine.", ratings=[one, other | {"role": "expert"}]), expert_weight=3.0)
    assert [(verdict.is_good, verdict.weight) for verdict in found.preferences.verdicts] == [(False, 2.0)]


def test_votes_for_the_same_texts_come_together_whichever_was_shown_first():
    found = harvested(
        entry("a", "At nine.", choices=[{"against": "b", "choice": "won", "rater": "x"}, {"against": "b", "choice": "lost", "rater": "y"}]),
        entry("b", "No.", choices=[{"against": "a", "choice": "lost", "rater": "x"}, {"against": "a", "choice": "won", "rater": "y"}]),
        entry("c", "No.", ratings=[{"better_answer": "At nine. ", "rater": "z"}]),
        agreement=0.6,
    )  # fmt: skip
    assert sides(found) == [("At nine.", "No.", 1.0, "choice")]  # two for, one against
    assert harvested(*[], agreement=0.6).preferences == Preferences([], [])


def test_test_prompts_cancelled_answers_and_equal_texts_are_dropped_with_their_reason():
    tests = questions_of([[Message("user", "  when does the FERRY leave"), Message("assistant", "At nine.")]])
    found = harvested(
        entry("a", "At nine.", ratings=[{"thumb": 1}]),
        entry("b", "At", asked="Where?", finish="cancelled", ratings=[{"thumb": -1}]),
        entry("c", "Here.", asked="Where?", ratings=[{"better_answer": "Here. "}]),
        entry("d", "Here.", asked="Where to?", finish="cancelled"),
        tests=tests,
    )
    assert found.preferences == Preferences([], [])
    assert found.dropped == {"a test prompt": 1, "both answers are the same text": 1, "the answer was cancelled": 1}
    assert normalised(" Where   to?! ") == "where to"


def test_of_an_answer_that_was_cut_off_only_edits_are_learned():
    edited = {"thumb": -1, "better_answer": "At nine.", "rater": "x"}
    found = harvested(
        entry("a", "The ferry leaves at", finish="length", ratings=[edited], choices=[{"against": "b", "choice": "won"}]),
        entry("b", "No.", choices=[{"against": "a", "choice": "lost"}]),
        entry("c", "Here, and", asked="Where?", finish="length", ratings=[{"thumb": 1}]),
    )  # fmt: skip
    assert sides(found) == [("At nine.", "The ferry leaves at", 1.0, "edit")]
    assert found.preferences.verdicts == []
    assert found.dropped == {"the answer was cut off": 2}


def test_the_store_itself_gives_what_the_rules_need(tmp_path):
    with contextlib.closing(FeedbackStore(tmp_path / "feedback.db")) as store:
        for name, text in (("a", "No."), ("b", "At nine.")):
            store.add_answer(Answer(id=name, model="m", model_digest="d", messages=ASKED, answer=text, finish="stop"))
        store.add_rating(Rating(answer_id="a", thumb=-1, better_answer="At nine, daily."))
        store.add_rating(Rating(answer_id="b", thumb=1))
        found = harvest(store.export(), HarvestConfig(), test_prompts=frozenset())
    assert sorted(sides(found)) == [("At nine, daily.", "No.", 1.0, "edit"), ("At nine.", "No.", 1.0, "thumbs")]


def test_the_card_tells_contents_drops_agreement_and_leanings_and_shows_no_text():
    found = harvested(
        entry("a", "At nine in the morning.", ratings=[{"thumb": 1, "created": 0.0}], choices=[{"against": "b", "choice": "won"}]),
        entry("b", "No.", ratings=[{"thumb": -1, "created": 86_400.0}], choices=[{"against": "a", "choice": "lost"}]),
        entry("c", "|", finish="cancelled", ratings=[{"thumb": 1}]),
    )  # fmt: skip
    card = data_card(found, HarvestConfig())
    assert "1 pairs and 2 single verdicts on 1 questions" in card
    assert "| pair | choice | 1 |" in card
    assert "| the answer was cancelled | 1 |" in card
    assert "1970-01-01 to 1970-01-02" in card
    assert "the longer one in 100% of pairs" in card
    assert "1 pairs had several votes; on average 100.0%" in card
    assert "ferry" not in card
    assert "morning" not in card
    assert "Nothing." in data_card(harvested(), HarvestConfig())
