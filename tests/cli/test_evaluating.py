"""`evaluate`, `compare`, `rate --stats` and `weak` on a finished run: figures on stdout, records kept, mistakes named."""

import contextlib
import json

import pytest
from typer.testing import CliRunner

from chatwright.cli.main import app
from chatwright.evaluate.study import items_of_file, with_checks
from chatwright.feedback.ratings import Study, make_study
from chatwright.feedback.study import Judgement, StudyItem, StudyPlan
from chatwright.foundation.errors import ExitCode, UsageError

pytestmark = pytest.mark.slow

QUESTIONS = [
    {"question": "Please explain returns?", "answer": ["All about returns."], "topic": "returns"},
    {"question": "Please explain shipping?", "answer": ["All about shipping."], "topic": "shipping"},
]


@pytest.fixture(scope="module")
def run_dir(finished):
    return finished[1]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in QUESTIONS))
    return path


def test_answers_are_scored_with_signatures_and_generation_settings_and_kept(finished, run_dir, call, tmp_path):
    test = finished[0].parent / "chats" / "test.jsonl"
    model, kept = run_dir / "finetune" / "model", tmp_path / "records"
    options = ("--max-tokens", 4, "--records", kept, "--json")
    for beams in (1, 2):
        told = call("evaluate", model, "--answers", test, *options, "--beams", beams)
        assert told.returncode == ExitCode.DONE, told.stderr
        record = told.json()
        assert record["settings"]["generation"] == {"temperature": 0, "beams": beams, "max_tokens": 4}
        assert "version:" in record["result"]["bleu_signature"]
        assert len(record["result"]["given"]) == record["result"]["questions"] == 3
    assert len(list(kept.glob("*-answers-*.json"))) == 2


def test_own_tasks_are_scored_by_topic_and_bad_ones_are_named_by_line(run_dir, call, questions, tmp_path):
    model = run_dir / "finetune" / "model"
    told = call("evaluate", model, "--tasks", questions, "--max-tokens", 4, "--records", tmp_path / "records", "--json")
    assert told.returncode == ExitCode.DONE, told.stderr
    (figures,) = told.json()["result"]["tasks"].values()
    assert figures["items"] == 2
    assert set(figures["topics"]) == {"returns", "shipping"}
    questions.write_text('{"question": "?"}\n')
    told = call("evaluate", model, "--tasks", questions, "--records", tmp_path / "records")
    assert told.returncode == ExitCode.FAILED
    assert "quiz.jsonl:1" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_model_alone_is_measured_on_what_its_run_set_aside(run_dir, call, tmp_path):
    page = tmp_path / "hardest.html"
    told = call("evaluate", run_dir / "finetune" / "model", "--html", page, "--records", tmp_path / "records", "--json")
    assert told.returncode == ExitCode.DONE, told.stderr
    texts, answers = told.json()
    assert (texts["kind"], texts["data"]["split"], answers["kind"]) == ("texts", "heldout", "answers")
    assert "--heat:" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--html", "page.html", "--tasks", "x.jsonl"), "`--html` has no effect without `--texts`"),
        (("--set", "a=1", "--texts", "."), "`--set` has no effect on a model directory"),
        (("--texts", ".", "--stride", "9999"), "the stride must lie between"),
    ],
)
def test_options_that_would_do_nothing_or_cannot_be_are_refused(run_dir, call, tmp_path, arguments, expected):
    told = call("evaluate", run_dir / "pretrain" / "model", *arguments, cwd=tmp_path)
    assert told.returncode == ExitCode.USAGE
    assert expected in told.stderr


def test_the_run_s_own_evaluation_is_in_its_history(run_dir):
    kept = [json.loads(path.read_text()) for path in (run_dir / "evaluations").glob("*-run-*.json")]
    assert {record["model"]["name"] for record in kept} >= {"tiny-pretrain", "tiny-finetune"}
    assert all(record["result"]["answers"]["generation"]["beams"] == 1 for record in kept)


def test_two_models_are_compared_on_their_run_s_data_with_significance(run_dir, call, tmp_path):
    models = [run_dir / name / "model" for name in ("pretrain", "finetune")]
    told = call("compare", *models, "--max-tokens", 4, "--records", tmp_path / "records", "--json")
    assert told.returncode == ExitCode.DONE, told.stderr
    result = told.json()["result"]
    assert 0 < result["texts"]["tiny-finetune"]["p_value"] <= 1
    assert set(result["answers"]["tiny-finetune"]["p_values"]) == {"bleu", "chrf", "ter", "exact"}
    alone = call("compare", models[0])
    assert alone.returncode == ExitCode.USAGE
    assert "two models or more" in alone.stderr


