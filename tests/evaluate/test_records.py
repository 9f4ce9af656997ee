"""A record says what was measured, of what, by what; it is kept once and never changed."""

import json

import pytest

from chatwright.evaluate.measure import measure_texts
from chatwright.evaluate.perplexity import Windows
from chatwright.evaluate.records import code_digest, data_of_run, folder_for, history, keep, run_of
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.recipe.report.evaluations import record_page


@pytest.fixture(scope="module")
def record(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "ferry.txt").write_text("The ferry <b>leaves</b> at nine in the morning. " * 14)
    (folder / "code.txt").write_text("def area(width, height):\n    return width * height\n" * 3)
    measured = measure_texts(tiny_model, folder, model_path=folder, windows=Windows.of(tiny_model, stride=16))
    assert len(measured.losses) == 2
    return measured.record


def test_a_record_names_model_data_code_and_settings(record, tiny_model):
    assert record["model"]["digest"] == tiny_model.digest
    assert record["model"]["tokenizer"] == tiny_model.tokenizer.digest
    assert len(record["data"]["digest"]) == 64
    assert record["code"]["digest"] == code_digest()
    assert record["settings"]["stride"] == 16
    assert record["settings"]["context"] == 64
    assert record["result"]["domains"]["all"]["documents"] == 2


def test_records_are_kept_as_a_history_oldest_first(tmp_path, record):
    later = {**record, "created": record["created"] + 60}
    assert keep(later, tmp_path) != keep(record, tmp_path)
    assert keep(record, tmp_path) == keep(record, tmp_path)
    assert [item["created"] for item in history(tmp_path)] == [record["created"], later["created"]]
    assert history(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "other"}', '{"format": "chatwright.evaluation", "version": 99}']
)
def test_a_damaged_or_foreign_record_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(RefusedError):
        history(tmp_path)


def test_records_go_into_the_run_that_the_model_stands_in(tmp_path):
    model = tmp_path / "run" / "finetune" / "model"
    model.mkdir(parents=True)
    assert run_of(model) is None
    with pytest.raises(UsageError, match="stands in no run"):
        folder_for(model)
    (tmp_path / "run" / "recipe.toml").write_text("")
    assert folder_for(model) == (tmp_path / "run").resolve() / "evaluations"
    assert folder_for(model, tmp_path / "here") == tmp_path / "here"


def test_a_run_s_own_data_is_its_heldout_documents_and_its_test_questions(tmp_path):
    model, questions = tmp_path / "run" / "finetune" / "model", tmp_path / "questions.jsonl"
    model.mkdir(parents=True)
    assert data_of_run(model) == (None, None)
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(f'[evaluate]\nanswers = "{questions}"\n')
    assert data_of_run(model) == (None, None)  # named, not there
    questions.write_text("")
    corpus = tmp_path / "run" / "corpus"
    corpus.mkdir()
    (corpus / "manifest.json").write_text("{}")
    assert data_of_run(model) == (corpus.resolve(), questions)


def test_the_page_of_a_record_shows_each_token_with_its_loss_and_nothing_runs(record):
    page = record_page(record)
    assert page.count('title="') > 30
    assert "--heat:" in page
    assert "&lt;" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert "bits per byte" in page
    assert json.dumps(record)  # it is JSON as it stands
