import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.data import limits
from chatwright.data.document import (
    CORPUS_SCHEMA,
    DOCUMENTS_SCHEMA,
    PROVENANCE,
    Document,
    PartWriter,
    document_id,
    iter_documents,
    overlong,
    sealed,
)
from chatwright.foundation.errors import RefusedError


def write_part(path, documents, schema=CORPUS_SCHEMA):
    with PartWriter(path, schema) as writer:
        for document in documents:
            writer.add(document)


def test_documents_come_back_as_they_were_written(tmp_path, make_document):
    documents = [make_document(number=n, quality=0.5, split="train", title="t", language="en") for n in range(3)]
    write_part(tmp_path / "part-00000.parquet", documents)
    assert list(iter_documents(tmp_path)) == documents


def test_raw_documents_keep_their_media(tmp_path, make_document):
    write_part(tmp_path / "part-00000.parquet", [make_document("<p>x</p>", media="html")], DOCUMENTS_SCHEMA)
    assert [document.media for document in iter_documents(tmp_path)] == ["html"]


@pytest.mark.parametrize("schema", [DOCUMENTS_SCHEMA, CORPUS_SCHEMA])
def test_provenance_is_kept_in_both_schemas(tmp_path, make_document, schema):
    fields = {"url": "https://a.example/x", "fetched": "2026-01-02T03:04:05Z", "robots": "allowed", "tdm": "reserved"}
    document = sealed(make_document(licence="MIT", licence_evidence="its own words", **fields))
    write_part(tmp_path / "part-00000.parquet", [document], schema)
    assert list(iter_documents(tmp_path)) == [document]


def test_a_part_without_the_columns_of_today_is_read(tmp_path, make_document):
    older = pa.schema([field for field in CORPUS_SCHEMA if field.name not in (*PROVENANCE, "cluster")])
    write_part(tmp_path / "part-00000.parquet", [make_document(split="train")], older)
    assert [(d.split, d.raw_sha256, d.cluster) for d in iter_documents(tmp_path)] == [("train", "", "")]


def test_a_sealed_document_carries_the_hash_of_its_text(make_document):
    texts = [sealed(make_document(text, number=n)).raw_sha256 for n, text in enumerate(("a", "a", "b"))]
    assert texts[0] == texts[1] == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert texts[2] != texts[0]


def test_the_evidence_of_a_licence_is_the_recipe_where_nothing_better_is_known(make_document):
    evidence = [
        sealed(make_document(licence=licence, licence_evidence=words)).licence_evidence
        for licence, words in (("MIT", ""), ("MIT", "page: rel=license"), ("unknown", ""))
    ]
    assert evidence == ["recipe", "page: rel=license", ""]


def test_a_sealed_document_holds_no_lone_surrogate_in_any_field(tmp_path, make_document):
    odd = "a\ud83db"
    names = [f.name for f in dataclasses.fields(Document) if f.type is str and f.name != "raw_sha256"]
    sound = sealed(dataclasses.replace(make_document(), **dict.fromkeys(names, odd)))
    assert {getattr(sound, name) for name in names} == {"a\ufffdb"}
    assert sound.raw_sha256 == sealed(make_document("a\ufffdb")).raw_sha256
    for name, schema in (("raw", DOCUMENTS_SCHEMA), ("clean", CORPUS_SCHEMA)):
        write_part(tmp_path / name, [sound], schema)
        assert pq.read_table(tmp_path / name)["path"].to_pylist() == ["a\ufffdb"]


def test_a_split_is_read_alone(tmp_path, make_document):
    documents = [make_document(number=n, split="heldout" if n % 3 == 0 else "train") for n in range(9)]
    write_part(tmp_path / "part-00000.parquet", documents)
    assert [d.path for d in iter_documents(tmp_path, split="heldout")] == ["0.txt", "3.txt", "6.txt"]


def test_parts_are_read_in_order_and_other_files_are_not(tmp_path, make_document):
    for number in (1, 0):
        write_part(tmp_path / f"part-0000{number}.parquet", [make_document(number=number)])
    write_part(tmp_path / "other.parquet", [make_document(number=9)])
    assert [document.path for document in iter_documents(tmp_path)] == ["0.txt", "1.txt"]


def test_row_groups_are_bounded(tmp_path, make_document, monkeypatch):
    monkeypatch.setattr(limits, "ROW_GROUP_DOCUMENTS", 2)
    write_part(tmp_path / "part-00000.parquet", [make_document(number=n) for n in range(5)])
    assert pq.ParquetFile(tmp_path / "part-00000.parquet").num_row_groups == 3


@pytest.mark.parametrize("name", ["title", "url", "licence", "path"])
def test_row_groups_are_bounded_by_all_that_a_document_says(tmp_path, make_document, monkeypatch, name):
    monkeypatch.setattr(limits, "ROW_GROUP_BYTES", 1_000)
    with PartWriter(tmp_path / "part-00000.parquet", DOCUMENTS_SCHEMA) as writer:
        for number in range(6):
            writer.add(dataclasses.replace(make_document("short", number=number), **{name: "x" * 600}))
    assert pq.ParquetFile(tmp_path / "part-00000.parquet").num_row_groups == 3


def test_a_sealed_document_says_nothing_at_any_length_but_its_text(make_document):
    longest = limits.MAX_METADATA_CHARACTERS
    said = {name: name[0] * (longest + 1) for name in ("title", "licence", "language", "licence_evidence", "url")}
    document = make_document("y" * (2 * longest), **said)
    assert sorted(overlong(document)) == sorted(said)
    kept = sealed(document)
    assert [len(getattr(kept, name)) for name in said] == [longest] * 4 + [0]
    assert kept.text == document.text
    assert overlong(kept) == []


def test_equal_documents_give_equal_bytes(tmp_path, make_document):
    for name in ("a", "b"):
        write_part(tmp_path / name, [make_document(number=n) for n in range(5)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_directory_is_refused_by_name(tmp_path):
    with pytest.raises(RefusedError, match="nowhere"):
        list(iter_documents(tmp_path / "nowhere"))


def test_a_damaged_part_is_refused_by_name(tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(RefusedError, match="part-00000"):
        list(iter_documents(tmp_path))


def test_an_id_is_known_forever():
    assert document_id("python-docs", "python-3.11.7/topics/assert") == "b460c1b603dfe4e4"


@settings(deadline=None)
@given(st.text(), st.text(), st.text(), st.text())
def test_ids_differ_where_origins_differ(source, path, other_source, other_path):
    same = (source, path) == (other_source, other_path)
    assert same == (document_id(source, path) == document_id(other_source, other_path)) or "\0" in source + other_source
