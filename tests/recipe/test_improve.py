"""Rounds of the loop in their parts: what is in service, what a round learns from, and the test of promotion."""

import contextlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from sample_run import HOSTILE, write_run

from chatwright.feedback.conversations import Conversation, Message
from chatwright.feedback.store import Answer, Choice, FeedbackStore, Rating
from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, ExitCode, RefusedError, UsageError
from chatwright.model.chat import ChatModel
from chatwright.model.directory import LoadedModel, digest_of, save_model
from chatwright.recipe.improve import judging, rounds, service
from chatwright.recipe.improve.gather import Gathered, gather, read_frozen, write
from chatwright.recipe.improve.judging import Figures, Measured, Share, bootstrap, judge
from chatwright.recipe.improve.settings import ImproveConfig, LearningConfig, PromotionConfig
from chatwright.recipe.report.facts import read_run
from chatwright.recipe.report.page import _digest as page_digest
from chatwright.recipe.report.page import render
from chatwright.tune.preferences.material import is_held_out
from chatwright.tune.preferences.pairs import Pair, Preferences, Verdict

NOTHING = frozenset()
CONFIG = ImproveConfig()


@pytest.fixture
def run_dir(tmp_path, make_network, tiny_tokenizer):
    """A run of a base model alone, and two rounds that passed."""
    place = tmp_path / "run"
    save_model(tmp_path / "base", make_network(), tiny_tokenizer, lineage={"stage": "finetune"})
    place.mkdir()
    (place / "recipe.toml").write_text(f'name = "run"\n[base]\nmodel = "{tmp_path / "base"}"\n')
    for number in (1, 2):
        write_round(place, number, make_network(seed=number), tiny_tokenizer)
    return place


@pytest.fixture
def call_improve():
    """`chatwright improve` as a process of its own."""

    def call(*arguments):
        command = [sys.executable, "-m", "chatwright", "improve", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)

    return call


def write_round(run_dir, number, network, tokenizer, *, verdict="promoted", opinions=()):
    with storage.publish(run_dir / f"round-{number:04}") as scratch:
        if verdict == "promoted":
            save_model(scratch / "model", network, tokenizer, lineage={"stage": f"round-{number:04}", "run": "run"})
        storage.write_json(scratch / "report.json", report_of(number, verdict))
        storage.write_json(scratch / "learned.json", {"opinions": list(opinions), "answers": [f"answer-{number}"]})


def report_of(number, verdict):
    """What a round leaves, with figures that are known."""
    sides = {"bits": {"all": 2.0}, "right": 0.5, "questions": 10}
    return {
        "round": number,
        "verdict": verdict,
        "heldout_share": 0.2,
        "feedback": {
            "train": {"pairs": 31, "thumbs": 7, "edits": 2},
            "weak_topics": [{"thumbs": 9, "down": 8}],
        },
        "learning": {"objective": "dpo", "divergence_nats": 1.25},
        "measured": {
            "new": sides,
            "old": sides,
            "first": sides,
            "heldout": share(0.61, 0.83)._asdict(),
            "earlier": None,
        },
        "checks": [{"name": "tasks", "passed": verdict == "promoted", "told": HOSTILE}],
        "seconds": 12.0,
    }


def test_the_report_shows_every_round_and_what_is_in_service(run_dir, tmp_path):
    service.promote(run_dir, 1)
    service.promote(run_dir, 2)
    service.roll_back(run_dir)
    write_run(run_dir)
    page = render(read_run(run_dir))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    text = re.sub(r"<[^>]*>", " ", page[page.index('id="rounds"') :])
    for told in (
        "round-0001/model",
        "promoted, then rolled back",
        "31 pairs, 7 thumbs by dpo",
        "72.0 % (61.0 % to 83.0 %)",
    ):
        assert told.replace(" %", "%") in text.replace(" %", "%"), told
    assert HOSTILE not in page
    before = page_digest(run_dir)
    service.promote(run_dir, 2)  # was promoted before: nothing changes
    assert page_digest(run_dir) == before
    service.roll_back(run_dir)
    assert page_digest(run_dir) != before


def test_before_the_first_round_the_recipes_model_is_in_service(run_dir, tmp_path):
    found = service.read_service(run_dir)
    assert found.path(run_dir) == tmp_path / "base"
    assert (found.now.digest, found.now.round) == (digest_of(tmp_path / "base"), 0)


