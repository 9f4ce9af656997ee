"""Long texts in pieces, streams in other encodings, and `.json` that may or may not be lines."""

import gzip
import io
import json
import random

import pytest
from drop_reasons import reasons

from chatwright.data import limits
from chatwright.data.formats.pieces import pieces_in_parts, text_pieces
from chatwright.data.formats.recoded import in_utf8
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources import Files, list_partitions, read_partition

FRENCH = "Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis ; où êtes-vous passé, à Besançon ?"
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю."


def collect(folder, **settings):
    config, tally = Files(path=str(folder), **settings), Tally()
    return [d for one in list_partitions(config) for d in read_partition(config, one, tally)], tally


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(limits, "TEXT_PIECE_BYTES", 100)
    monkeypatch.setattr(limits, "MAX_TEXT_PIECE_BYTES", 300)


@pytest.mark.parametrize("packed", [False, True])
def test_a_text_over_the_limit_is_read_in_pieces_of_whole_paragraphs_where_the_recipe_says_so(
    tmp_path, monkeypatch, small_pieces, packed
):
    monkeypatch.setattr(limits, "MAX_TEXT_FILE_BYTES", 1_000)
    paragraphs = [f"Paragraph {number}: {RUSSIAN}\nIts second line.\n\n" for number in range(40)]
    data = "".join(paragraphs).encode()
    (tmp_path / ("a.txt.gz" if packed else "a.txt")).write_bytes(gzip.compress(data) if packed else data)
    documents, tally = collect(tmp_path)
    assert documents == []
    assert 'texts = "paragraphs"' in tally.dropped["too_large"]["examples"][0]["detail"]
    documents, tally = collect(tmp_path, texts="paragraphs")
    assert tally.dropped == {}
    assert [document.text for document in documents] == paragraphs
    assert [document.path.rsplit("#")[1] for document in documents] == [str(number) for number in range(1, 41)]
    assert {document.title for document in documents} == {"a"}


class Dripping(io.RawIOBase):
    """Bytes that come in amounts of their own."""

    def __init__(self, data, seed):
        self.file, self.chance = io.BytesIO(data), random.Random(seed)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.file.readinto(memoryview(buffer)[: self.chance.randint(1, 400)])


@pytest.mark.parametrize("seed", range(5))
def test_pieces_are_the_text_and_the_same_however_it_comes(small_pieces, seed):
    data = mixed_text(seed)
    pieces = list(text_pieces(io.BufferedReader(io.BytesIO(data))))
    assert list(text_pieces(io.BufferedReader(Dripping(data, seed), 1))) == pieces
    assert b"".join(b"".join(pieces).split()) == b"".join(data.split())
    assert max(map(len, pieces)) <= 300
    for piece in pieces:
        piece.decode()


def mixed_text(seed):
    """Paragraphs, blank stretches and words without end."""
    chance = random.Random(seed)
    parts = ["word " * 30, "\n", "\n\n", "\n \t\n", "\r\n\r\n", "ёж" * 200, " " * 400, "x" * 900, "z" * 290, RUSSIAN]
    return "".join(chance.choices(parts, k=80)).encode()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 150, 1_000, 1 << 20])
def test_a_text_is_the_same_in_however_many_parts_it_is_read(tmp_path, monkeypatch, small_pieces, seed, size):
    binary = bytes(range(256)).replace(b"\n", b"") + b"\0" * 40
    sound = b"A sound paragraph that stands before and behind. " * 3
    (tmp_path / "a.txt").write_bytes(b"\n\n".join([b"\xef\xbb\xbf" + sound, binary, mixed_text(seed)]))
    whole, tally = collect(tmp_path, texts="paragraphs")
    assert reasons(tally) == {"undecodable": ["a.txt#2"]}
    monkeypatch.setattr(limits, "PARTITION_BYTES", size)
    assert collect(tmp_path, texts="paragraphs") == (whole, tally)
    inputs = [entry for one in list_partitions(Files(path=str(tmp_path), texts="paragraphs")) for entry in one.inputs]
    assert sum(entry["bytes"] for entry in inputs) == (tmp_path / "a.txt").stat().st_size
    assert (len(inputs) == 1) is (size == 1 << 20)
    assert len(whole) > 20


