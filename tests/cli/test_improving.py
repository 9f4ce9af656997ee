"""`align`, `distill` and `preferences` as a person calls them."""

import contextlib
import json

import pytest
from tiny_recipe import write_recipe

from chatwright.cli.improving import parse_count
from chatwright.feedback.conversations import Message
from chatwright.feedback.store import Answer, FeedbackStore, Rating
from chatwright.foundation.errors import ExitCode, UsageError
from chatwright.model.directory import load_model

QUICK = {"device": "cpu", "precision": "float32", "threads": 1}


@pytest.mark.parametrize(
    ("text", "count"), [("3M", 3_000_000), ("1.5m", 1_500_000), ("800k", 800_000), ("12000", 12_000)]
)
def test_sizes_are_read_as_people_write_them(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "-3M", "three", "nan", "1e99"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="such as 3M"):
        parse_count(text)


@pytest.mark.slow
def test_feedback_becomes_data_with_a_card(tmp_path, call):
    with contextlib.closing(FeedbackStore(tmp_path / "feedback.db")) as store:
        asked = (Message("user", "When?"),)
        store.add_answer(Answer(id="a", model="m", model_digest="d", messages=asked, answer="No.", finish="stop"))
        store.add_rating(Rating(answer_id="a", thumb=-1, better_answer="At nine."))
    done = call("preferences", tmp_path / "feedback.db", tmp_path / "out", "--json")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert (done.json()["pairs"], done.json()["verdicts"]) == (1, 1)
    rows = [json.loads(line) for line in (tmp_path / "out" / "preferences.jsonl").read_text().splitlines()]
    assert [row.get("origin") for row in rows] == ["edit", "thumb"]
    assert "# Data card" in (tmp_path / "out" / "data_card.md").read_text()
    missing = call("preferences", tmp_path / "none.db", tmp_path / "out")
    assert missing.returncode == ExitCode.USAGE
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
def test_a_recipe_is_aligned_and_distilled_and_done_once(tmp_path, call):
    path = write_recipe(tmp_path)
    rows = [{"prompt": f"Tell me {n}.", "chosen": "All about it.", "rejected": "No."} for n in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = "".join(f"{key} = {json.dumps(value)}\n" for key, value in QUICK.items())
    text = path.read_text().replace("[evaluate]", f'[align]\ndata = "pairs.jsonl"\nmethod = "all"\nmax_answer_tokens = 4\n{settings}\n[distill]\nparameters = 30000\nsteps = 3\nbatch_rows = 2\nmicro_rows = 2\n{settings}\n[evaluate]')  # fmt: skip
    path.write_text(text)
    runs = f"runs={tmp_path / 'runs'}"
    done = call("distill", path, "--set", runs, "--json")
    assert done.returncode == ExitCode.DONE, done.stderr
    run_dir = tmp_path / "runs" / "tiny"
    assert load_model(run_dir / "align" / "model").lineage["stage"] == "align"
    student, aligned = (load_model(run_dir / name / "model") for name in ("distill", "align"))
    assert student.lineage["teacher"] == aligned.digest
    again = call("distill", path, "--set", runs, "--json")
    assert {stage["state"] for stage in again.json()["stages"]} == {"unchanged"}
    (tmp_path / "pairs.jsonl").write_text((tmp_path / "pairs.jsonl").read_text().replace("All about it", "All of it"))
    changed = {
        stage["stage"]: stage["state"] for stage in call("align", path, "--set", runs, "--json").json()["stages"]
    }
    assert changed["align"] == "done"
    assert changed["finetune"] == "unchanged"
    told = call("lineage", run_dir / "distill" / "model")
    assert "align" in told.stdout


@pytest.mark.slow
def test_a_teacher_a_size_and_a_folder_make_a_student(finished, tmp_path, call):
    path, run_dir, _ = finished
    settings = [part for key, value in {**QUICK, "steps": 2, "batch_rows": 2, "micro_rows": 2}.items() for part in ("--set", f"distill.{key}={value}")]  # fmt: skip
    teacher = run_dir / "pretrain" / "model"
    done = call("distill", teacher, "--params", "30k", "--data", path.parent / "documents", "--set", f"runs={tmp_path}", "--set", "workers=1", *settings)  # fmt: skip
    assert done.returncode == ExitCode.DONE, done.stderr
    student = load_model(tmp_path / "student" / "distill" / "model")
    assert done.stdout.strip() == str(tmp_path / "student" / "distill" / "model")
    assert student.tokenizer.digest == load_model(teacher).tokenizer.digest
    refused = call("distill", teacher, "--params", "30k")
    assert refused.returncode == ExitCode.USAGE


@pytest.mark.slow
@pytest.mark.parametrize("command", [("stats",), ("export",), ("forget", "Ada")])
def test_feedback_that_is_not_there_is_told_and_no_empty_store_made(tmp_path, call, command):
    told = call("feedback", *command, cwd=tmp_path)
    assert told.returncode == ExitCode.USAGE
    assert "there is no feedback store `chatwright-feedback.db`" in told.stderr
    assert "`chatwright serve` makes one" in told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_store_without_answers_says_so(tmp_path, call):
    FeedbackStore(tmp_path / "chatwright-feedback.db").close()
    told = call("feedback", "stats", cwd=tmp_path)
    assert told.returncode == ExitCode.DONE
    assert "no answers yet" in told.stderr
