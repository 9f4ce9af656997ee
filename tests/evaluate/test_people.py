"""What ratings say: users and experts apart, checks never counted for models, odd raters named."""

import json

import numpy as np
import pytest

from chatwright.evaluate.people import as_text, drift_of, summarise
from chatwright.evaluate.study import items_of_file, items_of_run, with_checks
from chatwright.foundation.errors import DataError, UsageError
from chatwright.foundation.storage import write_json


def scale_entry(rater, item, scores, *, model="good", kind="user", **fields):
    values = dict(zip(("fluency", "coherence", "relevance"), scores, strict=True))
    base = {"rater": rater, "rater_kind": kind, "item": item, "occasion": 0, "item_kind": "scale", "models": [model]}
    base |= {
        "asked": item,
        "answers": ["a b c"],
        "reference": "a b c d",
        "is_check": False,
        "passed": None,
        "scores": values,
    }
    return {**base, **fields}


def pair_entry(rater, item, models, choice):
    return {**scale_entry(rater, item, (1, 1, 1)), "item_kind": "pair", "models": list(models), "choice": choice}


def entries_of(raters, *, items=30, seed=0):
    generator = np.random.Generator(np.random.PCG64(seed))
    found = []
    for number in range(items):
        for model, level in (("good", 4), ("bad", 2)):
            truth = level + generator.normal(0, 0.5)
            for rater, bias in raters.items():
                scores = [int(np.clip(round(truth + bias + generator.normal(0, 0.4)), 1, 5)) for _ in range(3)]
                found.append(scale_entry(rater, f"{number}-{model}", scores, model=model, asked=str(number)))
    return found


def test_means_agreement_and_need_are_told_and_a_rater_far_off_is_named():
    summary = summarise(entries_of({"Ada": 0, "Ben": 0, "Cem": -2.0}))["user"]
    good, bad = summary["models"]["good"]["fluency"], summary["models"]["bad"]["fluency"]
    assert good["low"] > bad["high"]
    assert good["items"] == 30
    assert good["ratings"] == 90
    assert summary["raters"]["Cem"]["flags"] == ["far from the others on average"]
    assert summary["raters"]["Ada"]["flags"] == []
    assert 0 < summary["agreement"]["fluency"]["alpha_ordinal"] < 1
    assert summary["needed"]["bad - good: fluency"]["questions"] == 30
    assert "strength" not in as_text({"user": summary})


def test_the_text_tells_agreement_raters_what_is_missing_and_which_scores_to_believe():
    entries = entries_of({"Ada": 0, "Ben": 0, "Cem": -2.0}, items=12)
    for number, entry in enumerate(entries):  # answers of the better model share more words with their reference
        entry["answers"] = ["a b c d" if entry["models"] == ["good"] else f"x{number} y"]
    told = as_text(summarise(entries))
    for part in ("users: 72 ratings by 3 raters", "agreement on fluency: alpha", "far from the others on average",
                 "points between bad - good: fluency", "token_f1 goes with people's fluency +", "offset"):  # fmt: skip
        assert part in told


def test_the_text_tells_how_often_one_of_two_models_is_preferred_and_whether_that_is_settled():
    clear = [pair_entry("Ada", f"{n}", ("a", "b"), "first" if n % 6 else "both_bad") for n in range(30)]
    told = as_text(summarise([*clear, pair_entry("Ada", "last", ("a", "b"), "second")]))
    assert "a is preferred in 9" in told
    assert "not settled" not in told
    assert "ties: 5 of 31, of them both bad: 5" in told
    assert "choices needed" in told
    even = [pair_entry("Ada", f"{n}", ("a", "b"), "first" if n % 2 else "second") for n in range(10)]
    assert "not settled" in as_text(summarise(even))


def test_users_and_experts_are_apart_and_checks_and_repeats_count_for_raters_only():
    entries = [scale_entry("Ada", "1", (5, 5, 5)), scale_entry("Eve", "1", (1, 1, 1), kind="expert")]
    entries.append(scale_entry("Ada", "1", (4, 1, 5), occasion=1))
    entries.append(scale_entry("Ada", "c", (5, 5, 5), model="(check)", is_check=True, passed=False))
    summary = summarise(entries)
    assert summary["user"]["models"] == {
        "good": {
            name: {"mean": 5.0, "low": None, "high": None, "items": 1, "ratings": 1}
            for name in ("fluency", "coherence", "relevance")
        }
    }
    assert summary["expert"]["models"]["good"]["fluency"]["mean"] == 1.0
    assert summary["user"]["raters"]["Ada"]["self_agreement"] == pytest.approx(2 / 3, abs=1e-4)
    assert summary["user"]["raters"]["Ada"]["checks_passed"] == "0/1"
    assert "fails attention checks" in summary["user"]["raters"]["Ada"]["flags"]