def test_a_promotion_can_be_taken_back_and_is_not_made_twice(run_dir):
    service.promote(run_dir, 1)
    service.promote(run_dir, 2)
    assert service.read_service(run_dir).rounds == {1, 2}
    assert service.roll_back(run_dir).now.model == "round-0001/model"
    assert service.promote(run_dir, 2).now.model == "round-0001/model"  # a round that was rolled back stays so
    found = service.roll_back(run_dir)
    assert found.now.round == 0
    assert [entry["what"] for entry in found.log] == ["promoted", "promoted", "rolled back", "rolled back"]
    with pytest.raises(UsageError, match="none to go back to"):
        service.roll_back(run_dir)


def test_a_kill_between_publishing_and_promoting_is_made_up_for(run_dir):
    service.promote(run_dir, 1)
    outcome = rounds._settle(run_dir)
    assert (outcome.state, outcome.service.now.round) == ("promoted", 2)
    assert rounds._settle(run_dir) is None


def test_a_model_that_was_made_again_since_is_not_taken_for_the_one_in_service(run_dir, make_network, tiny_tokenizer):
    service.promote(run_dir, 1)
    save_model(run_dir / "round-0001" / "model", make_network(seed=9), tiny_tokenizer, lineage={})
    with pytest.raises(RefusedError, match="another model than the one"):
        service.read_service(run_dir)


@pytest.mark.parametrize("damage", ["digest", "format", "json", "model"])
def test_a_damaged_note_of_what_is_in_service_is_refused(run_dir, damage):
    service.promote(run_dir, 1)
    path = run_dir / service.SERVICE
    value = storage.read_json(path)
    if damage == "digest":
        value["now"]["model"] = "round-0002/model"
    elif damage == "format":
        value["format"] = "other"
    elif damage == "model":
        (run_dir / "round-0001" / "model" / "config.json").unlink()
    path.write_text("{" if damage == "json" else json.dumps(value))
    with pytest.raises(RefusedError):
        service.read_service(run_dir)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a run"):
        service.read_service(tmp_path)
    with pytest.raises(UsageError, match="not a run"):
        rounds.improve(tmp_path, store="sqlite:///nothing.db")


