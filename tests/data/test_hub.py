import functools
import gzip
import http.server
import io
import json
import socket
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatwright.data.report import Tally
from chatwright.data.sources import hub
from chatwright.data.sources.hub import Hub, documents_in, fingerprint, partitions_in
from chatwright.data.sources.limited import Cap
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DataError

COMMIT, LATER = "c0ffee" + "0" * 34, "decade" + "0" * 34


@pytest.fixture
def data_set(tmp_path):
    """A folder that stands for the hub: the same file system interface, no network."""
    (tmp_path / "sample").mkdir()
    for name in ("b", "a"):
        table = pa.table({"text": [f"{name}{n}" for n in range(4)], "language": ["en"] * 4})
        pq.write_table(table, tmp_path / "sample" / f"{name}.parquet", row_group_size=3)
    return tmp_path


def read(root, **settings):
    config = Hub(dataset="someone/books", **{"files": "sample/*.parquet", **settings})
    system = fsspec.filesystem("file")
    tally = Tally()
    partitions = partitions_in(system, str(root), config, commit=COMMIT)
    return [d for one in partitions for d in documents_in(system, config, one, tally)], tally


def test_rows_are_read_in_the_order_of_files(data_set):
    documents, _ = read(data_set)
    assert [d.text for d in documents] == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3"]
    assert documents[3].path == "sample/a.parquet#3"
    assert {(d.domain, d.language, d.source) for d in documents} == {("books", "en", f"hub:someone/books@{COMMIT}")}


@pytest.mark.parametrize("number", [1, 3, 5, 8, 99])
def test_no_more_rows_are_read_than_asked_for(data_set, number):
    assert len(read(data_set, max_documents=number)[0]) == min(number, 8)


def test_a_pattern_that_names_nothing_is_an_error(data_set):
    with pytest.raises(DataError, match="none/"):
        read(data_set, files="none/*.parquet")


def test_a_missing_column_is_an_error_that_lists_the_columns(data_set):
    with pytest.raises(DataError, match="columns: text, language"):
        read(data_set, text_key="body")


def test_without_a_network_the_error_names_the_data_set_and_the_next_step():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused at once
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        config = Hub(dataset="someone/books")
        from huggingface_hub import HfFileSystem

        with pytest.raises(DataError, match="someone/books") as caught, hub._hub_named(config):
            partitions_in(HfFileSystem(endpoint=endpoint), f"datasets/someone/books@{COMMIT}", config, commit=COMMIT)
    assert "network" in caught.value.hint


@pytest.fixture
def moving(tmp_path, monkeypatch):
    """A data set with two commits on this machine, and a server that says which of them `main` is."""
    for commit in (COMMIT, LATER):
        folder = tmp_path / "datasets" / "someone" / f"books@{commit}"
        folder.mkdir(parents=True)
        (folder / "a.jsonl").write_text(json.dumps({"text": f"as of {commit[:6]}"}))
    system = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"))
    monkeypatch.setattr(hub, "_file_system", lambda: system)  # the same interface, no network
    names = {"main": COMMIT}

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            told = {"id": "someone/books", "sha": names.get(self.path.rsplit("/", 1)[-1])}
            self.send_response(200 if told["sha"] else 404)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    asked = functools.partial(hub._commit_of, endpoint=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub, "_commit_of", asked)
    yield names
    server.shutdown()
    server.server_close()


def test_a_branch_is_read_at_the_commit_that_it_named_when_it_was_listed(moving):
    config = Hub(dataset="someone/books", files="*.jsonl")
    before = hub.list_partitions(config)
    moving["main"] = LATER
    (document,) = (d for one in before for d in hub.read_partition(config, one, Tally()))
    assert (document.text, document.source) == ("as of c0ffee", f"hub:someone/books@{COMMIT}")
    after = hub.list_partitions(config)
    (moved,) = (d for one in after for d in hub.read_partition(config, one, Tally()))
    assert (moved.text, moved.source) == ("as of decade", f"hub:someone/books@{LATER}")
    assert moved.id == document.id
    assert before[0].key(1, []) != after[0].key(1, [])


def test_a_commit_is_not_asked_for_and_an_unknown_revision_is_an_error(moving):
    moving.clear()
    assert hub.list_partitions(Hub(dataset="someone/books", files="*.jsonl", revision=COMMIT))
    with pytest.raises(DataError, match="someone/books"):
        hub.list_partitions(Hub(dataset="someone/books", files="*.jsonl"))


def test_all_mistakes_of_a_source_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(Hub, {"dataset": "books", "files": "../x", "max_documents": 0}, where="x")
    assert len(caught.value.problems) == 3


