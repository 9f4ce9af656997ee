import gzip
import io
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drop_reasons import reasons

from chatwright.data import limits
from chatwright.data.formats.books import read_book
from chatwright.data.formats.lines import lines_in_pieces
from chatwright.data.formats.lines import read_all as read_whole
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources import Files, fingerprint, list_partitions, read_partition
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DataError


def collect(folder, **settings):
    config = Files(path=str(folder), **settings)
    tally = Tally()
    documents = [d for partition in list_partitions(config) for d in read_partition(config, partition, tally)]
    return documents, tally


def test_texts_are_read_in_order_with_their_origin(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.md", "sub/c.rst"):
        (tmp_path / name).write_text(f"text of {name}")
    documents, tally = collect(tmp_path, licence="CC0-1.0")
    assert [(d.path, d.text, d.title) for d in documents] == [
        ("a.md", "text of a.md", "a"),
        ("b.txt", "text of b.txt", "b"),
        ("sub/c.rst", "text of sub/c.rst", "c"),
    ]
    assert {d.domain for d in documents} == {tmp_path.name}
    assert {d.licence for d in documents} == {"CC0-1.0"}
    assert tally.dropped == {}


def test_ids_do_not_move_when_files_are_added(tmp_path):
    (tmp_path / "m.txt").write_text("x")
    before = collect(tmp_path)[0][0].id
    (tmp_path / "a.txt").write_text("y")
    assert before in {d.id for d in collect(tmp_path)[0]}


def test_a_single_file_is_a_source(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    assert [d.text for d in collect(tmp_path / "a.txt")[0]] == ["one"]


def test_include_chooses_files_and_hidden_ones_are_not_meant(tmp_path):
    for name in ("a.txt", "b.md", ".c.txt"):
        (tmp_path / name).write_text(name)
    assert [d.text for d in collect(tmp_path, include=("*.txt",))[0]] == ["a.txt"]


def test_an_html_page_stays_html_for_the_cleaning_stage(tmp_path):
    (tmp_path / "a.html").write_bytes('<meta charset="cp1251"><p>Съешь'.encode("cp1251"))
    documents, tally = collect(tmp_path)
    assert [(d.media, "Съешь" in d.text) for d in documents] == [("html", True)]
    assert "encoding_detected" in tally.changed


@pytest.mark.slow
def test_books_are_read_and_broken_ones_are_counted_by_name(tmp_path, write_epub, write_pdf, prose):
    write_epub(tmp_path / "book.epub")
    write_pdf(tmp_path / "paper.pdf", ["Hello from a page", "of paper"])
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    (tmp_path / "broken.epub").write_bytes(b"PK\x03\x04 cut off")
    documents, tally = collect(tmp_path)
    assert [d.path for d in documents] == ["book.epub", "paper.pdf"]
    assert documents[0].title == "Harbour"
    assert documents[0].language == "en"
    assert reasons(tally) == {"damaged_epub": ["broken.epub"], "damaged_pdf": ["broken.pdf"]}


@pytest.mark.parametrize("size", [1, 7, 40, 150, 1_000, 1 << 20])
def test_json_lines_are_the_same_in_however_many_pieces_they_are_read(tmp_path, monkeypatch, size):
    rows = [json.dumps({"text": f"text {number} {'x' * (number % 7 * 30)}"}) for number in range(40)]
    rows[3:3] = ["", "no json", "\ufeff" + rows[0], '{"text": 1}']
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(rows[:20]).encode() + b"\n" + "\n".join(rows[20:]).encode())
    whole, tally = collect(tmp_path)
    monkeypatch.setattr(limits, "PARTITION_BYTES", size)
    pieces, counted = collect(tmp_path)
    assert pieces == whole
    assert len(whole) == 41
    assert counted == tally
    partitions = list_partitions(Files(path=str(tmp_path)))
    assert sum(entry["bytes"] for one in partitions for entry in one.inputs) == (tmp_path / "a.jsonl").stat().st_size
    assert len(partitions) == {1: 44, 1 << 20: 1}.get(size, len(partitions))


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_pieces_of_lines_cover_a_file_whatever_is_read_at_once(monkeypatch, end, block):
    data = ("a\nbb\n\n" + "c" * 20 + "\nd" + end).encode()
    monkeypatch.setattr(limits, "MIB", block)
    pieces = list(lines_in_pieces(io.BytesIO(data), max_bytes=4))
    texts = [data[piece.offset : piece.offset + piece.bytes] for piece in pieces]
    assert b"".join(texts) == data
    assert all(text.endswith(b"\n") for text in texts[:-1])
    assert [piece.first for piece in pieces] == [1 + data[: piece.offset].count(b"\n") for piece in pieces]


def test_chapters_come_in_the_order_of_the_spine(tmp_path, write_epub, prose):
    write_epub(tmp_path / "b.epub")
    chapters = read_book(str(tmp_path / "b.epub"))["chapters"]
    assert [chapter["place"] for chapter in chapters] == ["OPS/text/a.xhtml", "OPS/text/b.xhtml"]
    assert prose[:40] in chapters[0]["text"]


def test_a_pdf_gives_its_lines(tmp_path, write_pdf):
    write_pdf(tmp_path / "p.pdf", ["Hello from a page", "of paper"])
    (chapter,) = read_book(str(tmp_path / "p.pdf"))["chapters"]
    assert chapter["text"].split("\n") == ["Hello from a page", "of paper"]


def verdict_on_book(path):
    with pytest.raises(Unreadable) as caught:
        read_book(str(path))
    return caught.value.reason


def test_a_book_without_text_says_so(tmp_path, write_epub, write_pdf):
    write_pdf(tmp_path / "p.pdf", [])
    write_epub(tmp_path / "b.epub", chapters={"a.xhtml": ""})
    assert verdict_on_book(tmp_path / "p.pdf") == "no_text"


def test_a_chapter_that_swells_is_stopped(tmp_path, write_epub):
    write_epub(tmp_path / "b.epub", chapters={"a.xhtml": " " * (4 << 20)})
    assert verdict_on_book(tmp_path / "b.epub") == "compression_ratio"


def test_an_archive_of_too_many_members_is_not_read(tmp_path, write_epub, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ARCHIVE_MEMBERS", 3)
    write_epub(tmp_path / "b.epub")
    assert verdict_on_book(tmp_path / "b.epub") == "too_many_members"


def test_a_package_that_declares_entities_is_refused(tmp_path, write_epub):
    write_epub(tmp_path / "b.epub", package_head='<!DOCTYPE p [<!ENTITY a "b">]>')
    assert verdict_on_book(tmp_path / "b.epub") == "damaged_epub"


def test_a_pdf_of_too_many_pages_is_not_read(tmp_path, write_pdf, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PDF_PAGES", 0)
    write_pdf(tmp_path / "p.pdf", ["x"])
    assert verdict_on_book(tmp_path / "p.pdf") == "too_large"


BAD_LINES = {
    "not_an_object": "[1, 2]",
    "invalid_json": '{"text": "cut',
    "no_text_key": '{"text": 7}',
    "json_too_deep": '{"text": "x", "y": ' + "[" * 100 + "]" * 100 + "}",
}


@pytest.mark.parametrize("reason", sorted(BAD_LINES))
def test_a_bad_line_is_counted_with_file_and_line(tmp_path, reason):
    (tmp_path / "x.jsonl").write_text(f'{{"text": "first"}}\n{BAD_LINES[reason]}\n\n{{"text": "last", "title": "T"}}\n')
    documents, tally = collect(tmp_path)
    assert [(d.path, d.text, d.title) for d in documents] == [("x.jsonl#1", "first", ""), ("x.jsonl#4", "last", "T")]
    assert reasons(tally) == {reason: ["x.jsonl:2"]}


@pytest.mark.parametrize("line", ["[" * 200_000, '{"text": "a", "text": "b"}', "9" * 10_000, "null"])
def test_strange_json_is_counted_too(tmp_path, line):
    (tmp_path / "x.jsonl").write_text(line)
    documents, tally = collect(tmp_path)
    assert documents == []
    assert sum(entry["count"] for entry in tally.dropped.values()) == 1


def test_a_line_that_is_not_utf8_is_counted(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "\xff"}\n{"text": "good"}')
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["good"]
    assert reasons(tally) == {"invalid_utf8": ["x.jsonl:1"]}


def test_a_line_over_the_limit_is_passed_over_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_LINE_BYTES", 50)
    (tmp_path / "x.jsonl").write_text('{"text": "' + "x" * 500 + '"}\n{"text": "good"}')
    documents, tally = collect(tmp_path)
    assert [d.path for d in documents] == ["x.jsonl#2"]
    assert reasons(tally) == {"line_too_long": ["x.jsonl:1"]}


def test_a_lone_surrogate_of_json_is_replaced_and_counted(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a\\ud800b", "title": "\\udfff"}')
    documents, tally = collect(tmp_path)
    assert documents[0].text == "a\ufffdb"
    assert tally.changed == {"surrogates_replaced": {"documents": 1, "places": 1}}


def test_compressed_texts_and_lines_are_read(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"packed text"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "packed line"}'))
    assert [d.text for d in collect(tmp_path)[0]] == ["packed text", "packed line"]


def test_a_cut_stream_keeps_what_came_before(tmp_path):
    lines = "".join(json.dumps({"text": os.urandom(40).hex()}) + "\n" for _ in range(500))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-9_000])
    documents, tally = collect(tmp_path)
    assert len(documents) > 100
    assert reasons(tally) == {"damaged_gzip": ["b.jsonl.gz"]}


def test_a_bomb_is_stopped_at_its_ratio(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b" " * (8 << 20)))
    assert reasons(collect(tmp_path)[1]) == {"compression_ratio": ["a.txt.gz"]}


def test_a_text_over_the_limit_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100)
    with (tmp_path / "a.txt").open("rb") as file, pytest.raises(Unreadable) as caught:
        read_whole(file, max_bytes=99)
    assert caught.value.reason == "too_large"