def test_a_store_that_is_not_there_is_told_and_not_made(run_dir, tmp_path):
    with pytest.raises(UsageError, match="no feedback store"):
        rounds.improve(run_dir, store=str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()


def entries_of(tmp_path, *, questions=60, owner="", consent=True, turned=False):
    """A store's export: two answers to each question, of which one was chosen."""
    with contextlib.closing(FeedbackStore(tmp_path / "feedback.db")) as store:
        if owner:
            store.people.set_consent(owner, agrees=consent)
        for number in range(questions):
            asked = (Message("user", f"Question {number}?"),)
            for side in "ab":
                name, text = f"{owner}{number}{side}", f"Answer {side} to {number}."
                store.add_answer(
                    Answer(
                        id=name, model="m", model_digest="d", messages=asked, answer=text, finish="stop", owner=owner
                    )
                )
            choice = "second" if turned else "first"
            store.add_rating(Choice(first=f"{owner}{number}a", second=f"{owner}{number}b", choice=choice, rater=owner))
        return list(store.export(rated_only=True))


def gathered_of(entries, *, config=CONFIG, learned=NOTHING, set_aside=NOTHING, tests=NOTHING):
    return gather(entries, config, learned=learned, set_aside=set_aside, test_prompts=tests)[0]


def test_questions_are_held_out_by_themselves_alone(tmp_path):
    found = gathered_of(entries_of(tmp_path))
    assert len(found.train.pairs) + len(found.heldout.pairs) == 60
    assert 4 <= len(found.heldout.pairs) <= 22
    assert all(is_held_out(pair.messages, CONFIG.heldout_share) for pair in found.heldout.pairs)
    assert not any(is_held_out(pair.messages, CONFIG.heldout_share) for pair in found.train.pairs)


def test_a_round_learns_only_what_is_new_and_is_tested_on_what_was_held_out_before(tmp_path):
    entries = entries_of(tmp_path)
    first = gathered_of(entries)
    learned = frozenset(first.facts["opinions"])
    again = gathered_of(entries, learned=learned)
    assert (again.size, again.facts["opinions"]) == (0, [])
    assert again.earlier.pairs == first.heldout.pairs
    later = gathered_of(entries_of(tmp_path, questions=70, owner="ann"), learned=learned)
    assert later.size == 70
    assert later.earlier.pairs == first.heldout.pairs


def test_feedback_of_a_refused_round_is_set_aside(tmp_path):
    entries = entries_of(tmp_path)
    refused = frozenset(gathered_of(entries).facts["opinions"])
    assert gathered_of(entries, set_aside=refused).size == 0
    assert gathered_of(entries, set_aside=refused).facts["set_aside"] == 60


def test_without_consent_nothing_is_learned_and_nothing_is_used_up(tmp_path):
    refused = gathered_of(entries_of(tmp_path, owner="ann", consent=False))
    assert (refused.size, refused.facts["opinions"]) == (0, [])
    assert refused.facts["dropped"] == {"who asked does not agree to being learned from": 120}
    with contextlib.closing(FeedbackStore(tmp_path / "feedback.db")) as store:
        store.people.set_consent("ann", agrees=True)
        assert gathered_of(list(store.export(rated_only=True))).size == 60


def test_test_questions_are_never_learned(tmp_path):
    found = gathered_of(entries_of(tmp_path), tests=frozenset({"question 1", "question 2"}))
    assert found.size == 58
    assert found.facts["dropped"] == {"a test prompt": 4}


def test_votes_against_what_was_learned_before_are_weighed_with_it(tmp_path):
    entries = entries_of(tmp_path, questions=4)
    learned = frozenset(gathered_of(entries).facts["opinions"])
    with contextlib.closing(FeedbackStore(tmp_path / "feedback.db")) as store:
        store.add_rating(Choice(first="0a", second="0b", choice="second", rater="ben"))
        store.people.set_consent("ben", agrees=True)
        found = gathered_of(list(store.export(rated_only=True)), learned=learned)
    assert found.size == 0  # one against one: people disagree on the pair
    assert found.facts["dropped"] == {"people disagree on the pair": 1}


def test_topics_that_people_reject_more_are_named_and_can_weigh_more(tmp_path):
    with contextlib.closing(FeedbackStore(tmp_path / "feedback.db")) as store:
        for number in range(24):
            subject = "kettle descaling" if number % 2 else "parcel delivery"
            asked = (Message("user", f"{subject} please {number}"),)
            store.add_answer(
                Answer(id=f"{number}", model="m", model_digest="d", messages=asked, answer="No.", finish="stop")
            )
            store.add_rating(Rating(answer_id=f"{number}", thumb=-1 if number % 2 else 1))
        entries = list(store.export())
    found = gathered_of(entries, config=ImproveConfig(topics=2, weak_weight=3.0))
    (weak,) = found.facts["weak_topics"]
    assert weak["like"].startswith("kettle")
    assert weak["down"] == weak["thumbs"] == 12
    weights = {("kettle" in row.messages[0].content, row.weight) for row in found.train.verdicts}
    assert weights == {(True, 3.0), (False, 1.0)}


def test_what_was_gathered_is_frozen_whole(tmp_path):
    found, harvested = gather(entries_of(tmp_path), CONFIG, learned=NOTHING, set_aside=NOTHING, test_prompts=NOTHING)
    (tmp_path / "frozen").mkdir()
    write(found, harvested, CONFIG, tmp_path / "frozen")
    again = read_frozen(tmp_path / "frozen")
    assert again.facts == found.facts
    texts = [[(pair.messages, pair.chosen, pair.rejected) for pair in part.train.pairs] for part in (found, again)]
    assert texts[0] == texts[1]


def test_what_a_round_keeps_has_no_words_of_people(tmp_path):
    topics = [{"like": "My secret", "thumbs": 4, "down": 4}]
    found, harvested = gather(entries_of(tmp_path), CONFIG, learned=NOTHING, set_aside=NOTHING, test_prompts=NOTHING)
    (tmp_path / "frozen").mkdir()
    write(found._replace(facts={**found.facts, "weak_topics": topics}), harvested, CONFIG, tmp_path / "frozen")
    for name in ("learned.json", "data_card.md"):
        text = (tmp_path / "frozen" / name).read_text()
        assert not any(words in text for words in ("secret", "Question 1", "Answer a"))


def outcomes(won, lost, *, questions=None):
    results = [1.0] * won + [0.0] * lost
    return [judging._Outcome(n if questions is None else n % questions, n if questions is None else n % questions, 1.0, r) for n, r in enumerate(results)]  # fmt: skip


def test_the_interval_is_that_of_a_share_where_questions_are_independent():
    found = bootstrap(outcomes(70, 30), 100, confidence=0.95, draws=10_000)
    wide = 1.96 * np.sqrt(0.7 * 0.3 / 100)
    assert found.share == 0.7
    assert (found.low, found.high) == (pytest.approx(0.7 - wide, abs=0.015), pytest.approx(0.7 + wide, abs=0.015))


def test_many_answers_to_few_questions_do_not_narrow_the_interval():
    results = [judging._Outcome(n % 5, n % 5, 1.0, float(n % 5 < 4)) for n in range(500)]
    found = bootstrap(results, 5, confidence=0.95, draws=4000)
    assert found.share == 0.8
    assert found.low <= 0.4
    assert bootstrap(results[:5], 5, confidence=0.95, draws=4000).low == found.low


def few_questions(kind, questions, answers):
    """Held-out feedback: `answers` pairs, or as many good and bad thumbs, on each of some questions."""
    rows = [((Message("user", f"Question {n}?"),), f"It is the {m}. of them.", f"No, {m}.") for n in range(questions) for m in range(answers)]  # fmt: skip
    if kind == "pairs":
        return Preferences([Pair(messages=asked, chosen=one, rejected=other) for asked, one, other in rows], [])
    told = [(asked, text, is_good) for asked, *both in rows for text, is_good in zip(both, (True, False), strict=True)]
    return Preferences([], [Verdict(messages=asked, answer=text, is_good=good) for asked, text, good in told])


@pytest.mark.parametrize("kind", ["pairs", "thumbs"])
def test_much_feedback_on_too_few_questions_tells_nothing(make_network, tiny_tokenizer, kind):
    new, old = (ChatModel(LoadedModel(make_network(seed=seed), tiny_tokenizer, {}, ""), name="tiny") for seed in (1, 2))
    config = PromotionConfig(draws=200)
    assert judging.won(new, old, few_questions(kind, 5, 6), config=config) is None
    assert judging.won(new, old, few_questions(kind, 6, 6), config=config).questions == 6
    gathered = Gathered(Preferences([], []), few_questions(kind, 5, 6), Preferences([], []), {})
    (check, *_) = judge(Measured(*[figures(2.0, None)] * 3, None, None, None), gathered, config)
    assert not check.passed
    assert "on 5 questions are held out" in check.told
    assert "20 comparisons on 6 questions are needed" in check.told


@pytest.mark.parametrize(("confidence", "questions"), [(0.6, 3), (0.95, 6), (0.99, 8)])
def test_so_many_questions_are_needed_that_all_of_them_alike_are_no_chance(confidence, questions):
    assert judging.least_questions(PromotionConfig(confidence=confidence)) == questions
    assert 2 / 2**questions <= 1 - confidence < 2 / 2 ** (questions - 1)


def test_weights_count_in_the_share():
    results = [judging._Outcome(0, 0, 3.0, 1.0), judging._Outcome(1, 1, 1.0, 0.0)]
    assert bootstrap(results, 2, confidence=0.95, draws=200).share == 0.75


def share(low, high):
    return Share((low + high) / 2, low, high, 100, 50)


def figures(bits, right):
    return Figures({"all": bits}, right, 200)


@pytest.mark.parametrize(
    ("failed", "change"),
    [
        (None, {}),
        ("wins on held-out feedback", {"heldout": share(0.49, 0.7)}),
        ("wins on held-out feedback", {"heldout": None}),
        ("keeps what earlier feedback taught", {"earlier": share(0.2, 0.48)}),
        ("keeps what earlier feedback taught", {"earlier": share(0.1, 0.6)}),
        ("still gives the answers that earlier feedback taught", {"taught": share(0.1, 0.4)}),
        ("tasks", {"new": figures(2.0, 0.46)}),
        ("tasks since the first model", {"first": figures(2.0, 0.56)}),
        ("forgetting", {"new": figures(2.06, 0.5)}),
        ("forgetting since the first model", {"first": figures(1.8, None)}),
    ],
)
def test_each_condition_alone_keeps_a_model_out_of_service(failed, change):
    sound = {
        "new": figures(2.0, 0.5),
        "old": figures(2.0, 0.5),
        "first": figures(2.0, None),
        "heldout": share(0.6, 0.9),
        "earlier": share(0.4, 0.6),
        "taught": share(0.1, 0.6),
    }
    checks = judge(Measured(**{**sound, **change}), Gathered(*[Preferences([], [])] * 3, {}), PromotionConfig())
    assert [check.name for check in checks if not check.passed] == ([failed] if failed else [])


def test_a_new_model_with_contradicting_feedback_is_told_why():
    found = Measured(*[figures(2.0, None)] * 3, share(0.7, 0.9), share(0.1, 0.3), None)
    gathered = Gathered(*[Preferences([], [])] * 3, {})
    (failed,) = [check for check in judge(found, gathered, PromotionConfig()) if not check.passed]
    assert "contradicts what people said before" in failed.told
    assert all(check.passed for check in judge(found, gathered, PromotionConfig(keeps_earlier=False)))


def test_what_earlier_rounds_made_likelier_is_followed_in_the_new_model(make_network, tiny_tokenizer):
    def moved(times):
        network = make_network(seed=1)
        with torch.no_grad():
            for weight, other in zip(network.parameters(), make_network(seed=2).parameters(), strict=True):
                weight.add_(other, alpha=times * 0.001)
        return ChatModel(LoadedModel(network, tiny_tokenizer, {}, f"{times}"), name="tiny")

    texts = [(f"Question {number}?", f"It is the {number}. of them, at {number + 7}.") for number in range(24)]
    part = Preferences(
        [Pair(messages=(Message("user", asked),), chosen=told, rejected="No.") for asked, told in texts[:12]],
        [Verdict(messages=(Message("user", asked),), answer=told, is_good=True) for asked, told in texts[12:]],
    )
    config = PromotionConfig(least_heldout=2, draws=200, confidence=0.6)
    first, old = moved(0), moved(1)
    found = {times: judging.taught(moved(times), old, first, part, config=config) for times in (-1, 0, 1)}
    assert 2 <= found[1].comparisons < 24
    assert {times: one.share for times, one in found.items()} == {-1: 0.0, 0: 0.5, 1: 1.0}
    assert judging.taught(old, first, first, part, config=config) is None


def test_an_answer_that_equals_a_further_right_one_counts_as_right(tiny_network, tiny_tokenizer):
    model = ChatModel(LoadedModel(tiny_network, tiny_tokenizer, {}, ""), name="tiny")
    asked = Message("user", "When?")
    (said,) = model.answers([(asked,)], max_tokens=4)
    told = {"messages": (asked, Message("assistant", "At nine.")), "source": "here"}
    questions = [Conversation(**told), Conversation(**told, more_references=("Nine.", said))]
    assert said.strip()
    assert judging.Tasks(questions, {}, 4).share_right(model) == 0.5


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"objective": "kto", "anchor": 0.2}, "`anchor` has no effect"),
        ({"objective": "dpo", "good_weight": 2.0}, "`good_weight` has no effect"),
        ({"method": "all", "lora": {"rank": 4}}, "`lora` has no effect"),
    ],
)
def test_a_setting_without_effect_is_refused(fields, problem):
    with pytest.raises(ConfigError, match=problem):
        validate(LearningConfig, fields, where="recipe")


