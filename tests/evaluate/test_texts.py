"""Texts to measure are read as they stand; what cannot be read is named with its place."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatwright.evaluate.texts import read_texts
from chatwright.foundation.errors import DataError


def test_a_folder_is_read_whole_with_a_domain_for_each_folder(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("\r\n Dear \x00 Sir  \n", newline="")
    (tmp_path / "notes.jsonl").write_text('{"text": "a"}\n\n{"text": "b", "domain": "other"}\n{"text": ""}\n')
    pq.write_table(pa.table({"text": ["c"], "domain": ["tables"]}), tmp_path / "rows.parquet")
    found = read_texts(tmp_path)
    assert [(text.id, text.domain, text.text) for text in found.texts] == [
        ("one.txt", "letters", "\r\n Dear \x00 Sir  \n"),
        ("notes.jsonl:1", "notes", "a"),
        ("notes.jsonl:3", "other", "b"),
        ("rows.parquet:0", "tables", "c"),
    ]
    assert found.num_empty == 1
    before = found.digest
    (tmp_path / "letters" / "one.txt").write_text("Dear Sir")
    assert read_texts(tmp_path).digest != before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"text": 1}\n', "a.jsonl:1` has no string under `text`"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "a.jsonl:2` has no string"),
        ("a.jsonl", b"{not json\n", "a.jsonl:1` is not sound JSON"),
        ("a.txt", b"sound \xff", "is not UTF-8 at byte 6"),
        ("a.txt", b"", "holds no text"),
        ("a.parquet", b"PAR1", "is not sound Parquet"),
        ("a.docx", b"x", "of no kind that can be measured"),
    ],
)
def test_what_cannot_be_measured_is_named(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_texts(tmp_path / name)
    assert told in str(caught.value)


def test_a_folder_with_other_files_is_refused_rather_than_read_in_part(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.pdf").write_bytes(b"%PDF")
    with pytest.raises(DataError, match=r"1 files of other kinds, the first is `b.pdf`"):
        read_texts(tmp_path)
    with pytest.raises(DataError, match="no file or folder"):
        read_texts(tmp_path / "nowhere")


def test_another_key_can_hold_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": "x"}) + "\n")
    assert read_texts(tmp_path / "a.jsonl", text_key="body").texts[0].text == "x"