def test_the_fingerprint_asks_no_network():
    assert fingerprint(Hub(dataset="a/b")) != fingerprint(Hub(dataset="a/b", revision="1"))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("rows.jsonl", bytes),
        ("rows.jsonl.gz", gzip.compress),
        ("rows.jsonl.zst", lambda data: pa.Codec("zstd").compress(data, asbytes=True)),
        ("rows.csv", bytes),
        ("rows.csv.gz", gzip.compress),
    ],
)
def test_lines_and_tables_of_text_are_streamed_packed_or_not(tmp_path, name, pack):
    (tmp_path / "data").mkdir()
    if "jsonl" in name:
        lines = [json.dumps({"text": f"line {n}", "url": f"https://example.org/{n}"}) for n in range(3)]
        content = "\n".join([*lines, "[1]"])
    else:
        content = "url,text\n" + "".join(f"https://example.org/{n},line {n}\n" for n in range(3))
    (tmp_path / "data" / name).write_bytes(pack(content.encode()))
    documents, tally = read(tmp_path, files=f"data/{name}")
    assert [d.text for d in documents] == ["line 0", "line 1", "line 2"]
    assert [d.url for d in documents] == [f"https://example.org/{n}" for n in range(3)]
    assert len({d.path for d in documents}) == len({d.id for d in documents}) == 3
    assert all(d.path.startswith(f"data/{name}#") for d in documents)
    if "jsonl" in name:
        assert tally.dropped["not_an_object"]["examples"][0]["path"] == f"data/{name}:4"


def test_a_damaged_packed_file_is_counted_and_the_rest_goes_on(tmp_path):
    whole = gzip.compress(b'{"text": "whole"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip at all")
    (tmp_path / "b.jsonl.gz").write_bytes(whole)
    documents, tally = read(tmp_path, files="*.jsonl.gz")
    assert [d.text for d in documents] == ["whole"]
    assert [entry["count"] for entry in tally.dropped.values()] == [1]


def test_a_cap_holds_over_files_whose_rows_nobody_knows(tmp_path, stage):
    for name in "ab":
        lines = "".join(json.dumps({"text": f"{name}{n}"}) + "\n" for n in range(5))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    config = Hub(dataset="someone/books", files="*.jsonl", max_documents=7)
    system, cap = fsspec.filesystem("file"), Cap(config)
    partitions = partitions_in(system, str(tmp_path), config, commit=COMMIT)
    found = (d for one in partitions for d in documents_in(system, config, one, Tally()))
    assert [d.text for d in cap.through(found, Tally())] == ["a0", "a1", "a2", "a3", "a4", "b0", "b1"]


def test_a_format_that_the_hub_source_does_not_read_is_an_error(tmp_path):
    (tmp_path / "book.epub").write_bytes(b"x")
    with pytest.raises(DataError, match="Parquet, JSON Lines, CSV"):
        read(tmp_path, files="*.epub")


class Severed(io.FileIO):
    """A file whose connection breaks where one stretch of it is read."""

    def __init__(self, path, stretch):
        super().__init__(path)
        self._stretch = stretch

    def read(self, size=-1):
        if self.tell() in self._stretch:
            raise OSError("503")
        return super().read(size)


class SeveredSystem:
    """The file system of this machine, with connections that break in a stretch of bytes."""

    def __init__(self, stretch):
        self._system, self._stretch = fsspec.filesystem("file"), stretch

    def __getattr__(self, name):
        return getattr(self._system, name)

    def open(self, name, mode):  # noqa: ARG002 - the signature is fsspec's
        return Severed(name, self._stretch)


def test_an_error_of_the_network_behind_three_row_groups_is_no_damage(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(8)]}), path, row_group_size=2)
    column = pq.read_metadata(path).row_group(3).column(0)
    broken = range(column.dictionary_page_offset or column.data_page_offset, path.stat().st_size)
    config, tally, texts = Hub(dataset="someone/books", files="*.parquet"), Tally(), []
    system = SeveredSystem(broken)
    (partition,) = partitions_in(system, str(tmp_path), config, commit=COMMIT)
    with pytest.raises(DataError, match=r"(?s)a\.parquet.*503"):
        texts.extend(d.text for d in documents_in(system, config, partition, tally))
    assert texts == [f"row {n}" for n in range(6)]
    assert tally.dropped == {}


def test_an_error_of_the_network_while_listing_is_no_mistake_of_the_settings(tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    config = Hub(dataset="someone/books", files="*.parquet")
    with pytest.raises(DataError, match="503") as caught:
        list(partitions_in(SeveredSystem(range(1 << 20)), str(tmp_path), config, commit=COMMIT))
    assert "text_key" not in caught.value.hint


def test_a_damaged_row_group_is_counted_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(8)]}), path, row_group_size=2)
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 16] = b"\xff" * 16  # the header of the group's first page
    path.write_bytes(data)
    documents, tally = read(tmp_path, files="*.parquet")
    assert [d.text for d in documents] == [f"row {n}" for n in (0, 1, 4, 5, 6, 7)]
    assert [(reason, entry["count"]) for reason, entry in tally.dropped.items()] == [("damaged_parquet", 1)]
