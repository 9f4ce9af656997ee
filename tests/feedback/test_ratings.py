"""A study keeps every judgement once, gives raters their own order, and never changes its items."""

import multiprocessing
import os
import signal
import sqlite3
from collections import Counter

import pytest

from chatwright.feedback.conversations import Message
from chatwright.feedback.ratings import Study, make_study
from chatwright.feedback.study import Judgement, JudgementError, StudyItem, StudyPlan, UnknownRaterError
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.foundation.storage import digest_json

GOOD = {"fluency": 4, "coherence": 3, "relevance": 5}


def scale(number, **fields):
    return StudyItem(
        id=f"s{number}", asked=f"Question {number}?", answers=(f"Answer {number}",), models=("m",), **fields
    )


def pair(number, **fields):
    return StudyItem(id=f"p{number}", asked="Which?", answers=("one", "two"), models=("a", "b"), **fields)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "study.sqlite"


def opened(place, items, **plan):
    make_study(place, items, StudyPlan(**plan))
    return Study(place, clock=lambda: 5.0)


def judge_next(study, rater, **fields):
    shown = study.next(rater)
    content = {"scores": GOOD} if shown.item.kind == "scale" else {"choice": "first"}
    key = f"key-{shown.place.item}-{shown.place.occasion}"
    judgement = Judgement(item=shown.place.item, occasion=shown.place.occasion, key=key, **{**content, **fields})
    return judgement, study.judge(rater, judgement)


def test_a_rater_works_through_all_items_and_some_of_them_twice(place):
    study = opened(place, [scale(number) for number in range(10)], repeat_share=0.2)
    rater = study.join("Ada", "user")
    seen = []
    while (shown := study.next(rater)).place is not None:
        seen.append(shown.place)
        assert (shown.done, shown.total) == (len(seen) - 1, 12)
        judge_next(study, rater)
    assert Counter(item for item, _ in seen).most_common(2)[1][1] == 2
    assert [occasion for _, occasion in seen] == [0] * 10 + [1] * 2
    assert len(list(study.export())) == 12


def test_raters_have_their_own_order_and_a_repeat_changes_sides(place):
    study = opened(place, [pair(number) for number in range(40)], repeat_share=0.5)
    ada, ben = study.join("Ada", "user"), study.join("Ben", "expert")
    assert study.course(ada) != study.course(ben)
    assert {p.item for p in study.course(ada)} == {p.item for p in study.course(ben)}
    sides = [study.is_swapped(ada, p) for p in study.course(ada) if p.occasion == 0]
    assert 8 < sum(sides) < 32
    for again in (p for p in study.course(ada) if p.occasion == 1):
        assert study.is_swapped(ada, again) != study.is_swapped(ada, again._replace(occasion=0))


def test_items_that_are_not_shared_go_to_one_rater_each(place):
    study = opened(place, [scale(number) for number in range(30)], shared_share=0.5, raters=3, repeat_share=0.0)
    courses = [{p.item for p in study.course(study.join(name, "user"))} for name in ("Ada", "Ben", "Cem")]
    assert len(set.intersection(*courses)) == 15
    assert len(set.union(*courses)) == 30
    assert sum(len(course) for course in courses) == 3 * 15 + 15


def test_a_judgement_sent_again_is_stored_once_and_another_under_its_key_is_refused(place):
    study = opened(place, [scale(1), scale(2)])
    rater = study.join("Ada", "user")
    judgement, stored = judge_next(study, rater)
    again = study.judge(rater, judgement)
    assert (again.id, again.is_new) == (stored.id, False)
    with pytest.raises(JudgementError, match="stands for another judgement"):
        study.judge(rater, Judgement(**{**vars(judgement), "scores": {**GOOD, "fluency": 1}}))
    with pytest.raises(JudgementError, match="judged already"):
        study.judge(rater, Judgement(**{**vars(judgement), "key": "another-key"}))
    assert len(list(study.export())) == 1


def test_undo_brings_the_item_back_and_keeps_what_was_said(place):
    study = opened(place, [scale(1), scale(2)], repeat_share=0.0)
    rater, other = study.join("Ada", "user"), study.join("Ben", "user")
    judgement, stored = judge_next(study, rater)
    assert not study.undo(other, judgement_id=stored.id)
    assert study.undo(rater, judgement_id=stored.id)
    assert study.undo(rater, judgement_id=stored.id)
    assert study.next(rater).place.item == judgement.item
    assert list(study.export()) == []
    study.judge(rater, Judgement(**{**vars(judgement), "key": "second-try", "note": "better read"}))
    assert [entry["note"] for entry in study.export()] == ["better read"]
    with sqlite3.connect(place) as connection:
        assert connection.execute("SELECT count(*) FROM judgements").fetchone() == (2,)