def test_drift_is_found_and_noise_is_not():
    generator = np.random.Generator(np.random.PCG64(1))
    noise = generator.normal(0, 0.5, 60)
    assert drift_of(noise + np.linspace(-0.8, 0.8, 60)).p_value < 0.01
    assert drift_of(noise + np.linspace(-0.8, 0.8, 60)).slope == pytest.approx(1.6, abs=0.5)
    assert drift_of(noise).p_value > 0.05


def test_choices_become_strengths_with_ties_and_a_whitewash_gets_a_prior():
    outcomes = ["first"] * 12 + ["second"] * 5 + ["tie"] * 2 + ["both_bad"]
    told = summarise([pair_entry("Ada", str(n), ("a", "b"), outcome) for n, outcome in enumerate(outcomes)])["user"][
        "strengths"
    ]
    assert (told["choices"], told["ties"], told["both_bad"], told["prior"]) == (20, 3, 1, 0.0)
    assert told["differences"]["a - b"]["difference"] == pytest.approx(np.log(12 / 5), abs=1e-3)
    whitewash = summarise([pair_entry("Ada", str(n), ("a", "b"), "first") for n in range(5)])["user"]["strengths"]
    assert whitewash["prior"] > 0
    assert whitewash["models"]["a"]["strength"] > 0


def test_a_win_and_a_tie_lean_on_the_prior_and_settle_nothing():
    entries = [pair_entry("Ada", f"{number}", ("a", "b"), choice) for number, choice in enumerate(("first", "tie"))]
    summary = summarise(entries)
    assert summary["user"]["strengths"]["prior"] > 0
    told = as_text(summary)
    assert "not settled" in told
    assert "leans on a weak prior" in told


def test_automatic_scores_are_set_beside_people_s():
    entries = []
    for number in range(12):
        answer = " ".join("abcdefghijkl"[: number + 1])
        level = 1 + number // 3
        entries.append(
            scale_entry("Ada", str(number), (3, 3, level), answers=[answer], reference=" ".join("abcdefghijkl"))
        )
    told = summarise(entries)["user"]["correlations"]
    assert told["token_f1"]["relevance"]["spearman"] > 0.9
    assert "fluency" not in told["token_f1"]  # all alike: nothing to rank


def test_items_come_from_a_run_or_a_file_and_checks_are_shuffled_answers(tmp_path):
    def given(text):
        return {
            "messages": [{"role": "user", "content": "Why?"}],
            "answer": text,
            "reference": "r",
            "expected": "returns",
            "said": None,
        }

    write_json(tmp_path / "x.json", {})
    (tmp_path / "evaluate").mkdir()
    told = {
        "pretrain": {"answers": [given(f"base says number {n} of all things") for n in range(5)]},
        "finetune": {"answers": [given(f"tuned says number {n} of all things") for n in range(5)]},
    }
    write_json(tmp_path / "evaluate" / "samples.json", told)
    both = items_of_run(tmp_path, count=4, as_pairs=True)
    assert [item.models for item in both] == [("pretrain", "finetune")] * 4
    single = items_of_run(tmp_path, count=4, as_pairs=False)
    assert len(single) == 4
    assert single[0].reference == "r"
    checked = with_checks(both, count=2)
    assert len(checked) == 6
    assert sorted(checked[-1].answers[0].split()) == sorted(checked[-1].answers[1].split())
    assert checked[-1].check == {"choice": "second"}
    with pytest.raises(UsageError, match="no answers"):
        items_of_run(tmp_path / "evaluate", count=1, as_pairs=False)
    (tmp_path / "items.jsonl").write_text('{"asked": "a", "answers": ["b"], "models": ["m"]}\n{"asked": 1}\n')
    with pytest.raises(DataError, match="items.jsonl:2"):
        items_of_file(tmp_path / "items.jsonl")


def test_a_file_of_items_may_say_how_answers_ended(tmp_path):
    path = tmp_path / "items.jsonl"
    pair = {"asked": "a", "answers": ["b", "c"], "models": ["m", "n"]}
    for finishes in ({}, {"finishes": ["length", "stop"]}, {"finishes": ["cut", "stop"]}):
        with path.open("a") as file:
            file.write(json.dumps({**pair, **finishes}) + "\n")
    with pytest.raises(DataError, match="items.jsonl:3.*`finishes` must be of stop, length"):
        items_of_file(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert [item.finishes for item in items_of_file(path)] == [(), ("length", "stop")]
