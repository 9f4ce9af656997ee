"""A round that was begun and is not over: when it is gone on with, when it begins anew, and that it keeps no one's words."""

import contextlib

import pytest

from chatwright.cli.improve import _lines
from chatwright.feedback.conversations import Message
from chatwright.feedback.store import Answer, Choice, FeedbackStore, Rating
from chatwright.foundation import storage
from chatwright.foundation.errors import BusyError, DataError
from chatwright.foundation.stopping import StopFlag
from chatwright.model.directory import save_model
from chatwright.recipe.improve import rounds, service, unfinished
from chatwright.recipe.improve.gather import read_frozen
from chatwright.recipe.recipe import load_recipe
from chatwright.tune.preferences.material import is_held_out


@pytest.fixture
def run_dir(tmp_path, make_network, tiny_tokenizer):
    """A run whose second model is in service."""
    place = tmp_path / "run"
    save_model(tmp_path / "base", make_network(), tiny_tokenizer, lineage={"stage": "finetune"})
    place.mkdir()
    (place / "recipe.toml").write_text(f'name = "run"\n[base]\nmodel = "{tmp_path / "base"}"\n')
    with storage.publish(place / "round-0001") as scratch:
        save_model(scratch / "model", make_network(seed=1), tiny_tokenizer, lineage={"stage": "round-0001"})
        storage.write_json(scratch / "report.json", {"verdict": "promoted", "heldout_share": 0.2})
        storage.write_json(scratch / "learned.json", {"opinions": [], "answers": []})
    service.promote(place, 1)
    return place


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(FeedbackStore(tmp_path / "feedback.db")) as opened:
        yield opened


def speak(store, *, choices=0, thumbs=0, owner="ann", asked="Question {} of {}?", text="Answer {}."):
    """Ann and others choose between two answers to each of some questions, and give thumbs to others."""
    store.people.set_consent(owner, agrees=True)
    for number in range(choices + thumbs):
        names = [f"{owner}-{number}-{side}" for side in ("ab" if number < choices else "c")]
        for name in names:
            messages = (Message("user", asked.format(number, owner)),)
            store.add_answer(Answer(id=name, model="m", model_digest="d", messages=messages, answer=text.format(name), finish="stop", owner=owner))  # fmt: skip
        if number < choices:
            store.add_rating(Choice(first=names[0], second=names[1], choice="first", rater=owner))
        else:
            store.add_rating(Rating(answer_id=names[0], thumb=1 - 2 * (number % 2), rater=owner))


def begun(run_dir, tmp_path, *settings):
    """A round with frozen feedback and a mark where its training would stand; whether it had to begin anew."""
    recipe = load_recipe(run_dir / "recipe.toml", settings)
    at = rounds._Place(run_dir, recipe, 2, unfinished.work_of(run_dir, 2), service.read_service(run_dir), StopFlag())
    assert rounds._freeze(at, str(tmp_path / "feedback.db")) is None
    is_new = not (at.work / "mark").exists()
    (at.work / "mark").touch()
    return is_new


def held(run_dir):
    return sorted(path.name for path in (run_dir / ".work").glob("improve-*"))


def frozen_text(run_dir):
    return "".join(path.read_text() for path in unfinished.work_of(run_dir, 2).rglob("*.jsonl"))


def test_a_round_goes_on_with_what_it_froze_whatever_is_said_or_set_for_the_test_meanwhile(run_dir, tmp_path, store):
    speak(store, choices=45)
    assert begun(run_dir, tmp_path)
    speak(store, choices=5, owner="ben")
    assert not begun(run_dir, tmp_path, "improve.promote.confidence=0.8", "improve.learn.log_every=3")
    assert "of ben?" not in frozen_text(run_dir)


def test_a_round_begun_before_a_rollback_is_not_gone_on_with(run_dir, tmp_path, store):
    speak(store, choices=45)
    begun(run_dir, tmp_path)
    rounds.back(run_dir)
    assert held(run_dir) == []


@pytest.mark.parametrize("change", ["model", "settings", "tests"])
def test_a_round_begins_anew_where_what_it_stands_on_has_changed(run_dir, tmp_path, store, capsys, change):
    speak(store, choices=45)
    begun(run_dir, tmp_path)
    settings = []
    if change == "model":
        service.roll_back(run_dir)
    elif change == "settings":
        settings = ["improve.learn.epochs=1.0"]
    else:
        (tmp_path / "test.jsonl").write_text('{"question": "Question 1 of ann?", "answer": "Yes."}\n')
        settings = [f"finetune.{name}={tmp_path / 'test.jsonl'}" for name in ("data", "test")]
    assert begun(run_dir, tmp_path, *settings)
    assert "begins anew" in capsys.readouterr().err
    assert not begun(run_dir, tmp_path, *settings)