@pytest.mark.parametrize(("name", "encoding"), [("a.txt", "utf-16"), ("a.txt", "cp1251"), ("a.txt.gz", "utf-8")])
def test_a_text_that_is_recoded_or_packed_is_one_part(tmp_path, monkeypatch, small_pieces, name, encoding):
    monkeypatch.setattr(limits, "PARTITION_BYTES", 1)
    data = (f"{RUSSIAN}\n\n" * 30).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (partition,) = list_partitions(Files(path=str(tmp_path), texts="paragraphs"))
    assert len(partition.inputs) == 1
    documents, _ = collect(tmp_path, texts="paragraphs")
    assert "".join(document.text for document in documents) == f"{RUSSIAN}\n\n" * 30


def test_no_more_of_a_text_is_read_for_a_part_than_it_takes_to_know_its_end(monkeypatch, small_pieces):
    monkeypatch.setattr(limits, "MIB", 50)  # what is read at once
    data = mixed_text(3) * 20
    file = io.BytesIO(data)
    (part, *_) = pieces_in_parts(file, max_bytes=500)
    file.seek(0)
    assert len(b"".join(text_pieces(file, size=part.bytes))) <= part.bytes
    assert file.tell() <= part.bytes + 300 + 50


def test_without_blank_lines_a_piece_ends_with_a_line_or_else_with_a_word(small_pieces):
    lines = b"a line of a text without paragraphs\n" * 40
    assert {piece[-1:] for piece in text_pieces(io.BufferedReader(io.BytesIO(lines)))} == {b"\n"}
    words = b"word " * 200
    assert {piece[-1:] for piece in text_pieces(io.BufferedReader(io.BytesIO(words)))} == {b" "}


def test_a_piece_that_is_no_text_is_counted_with_its_place_and_the_rest_read(tmp_path, small_pieces):
    binary = bytes(range(256)).replace(b"\n", b"") + b"\0" * 40
    text = b"A sound paragraph that stands before and behind. " * 3
    (tmp_path / "a.txt").write_bytes(text + b"\n\n" + binary + b"\n\n" + text)
    documents, tally = collect(tmp_path, texts="paragraphs")
    assert [document.path for document in documents] == ["a.txt#1", "a.txt#3"]
    assert reasons(tally) == {"undecodable": ["a.txt#2"]}


@pytest.mark.parametrize(("text", "encoding"), [(RUSSIAN, "utf-16"), (FRENCH, "utf-16-le"), (RUSSIAN, "cp1251")])
def test_pieces_of_a_text_in_another_encoding_are_its_letters(tmp_path, small_pieces, text, encoding):
    whole = f"{text}\n\n" * 30
    (tmp_path / "a.txt").write_bytes(whole.encode(encoding))
    documents, tally = collect(tmp_path, texts="paragraphs")
    assert len(documents) > 5
    assert "".join(document.text for document in documents) == whole
    assert set(tally.changed) == (set() if encoding == "utf-16" else {"encoding_detected"})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize(("text", "encoding"), [(FRENCH, "cp1252"), (RUSSIAN, "cp1251"), (FRENCH, "utf-16")])
def test_a_table_as_an_office_program_writes_it_keeps_its_rows(tmp_path, name, text, encoding):
    delimiter = "\t" if name == "a.tsv" else ";"
    rows = [["text", "id"], *([f'"{text} {number}"', str(number)] for number in range(50))]
    data = "\r\n".join(delimiter.join(row) for row in rows).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    documents, tally = collect(tmp_path)
    assert [document.text for document in documents] == [f"{text} {number}" for number in range(50)]
    assert documents[3].path == f"{name}#5"
    assert tally.dropped == {}
    assert tally.changed.get("encoding_detected") == (None if encoding == "utf-16" else {"documents": 1, "places": 1})


