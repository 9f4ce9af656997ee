"""Feedback from elsewhere: an export comes back whole, twice is once, and what people rated becomes feedback."""

import json

import pytest
from test_store import answer

from chatwright.evaluate.study import items_of_run
from chatwright.feedback.conversations import Message
from chatwright.feedback.importing import import_entries, import_study, read_export
from chatwright.feedback.ratings import Study, make_study
from chatwright.feedback.store import Choice, FeedbackStore, Rating, Score
from chatwright.feedback.study import DIMENSIONS, Judgement, StudyItem, StudyPlan
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError
from chatwright.tune.preferences.harvest import HarvestConfig, harvest, questions_of


@pytest.fixture
def stores(tmp_path):
    opened = [FeedbackStore(tmp_path / f"{name}.sqlite") for name in ("from", "to")]
    yield opened
    for store in opened:
        store.close()


def full(store):
    for name in "ab":
        store.add_answer(answer(name), created=5.0)
    store.add_rating(
        Rating(answer_id="a", thumb=-1, reason="r", better_answer="B.", rater="ann", role="expert"), created=6.0
    )
    store.add_rating(Choice(first="b", second="a", choice="second", rater="ben"), created=7.0)
    store.add_rating(Choice(first="a", second="b", choice="tie"), created=8.0)
    store.people.set_consent("ben", agrees=True)
    store.add_rating(Score(answer_id="b", score=4.0, aspects={"fluency": 4}, rater="cem"), created=9.0)


def plain(store):
    """An export without what each database counts for itself."""
    text = json.dumps(list(store.export()))
    return json.loads(text, object_hook=lambda value: {k: v for k, v in value.items() if not (k == "id" and "created" in value and "messages" not in value)})  # fmt: skip


def test_an_export_comes_back_whole_and_importing_it_again_adds_nothing(stores, tmp_path):
    source, target = stores
    full(source)
    path = tmp_path / "export.jsonl"
    path.write_text("".join(source.export_lines()))
    assert import_entries(target, read_export(path))[:2] == (2, 4)
    assert plain(target) == plain(source)
    target.people.set_consent("ben", agrees=False)
    assert import_entries(target, read_export(path))[:2] == (0, 0)
    assert target.people.consent("ben") is False


def test_a_choice_whose_other_answer_is_missing_is_told(stores):
    source, target = stores
    full(source)
    entries = [entry for entry in source.export() if entry["id"] == "b"]
    found = import_entries(target, entries)
    assert found.passed_over == {"the other answer of a choice is not in the file": 1}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"id": 1}',
        '{"id": "a", "model": "m", "answer": "x", "messages": [{}], "finish": "stop", "created": 1}',
    ],
)
def test_a_line_that_is_no_entry_is_named(tmp_path, line):
    path = tmp_path / "export.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=r"export\.jsonl:1"):
        list(read_export(path))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_export(tmp_path / "none.jsonl"))


def test_what_people_said_on_the_page_for_raters_becomes_feedback_once(stores, tmp_path):
    items = [
        StudyItem(id="one", asked="When?", answers=("At nine.",), models=("m1",)),
        StudyItem(id="two", asked="Where?", answers=("Here.", "There."), models=("m1", "m2")),
        StudyItem(id="check", asked="Say bad.", answers=("x",), models=("m1",), check={"at_most": {"fluency": 2}}),
    ]
    make_study(tmp_path / "study.sqlite", items, StudyPlan(repeat_share=0.0))
    study, target = Study(tmp_path / "study.sqlite"), stores[1]
    ann = study.join("Ann", "expert")
    scores = {"fluency": 5, "coherence": 4, "relevance": 3}
    study.judge(ann, Judgement(item="one", occasion=0, key="k" * 8, scores=scores, better="At ten."))
    study.judge(ann, Judgement(item="two", occasion=0, key="l" * 8, choice="second"))
    study.judge(ann, Judgement(item="check", occasion=0, key="m" * 8, scores=dict.fromkeys(scores, 1)))
    found = import_study(target, study.export())
    assert (found.answers, found.opinions, found.passed_over) == (3, 2, {"an attention check": 1})
    assert import_study(target, study.export())[:2] == (0, 0)
    one, *pair = target.export()
    (score,) = one["scores"]
    assert (score["score"], score["better_answer"], score["rater"], score["role"]) == (
        4.0,
        "At ten.",
        "study:Ann",
        "expert",
    )
    assert score["consent"]
    assert [entry["choices"][0]["choice"] for entry in pair] == ["lost", "won"]
    study.close()