def test_a_table_is_read_by_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "PARTITION_BYTES", 1)
    table = pa.table({"body": ["a", None, "c", "d", "e"], "title": ["A", "B", "C", None, "E"]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    config = Files(path=str(tmp_path), text_key="body")
    assert len(list_partitions(config)) == 3
    documents, tally = collect(tmp_path, text_key="body")
    assert [(d.path, d.text, d.title) for d in documents] == [
        ("t.parquet#0", "a", "A"),
        ("t.parquet#2", "c", "C"),
        ("t.parquet#3", "d", ""),
        ("t.parquet#4", "e", "E"),
    ]
    assert reasons(tally) == {"no_text_key": ["t.parquet:1"]}


def test_a_row_that_is_not_utf8_is_counted(tmp_path):
    bad = pa.array([b"\xff\xfe", b"good"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "t.parquet")
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["good"]
    assert reasons(tally) == {"invalid_utf8": ["t.parquet:0"]}


def test_a_row_group_over_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ROW_GROUP_BYTES", 1)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "t.parquet")
    assert set(collect(tmp_path)[1].dropped) == {"row_group_too_large"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.parquet", b"PAR1 no", "damaged_parquet"),
        ("a.bin", b"\0\1", "unsupported_format"),
        ("a.txt", bytes(range(256)) * 40 + b"\0" * 5_000, "undecodable"),
        ("a.txt.gz", b"not gzip", "damaged_gzip"),
    ],
)
def test_a_file_that_cannot_be_read_is_counted_by_name(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("good")
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["good"]
    assert reasons(tally) == {reason: [name]}


def test_a_table_without_the_column_is_counted(tmp_path):
    pq.write_table(pa.table({"other": ["x"]}), tmp_path / "t.parquet")
    assert reasons(collect(tmp_path)[1]) == {"no_text_key": ["t.parquet"]}


def test_a_name_that_is_no_unicode_is_read(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("menu")
    documents, _ = collect(tmp_path)
    assert [(d.text, d.path) for d in documents] == [("menu", "caf\ufffd.txt")]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        collect(tmp_path / "nowhere")


def test_an_empty_folder_says_what_to_put_there(tmp_path):
    with pytest.raises(DataError) as caught:
        collect(tmp_path)
    assert "pdf" in caught.value.hint


def test_a_file_that_changes_while_collecting_stops(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    config = Files(path=str(tmp_path))
    partition = list_partitions(config)[0]
    path.write_text("after all")
    with pytest.raises(DataError, match="changed"):
        list(read_partition(config, partition, Tally()))


def test_the_fingerprint_follows_names_sizes_and_times(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    config = Files(path=str(tmp_path))
    before = fingerprint(config)
    assert fingerprint(config) == before
    os.utime(path, ns=(1, 1))
    assert fingerprint(config) != before


def test_patterns_stay_below_the_folder():
    with pytest.raises(ConfigError) as caught:
        validate(Files, {"path": "x", "include": ["../*", "/etc/*", ""]}, where="x")
    assert len(caught.value.problems) == 3


def test_large_folders_are_fingerprinted_in_a_moment(tmp_path):
    for number in range(500):
        (tmp_path / f"{number}.txt").touch()
    began = time.process_time()
    fingerprint(Files(path=str(tmp_path)))
    assert time.process_time() - began < 0.5