def test_thumbs_alone_are_learned_with_what_fits_them():
    config = validate(LearningConfig, {"anchor": 0.2, "label_smoothing": 0.1, "bad_weight": 1.5}, where="recipe")
    assert config.as_align("kto", data="d", test=None).bad_weight == 1.5
    assert config.as_align("dpo", data="d", test=None).anchor == 0.2


def test_a_larger_heldout_share_than_before_is_refused(run_dir):
    with pytest.raises(UsageError, match="was 0.2 in an earlier round"):
        rounds._require_no_larger_share(run_dir, ImproveConfig(heldout_share=0.3))
    rounds._require_no_larger_share(run_dir, ImproveConfig(heldout_share=0.1))


def test_opinions_of_a_round_that_was_rolled_back_are_set_aside(run_dir, make_network, tiny_tokenizer):
    for number in (3, 4):
        verdict = "promoted" if number == 3 else "refused"
        write_round(run_dir, number, make_network(), tiny_tokenizer, verdict=verdict, opinions=[f"o{number}"])
    service.promote(run_dir, 3)
    assert rounds._used(run_dir, service.read_service(run_dir)) == ({"o3"}, {"o4"})
    service.roll_back(run_dir)
    assert rounds._used(run_dir, service.read_service(run_dir)) == (set(), {"o3", "o4"})


def test_the_rounds_that_learned_from_somebody_are_found(run_dir):
    assert rounds.learned_from(run_dir, {"answer-2", "other"}) == [2]


@pytest.mark.slow
def test_the_command_tells_of_rounds_waits_for_feedback_and_goes_back(run_dir, tmp_path, call_improve):
    entries_of(tmp_path, questions=3)
    service.promote(run_dir, 1)
    service.promote(run_dir, 2)
    waiting = call_improve(run_dir, "--store", tmp_path / "feedback.db")
    assert waiting.returncode == ExitCode.DONE, waiting.stderr
    assert "3 new pairs and thumbs, a round needs 40" in waiting.stdout
    planned = call_improve(run_dir, "--store", tmp_path / "feedback.db", "--dry-run", "--set", "improve.least_new=2")
    assert "round 3 would begin with round-0002/model and learn by kto" in planned.stdout
    back = call_improve(run_dir, "--rollback", "--json")
    assert json.loads(back.stdout)["in_service"]["model"] == "round-0001/model"
    assert call_improve(run_dir, "--rollback", "--status").returncode == ExitCode.USAGE