def test_a_better_answer_written_for_a_pair_on_the_page_for_raters_is_learned_as_an_edit(stores, tmp_path):
    choices = {"second": ["One."], "tie": ["One.", "Two."]}
    items = [
        StudyItem(id=choice, asked=f"Which {choice}?", answers=("One.", "Two."), models=("m1", "m2"))
        for choice in choices
    ]
    make_study(tmp_path / "study.sqlite", items, StudyPlan(repeat_share=0.0))
    study, (other, target) = Study(tmp_path / "study.sqlite"), stores
    ann = study.join("Ann", "expert")
    for choice in choices:
        study.judge(ann, Judgement(item=choice, occasion=0, key=choice * 8, choice=choice, better="Three."))
    import_study(target, study.export())
    told = [(entry["messages"][0]["content"], entry["choices"][0]["better_answer"]) for entry in target.export()]
    assert told == [(f"Which {choice}?", "Three.") for choice in choices for _ in "ab"]
    found = harvest(target.export(), HarvestConfig(), test_prompts=frozenset()).preferences.pairs
    edits = [(pair.messages[0].content, pair.chosen, pair.rejected) for pair in found if pair.origin == "edit"]
    assert edits == [(f"Which {choice}?", "Three.", text) for choice, texts in choices.items() for text in texts]
    assert import_entries(other, target.export())[:2] == (4, 2)
    assert plain(other) == plain(target)
    study.close()


def test_a_study_imported_before_choices_had_better_answers_brings_them_when_it_is_imported_again(stores, tmp_path):
    item = StudyItem(id="one", asked="Which?", answers=("One.", "Two."), models=("m1", "m2"))
    make_study(tmp_path / "study.sqlite", [item], StudyPlan(repeat_share=0.0))
    study, target = Study(tmp_path / "study.sqlite"), stores[1]
    ann = study.join("Ann", "expert")
    study.judge(ann, Judgement(item="one", occasion=0, key="k" * 8, choice="second", better="Three."))
    import_study(target, [{**told, "better": None} for told in study.export()])  # as it was kept then
    for _ in range(2):
        assert import_study(target, study.export())[:2] == (0, 0)
    assert [[choice["better_answer"] for choice in entry["choices"]] for entry in target.export()] == [["Three."]] * 2
    study.close()


def test_choices_of_an_export_that_knew_of_no_better_answers_are_not_doubled_by_a_newer_one(stores):
    source, target = stores
    full(source)
    older = list(source.export())
    for entry in older:
        entry["choices"] = [{k: v for k, v in given.items() if k != "better_answer"} for given in entry["choices"]]
    import_entries(target, older)
    assert import_entries(target, source.export())[:2] == (0, 0)


@pytest.fixture
def judged_run(tmp_path):
    """What a rater said of a run's answer to a test question with a history, and that test conversation."""
    turns = (Message("system", "Be kind."), Message("user", "Do you ship?"), Message("assistant", "Yes."))
    turns = (*turns, Message("user", "Abroad, too?"))
    samples = [{"messages": [turn._asdict() for turn in turns], "answer": f"To {place}.", "expected": None} for place in "ab"]  # fmt: skip
    storage.write_json(tmp_path / "samples.json", {"finetune": {"answers": samples}})
    (tmp_path / "run" / "evaluate").mkdir(parents=True)
    (tmp_path / "samples.json").rename(tmp_path / "run" / "evaluate" / "samples.json")
    items = items_of_run(tmp_path / "run", count=2, as_pairs=False)
    make_study(tmp_path / "study.sqlite", items, StudyPlan(repeat_share=0.0))
    study = Study(tmp_path / "study.sqlite")
    ann = study.join("Ann", "user")
    for item, score in zip(items, (1, 5), strict=True):
        scores = dict.fromkeys(("fluency", "coherence", "relevance"), score)
        study.judge(ann, Judgement(item=item.id, occasion=0, key=f"key-{item.id}", scores=scores, better="To you."))
    told = list(study.export())
    study.close()
    return told, [*turns, Message("assistant", "To all the world.")]