def test_a_table_of_which_a_few_rows_are_damaged_stays_utf8(tmp_path):
    sound = [f'"{RUSSIAN} {number}",{number}'.encode() for number in range(20)]
    odd = ["préfère déjà à Besançon êtes où ambiguë cœur zéphyr,1".encode("cp1252")] * 9
    (tmp_path / "a.csv").write_bytes(b"\n".join([b"text,id", *sound[:10], *odd, *sound[10:]]))
    documents, tally = collect(tmp_path)
    assert [document.text for document in documents] == [f"{RUSSIAN} {number}" for number in range(20)]
    assert (tally.dropped["invalid_utf8"]["count"], tally.changed) == (9, {})


def test_places_that_the_encoding_of_a_table_does_not_know_are_counted(tmp_path):
    lines = [f"{FRENCH},{number}".encode("cp1252") for number in range(50)]
    sample = b"\n".join([b"text,id", *lines])
    padding = b"\nplain words,0" * (limits.ENCODING_SAMPLE_BYTES // 14 + 1)
    (tmp_path / "a.csv").write_bytes(sample + padding + b"\nodd \x81 byte,1")
    documents, tally = collect(tmp_path)
    assert documents[-1].text == "odd \N{REPLACEMENT CHARACTER} byte"
    assert tally.changed["undecodable_replaced"] == {"documents": 1, "places": 1}


class Cut(io.BytesIO):
    """Sound bytes, and then damage."""

    def read1(self, size=-1):
        data = super().read1(size)
        if not data:
            raise Unreadable("damaged_gzip", "cut")
        return data


def take_lines(stream, lines):
    while line := stream.readline():
        lines.append(line)


@pytest.mark.parametrize("rows", [0, 3, 50_000])
def test_what_comes_before_damage_is_given_before_it_is_told(rows):
    data = "".join(f"{RUSSIAN} {number}\n" for number in range(rows)).encode()
    lines = []
    with pytest.raises(Unreadable, match="damaged_gzip"):
        take_lines(in_utf8(Cut(data), Tally()), lines)
    assert b"".join(lines) == data


ROWS = [{"text": f"text {number}", "url": f"https://a.example/{number}"} for number in range(3)]


@pytest.mark.parametrize("name", ["c4.json", "c4.json.gz"])
def test_json_lines_are_read_under_the_ending_of_json_too(tmp_path, name):
    data = ("\n" + "".join(json.dumps(row) + "\n" for row in ROWS) + "{cut\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    documents, tally = collect(tmp_path)
    assert [(d.text, d.path) for d in documents] == [(f"text {n}", f"{name}#{n + 2}") for n in range(3)]
    assert reasons(tally) == {"invalid_json": [f"{name}:5"]}


@pytest.mark.parametrize("partition_bytes", [1, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(("value", "detail"), [(ROWS, "a JSON array"), ({"rows": ROWS}, "the first line is no JSON")])
def test_one_json_value_is_counted_once_and_said_to_be_no_lines(
    tmp_path, monkeypatch, value, detail, indent, partition_bytes
):
    monkeypatch.setattr(limits, "PARTITION_BYTES", partition_bytes)
    (tmp_path / "a.json").write_text(" \n" + json.dumps(value, indent=indent))
    documents, tally = collect(tmp_path)
    assert documents == []
    if isinstance(value, dict) and indent is None:
        assert reasons(tally) == {"no_text_key": ["a.json:2"]}
        return
    assert reasons(tally) == {"not_json_lines": ["a.json"]}
    assert tally.dropped["not_json_lines"]["count"] == 1
    assert detail in tally.dropped["not_json_lines"]["examples"][0]["detail"]


def test_under_the_ending_of_json_lines_a_bad_first_line_costs_itself_alone(tmp_path):
    (tmp_path / "a.jsonl").write_text('[1]\n{"text": "kept"}\n')
    documents, tally = collect(tmp_path)
    assert [document.text for document in documents] == ["kept"]
    assert reasons(tally) == {"not_an_object": ["a.jsonl:1"]}