@pytest.mark.parametrize(
    "fields",
    [
        {"scores": {}},
        {"scores": {**GOOD, "fluency": 6}},
        {"scores": {**GOOD, "fluency": True}},
        {"scores": {**GOOD, "style": 3}},
        {"scores": GOOD, "choice": "first"},
        {"item": "nowhere"},
        {"occasion": 1},
    ],
)
def test_a_judgement_that_does_not_fit_is_refused(place, fields):
    study = opened(place, [scale(1)])
    rater = study.join("Ada", "user")
    with pytest.raises(JudgementError):
        study.judge(rater, Judgement(**{"item": "s1", "occasion": 0, "key": "some-key", "scores": GOOD, **fields}))
    assert list(study.export()) == []


def test_attention_checks_are_told_apart_and_passed_or_not(place):
    check = StudyItem(id="c", asked="?", answers=("a b",), models=("(check)",), check={"at_most": {"coherence": 2}})
    study = opened(place, [check], repeat_share=1.0)
    ada, ben = study.join("Ada", "user"), study.join("Ben", "user")
    assert len(study.course(ada)) == 1  # a check does not come twice
    judge_next(study, ada, scores={**GOOD, "coherence": 1})
    judge_next(study, ben)
    assert {entry["rater"]: entry["passed"] for entry in study.export()} == {"Ada": True, "Ben": False}


def test_names_and_invitations_lead_to_one_rater_of_one_kind(place):
    study = opened(place, [scale(1)])
    ada = study.join("  Ada   Lovelace ", "expert")
    assert ada.name == "Ada Lovelace"
    assert study.join("Ada Lovelace", "expert") == ada == study.rater(ada.token)
    with pytest.raises(UsageError, match="kept apart"):
        study.join("Ada Lovelace", "user")
    with pytest.raises(UnknownRaterError):
        study.rater("guessed")


def test_the_items_are_frozen(place):
    opened(place, [scale(1)]).close()
    with pytest.raises(UsageError, match="there is a study"):
        make_study(place, [scale(2)], StudyPlan())
    with sqlite3.connect(place) as connection:
        connection.execute("UPDATE study_items SET content = replace(content, 'Answer 1', 'Answer 2')")
    with pytest.raises(RefusedError, match="changed after it was made"):
        Study(place)


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([], "between 1 and"),
        ([scale(1), scale(1)], "the same id"),
        ([StudyItem(id="x", asked="?", answers=(), models=())], "has 0 answers"),
        ([StudyItem(id="x", asked="?", answers=("a",), models=())], "names 0 models"),
        ([scale(1, finishes=("stop", "length"))], "does not say of each answer how it ended"),
        ([scale(1, finishes=("cut",))], "does not say of each answer how it ended"),
    ],
)
def test_a_study_that_cannot_be_is_refused(place, items, told):
    with pytest.raises(UsageError, match=told):
        make_study(place, items, StudyPlan())


def _judge_until_killed(place, acknowledged):
    study = Study(place)
    rater = study.join("Ada", "user")
    while study.next(rater).place is not None:
        judgement, _ = judge_next(study, rater)
        os.write(acknowledged, f"{judgement.item}/{judgement.occasion}\n".encode())


@pytest.mark.slow
def test_what_was_acknowledged_before_a_kill_is_there_once(place):
    make_study(place, [scale(number) for number in range(200)], StudyPlan(repeat_share=0.0))
    told = []
    for kill_after in (1, 7, 30):
        reading, writing = os.pipe()
        worker = multiprocessing.get_context("fork").Process(target=_judge_until_killed, args=(place, writing))
        worker.start()
        os.close(writing)
        with os.fdopen(reading) as lines:
            for _ in range(kill_after):
                told.append(lines.readline().strip())
            os.kill(worker.pid, signal.SIGKILL)
            told += [line.strip() for line in lines]
        worker.join()
    kept = Counter(f"{entry['item']}/{entry['occasion']}" for entry in Study(place).export())
    assert set(told) <= set(kept)
    assert set(kept.values()) == {1}
    assert len(told) >= 38


def test_a_study_keeps_turns_and_one_without_them_has_the_digest_that_it_had_before_there_were_any(place, tmp_path):
    before = {"id": "s1", "asked": "Question 1?", "answers": ["Answer 1"], "models": ["m"], "check": None, "topic": "", "reference": ""}  # fmt: skip
    plain = opened(place, [scale(1)])
    assert plain.digest == digest_json([before])
    assert plain.items["s1"].messages == ()
    plain.close()
    turns = (Message("user", "Question"), Message("assistant", "Yes?"), Message("user", "1?"))
    study = opened(tmp_path / "turns.sqlite", [scale(1, messages=turns)])
    assert study.items["s1"].messages == turns
    judge_next(study, study.join("Ada", "user"))
    (told,) = study.export()
    assert told["messages"] == [turn._asdict() for turn in turns]
    study.close()