def test_what_a_finished_round_could_not_tidy_up_is_removed(run_dir, tmp_path, store):
    (run_dir / ".work" / "improve-0001" / "feedback").mkdir(parents=True)
    speak(store, choices=45)
    begun(run_dir, tmp_path)
    assert held(run_dir) == ["improve-0002"]


def test_a_round_that_was_published_before_a_kill_leaves_no_work_when_it_is_promoted(run_dir, make_network, tiny_tokenizer):  # fmt: skip
    (run_dir / ".work" / "improve-0002" / "feedback").mkdir(parents=True)
    with storage.publish(run_dir / "round-0002") as scratch:
        save_model(scratch / "model", make_network(seed=2), tiny_tokenizer, lineage={"stage": "round-0002"})
        storage.write_json(scratch / "report.json", {"verdict": "promoted", "heldout_share": 0.2})
    assert rounds._settle(run_dir).state == "promoted"
    assert held(run_dir) == []


def test_somebody_who_was_forgotten_or_takes_back_their_consent_is_not_learned_from_after_a_kill(
    run_dir, tmp_path, store
):
    for name in ("ann", "ben", "cem"):
        speak(store, choices=45, owner=name)
    begun(run_dir, tmp_path)
    assert all(f"of {name}?" in frozen_text(run_dir) for name in ("ann", "ben", "cem"))
    store.people.forget("ann")
    assert begun(run_dir, tmp_path)
    store.people.set_consent("ben", agrees=False)
    assert begun(run_dir, tmp_path)
    text = frozen_text(run_dir)
    assert [name for name in ("ann", "ben", "cem") if f"of {name}?" in text] == ["cem"]


def test_the_words_of_somebody_forgotten_leave_a_round_that_is_not_over_at_once(run_dir, tmp_path, store):
    speak(store, choices=45)
    begun(run_dir, tmp_path)
    gone = set(store.people.forget("ann").answer_ids)
    assert not unfinished.discard_with(run_dir, {"another"})
    with storage.exclusive(run_dir), pytest.raises(BusyError):
        unfinished.discard_with(run_dir, gone)
    assert held(run_dir) == ["improve-0002"]
    assert unfinished.discard_with(run_dir, gone)
    assert held(run_dir) == []


def test_thumbs_alone_wait_where_pairs_are_to_be_learned_and_pairs_that_come_later_are_gathered(
    run_dir, tmp_path, store
):
    speak(store, thumbs=45)
    call = {"store": str(tmp_path / "feedback.db"), "overrides": ("improve.learn.objective=dpo",)}
    waiting = rounds.improve(run_dir, **call)
    assert (waiting.state, waiting.told["has"], waiting.told["lacks"]) == ("waiting", 45, "dpo")
    assert "none of it is for `dpo` to learn from: 0 pairs and " in "".join(_lines(waiting))
    assert rounds.improve(run_dir, **call, only_plan=True).state == "waiting"
    assert rounds.improve(run_dir, store=call["store"], only_plan=True).told["objective"] == "kto"
    speak(store, choices=10, owner="ben")
    assert rounds.improve(run_dir, **call, only_plan=True).state == "planned"
    begun(run_dir, tmp_path, *call["overrides"])
    frozen = read_frozen(unfinished.feedback_of(unfinished.work_of(run_dir, 2)))
    assert len(frozen.train.pairs) > 0


def test_feedback_on_held_out_questions_alone_waits(run_dir, tmp_path, store):
    asked = next(text for text in map("Question {}?".format, range(99)) if is_held_out((Message("user", text),), 0.2))
    speak(store, thumbs=45, asked=asked)
    waiting = rounds.improve(run_dir, store=str(tmp_path / "feedback.db"))
    assert (waiting.state, waiting.told["lacks"]) == ("waiting", "kto")
    assert held(run_dir) == []


def test_a_round_whose_feedback_turns_out_unusable_does_not_keep_it(run_dir, tmp_path, store):
    speak(store, choices=45, text="{}" + " and so on" * 40)
    for _ in range(2):
        with pytest.raises(DataError, match="no preference is left"):
            rounds.improve(run_dir, store=str(tmp_path / "feedback.db"), overrides=("improve.learn.threads=1",))
        assert held(run_dir) == []