def test_a_test_question_with_a_history_comes_from_the_page_for_raters_in_its_turns_and_is_not_learned(
    stores, judged_run
):
    told, test = judged_run
    import_study(stores[1], told)
    entries = list(stores[1].export())
    assert [[Message(**turn) for turn in entry["messages"]] for entry in entries] == [test[:-1]] * 2
    assert harvest(entries, HarvestConfig(), test_prompts=frozenset()).preferences.pairs
    found = harvest(entries, HarvestConfig(), test_prompts=questions_of([test]))
    assert (found.preferences.pairs, found.dropped) == ([], {"a test prompt": 2})


def test_of_a_study_that_joined_the_turns_to_one_text_no_test_question_is_learned_either(stores, judged_run):
    told, test = judged_run
    joined = "Be kind.\n\nDo you ship?\n\nYes.\n\nAbroad, too?"
    import_study(stores[1], [{name: value for name, value in one.items() if name != "messages"} for one in told])
    entries = list(stores[1].export())
    assert [entry["messages"] for entry in entries] == [[{"role": "user", "content": joined}]] * 2
    found = harvest(entries, HarvestConfig(), test_prompts=questions_of([test]))
    assert (found.preferences.pairs, found.dropped) == ([], {"a test prompt": 2})


def rated(run_dir, *, as_pairs):
    """What a rater said of two answers of a run, of which the better one was cut at its most tokens."""
    question = [{"role": "user", "content": "When?"}]
    given = {"base": ("At ni", "length"), "tuned": ("No.", "stop")}
    samples = {
        name: {"answers": [{"messages": question, "answer": text, "finish": finish, "expected": None}]}
        for name, (text, finish) in given.items()
    }
    (run_dir / "evaluate").mkdir(parents=True)
    storage.write_json(run_dir / "evaluate" / "samples.json", samples)
    items = items_of_run(run_dir, count=2, as_pairs=as_pairs)
    make_study(run_dir / "study.sqlite", items, StudyPlan(repeat_share=0.0))
    study = Study(run_dir / "study.sqlite")
    ann = study.join("Ann", "user")
    for item, score in zip(items, (5, 1), strict=False):
        said = {"choice": "first"} if as_pairs else {"scores": dict.fromkeys(DIMENSIONS, score)}
        better = None if as_pairs or score == 1 else "At nine."
        study.judge(ann, Judgement(item=item.id, occasion=0, key=f"key-{item.id}", better=better, **said))
    told = list(study.export())
    study.close()
    return told


@pytest.mark.parametrize(("as_pairs", "learned"), [(True, []), (False, [("edit", "At nine.", "At ni")])])
def test_an_answer_that_was_cut_comes_from_the_page_for_raters_as_one_and_is_not_learned_as_a_whole_one(
    stores, tmp_path, as_pairs, learned
):
    told = rated(tmp_path / "run", as_pairs=as_pairs)
    import_study(stores[1], told)
    entries = list(stores[1].export())
    assert {entry["answer"]: entry["finish"] for entry in entries} == {"At ni": "length", "No.": "stop"}
    found = harvest(entries, HarvestConfig(), test_prompts=frozenset())
    assert [(pair.origin, pair.chosen, pair.rejected) for pair in found.preferences.pairs] == learned
    assert found.dropped == {"the answer was cut off": 1}


def test_answers_of_a_study_that_does_not_know_how_they_ended_count_as_whole(stores, tmp_path):
    told = rated(tmp_path / "run", as_pairs=True)
    import_study(stores[1], [{name: value for name, value in one.items() if name != "finishes"} for one in told])
    assert [entry["finish"] for entry in stores[1].export()] == ["stop", "stop"]