def judged_by_two(place):
    """A study of six answers that two people have judged, the second model's two points better."""
    items = [
        StudyItem(
            id=f"{n}-{model}", asked=f"Question {n}?", answers=(f"answer {n}",), models=(model,), reference="none"
        )
        for n in range(3)
        for model in ("base", "tuned")
    ]
    make_study(place, items, StudyPlan(title="t", raters=2, shared_share=1.0, repeat_share=0.0, open_names=True))
    with contextlib.closing(Study(place)) as study:
        for name in ("Ada", "Ben"):
            rater = study.join(name, "user")
            while (item := study.next(rater).item) is not None:
                level = 2 if item.models == ("base",) else 4
                scores = {"fluency": level, "coherence": level, "relevance": level + (name == "Ben")}
                study.judge(rater, Judgement(item=item.id, occasion=0, key=f"{name}{item.id}", scores=scores))


def test_what_people_said_is_told_for_a_person_and_for_machines_and_exported(call, tmp_path):
    place = tmp_path / "study.sqlite"
    judged_by_two(place)
    figures = call("rate", place, "--stats", "--json").json()["user"]
    assert figures["ratings"] == 12
    assert figures["models"]["tuned"]["fluency"]["mean"] - figures["models"]["base"]["fluency"]["mean"] == 2
    told = call("rate", place, "--stats")
    assert told.returncode == ExitCode.DONE, told.stderr
    for part in ("users: 12 ratings by 2 raters", "agreement on relevance: alpha", "rater Ada", "3 are judged"):
        assert part in told.stdout
    lines = call("rate", place, "--export").stdout.splitlines()
    assert {json.loads(line)["rater"] for line in lines} == {"Ada", "Ben"}
    assert len(lines) == 12


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--pairs",), "`--pairs`: not so"),
        (("--items", "4"), "`--items`: 6"),
        (("--title", "Another", "--invited"), "`--title`: t, `--invited`: not so"),
        (("--shared", "0.5", "--repeats", "0.3", "--raters", "3"), "`--raters`: 2, `--shared`: 1.0, `--repeats`: 0.0"),
    ],
)
def test_options_that_a_study_was_not_made_with_are_refused_with_the_way_to_a_second_one(tmp_path, arguments, told):
    judged_by_two(tmp_path / "study.sqlite")
    done = CliRunner().invoke(app, ["rate", str(tmp_path / "study.sqlite"), "--stats", *arguments])
    assert isinstance(done.exception, UsageError)
    assert told in done.exception.what
    assert "`--store OTHER.sqlite`" in done.exception.hint


def test_the_same_call_goes_on_with_a_study_even_where_its_source_held_less_than_was_asked(tmp_path):
    answer = {"asked": "Why?", "answers": ["So that six words are here."], "models": ["base"]}
    (tmp_path / "study.jsonl").write_text(json.dumps(answer) + "\n")
    items = with_checks(items_of_file(tmp_path / "study.jsonl"), count=3)
    make_study(tmp_path / "study.sqlite", items, StudyPlan(title="t", raters=2))
    call = ["rate", str(tmp_path / "study.jsonl"), "--export", "--items", "50", "--title", "t"]
    assert CliRunner().invoke(app, [*call, "--checks", "3"]).exit_code == ExitCode.DONE
    other = CliRunner().invoke(app, [*call, "--checks", "0"])
    assert "`--checks`: 1" in other.exception.what


def test_ratings_without_a_study_say_what_to_do(run_dir, call):
    told = call("rate", run_dir, "--stats", "--store", run_dir / "none.sqlite")
    assert told.returncode == ExitCode.USAGE
    assert "open the page first" in told.stderr


def test_weak_areas_name_topics_and_an_accepted_proposal_is_a_recipe_that_loads(run_dir, call, tmp_path):
    page = tmp_path / "weak.html"
    told = call("weak", run_dir, "--html", page, "--json")
    assert told.returncode == ExitCode.DONE, told.stderr
    found = told.json()
    assert {topic["name"] for topic in found["topics"]} == {"returns", "shipping", "opening"}
    assert "returns" in page.read_text()
    told = call("weak", run_dir, "--accept", 99, "--to", tmp_path / "new.toml")
    assert told.returncode == ExitCode.USAGE
    assert "name the new recipe" in told.stderr
