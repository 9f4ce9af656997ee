"""A document that holds a passage of an evaluation set goes, and is counted; others stay."""

import json

import pytest

from chatwright.data import clean_stage, limits
from chatwright.data.clean import CleanConfig
from chatwright.data.document import DOCUMENTS_SCHEMA, PartWriter, iter_documents
from chatwright.data.duplicates import decontaminate
from chatwright.data.duplicates.decontaminate import DecontaminateConfig, EvaluationRuns, collect_runs
from chatwright.data.duplicates.shingles import word_hashes
from chatwright.data.pii import PiiConfig
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError

LONG = "which of the two lighthouses on the northern coast was built before the great storm of that winter"
SHORT = "how many baskets stand on the old quay"
TINY = "what is it"


@pytest.fixture
def evaluation(tmp_path):
    path = tmp_path / "test.jsonl"
    rows = [{"messages": [{"role": "user", "content": LONG}]}, {"question": SHORT, "answers": [TINY]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_runs_of_long_texts_and_whole_short_ones_are_looked_for(evaluation):
    runs, counts = collect_runs(DecontaminateConfig(sets=(str(evaluation),)))
    assert counts == (4, 2, len(LONG.split()) - 12 + 1)
    inside = LONG.upper().split()[3:16]
    assert runs.found_in(word_hashes("Before, " + ", ".join(inside) + "; after.")) == 1
    assert runs.found_in(word_hashes(" ".join(inside[:12]))) == 0
    assert runs.found_in(word_hashes(f"He asked {SHORT}, and left.")) == 1
    assert runs.found_in(word_hashes(TINY)) == runs.found_in(word_hashes("")) == 0


def test_saved_runs_find_the_same(evaluation, tmp_path):
    runs, _ = collect_runs(DecontaminateConfig(sets=(str(evaluation),)))
    runs.save(tmp_path)
    text = word_hashes(f"{LONG} {SHORT}")
    assert EvaluationRuns.load(tmp_path).found_in(text) == runs.found_in(text) == 7


def test_the_stage_drops_and_counts_what_is_contaminated(evaluation, tmp_path, stage, make_document, prose):
    documents = tmp_path / "documents"
    documents.mkdir()
    with PartWriter(documents / "part-00000.parquet", DOCUMENTS_SCHEMA) as writer:
        writer.add(make_document(prose, number=0))
        writer.add(
            make_document(f"Somebody asked: {LONG}? Nobody on the quay knew it, and the boats came in.", number=1)
        )
    config = CleanConfig(decontaminate=DecontaminateConfig(sets=(str(evaluation),)))
    context = stage(config, documents=documents)
    clean_stage.run(context)
    assert [document.path for document in iter_documents(context.output)] == ["0.txt"]
    report = storage.read_json(context.output / "report.json")
    assert report["dropped"]["contaminated"]["examples"][0]["path"] == "1.txt"
    assert report["decontamination"] == {"texts": 4, "too_short": 2, "runs": 7}


@pytest.mark.parametrize(
    ("passage", "fields"),
    [
        (LONG.replace(" ", "\u00a0"), {}),
        (LONG.replace("northern", "cafe\u0301's"), {}),
        (LONG.replace("northern", "keeper's"), {"strip_punctuation": True}),
        (LONG.replace("northern", "coast, +1 (415) 555-2671, the"), {"pii": PiiConfig(redact=("phone",))}),
    ],
)
def test_a_passage_is_found_in_whatever_form_cleaning_gives_the_corpus(
    tmp_path, stage, make_document, prose, passage, fields
):
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(passage))
    documents = tmp_path / "documents"
    documents.mkdir()
    with PartWriter(documents / "part-00000.parquet", DOCUMENTS_SCHEMA) as writer:
        writer.add(make_document(prose, number=0))
        writer.add(make_document(f"{prose} Somebody asked: {passage}? Nobody on the quay knew it.", number=1))
    config = CleanConfig(decontaminate=DecontaminateConfig(sets=(str(path),)), **fields)
    summary = clean_stage.run(stage(config, documents=documents))
    assert summary["dropped"] == {"contaminated": 1}


@pytest.mark.parametrize("content", ["", "{]\n", '{"a": "too short"}\n'])
def test_a_set_without_use_is_refused(tmp_path, content):
    path = tmp_path / "set.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="set.jsonl"):
        collect_runs(DecontaminateConfig(sets=(str(path),)))


@pytest.mark.parametrize("part", [1, 2, 3, 7, 50, 10_000])
def test_a_set_of_plain_text_is_read_to_its_end_by_parts(tmp_path, monkeypatch, part):
    monkeypatch.setattr(limits, "MAX_TEXT_FILE_BYTES", 10)
    monkeypatch.setattr(decontaminate, "_PART_CHARACTERS", part)
    path = tmp_path / "set.txt"
    path.write_text(f"{TINY}\n\n{SHORT}\n\n\n{LONG}\n\n\n\n{TINY}\n")
    runs, counts = collect_runs(DecontaminateConfig(sets=(str(path),)))
    assert counts == (5, 3, 1 + len(LONG.split()) - 12)
    assert runs.found_in(word_hashes(LONG)) == len(LONG.split()) - 12


def test_a_set_with_an_endless_paragraph_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_DOCUMENT_CHARACTERS", 100)
    monkeypatch.setattr(decontaminate, "_PART_CHARACTERS", 80)
    (tmp_path / "set.txt").write_text(f"{LONG}\n" * 3)
    with pytest.raises(DataError, match="a paragraph of more than 100 characters"):
        collect_runs(DecontaminateConfig(sets=(str(tmp_path / "set.txt"),)))


def test_a_missing_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        collect_runs(DecontaminateConfig(sets=(str(tmp_path / "none.txt"),)))
