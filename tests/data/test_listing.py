"""Listing a source: what web servers leave out is asked for, nothing else is, failures are asked again, a stop is heard."""

import http.server
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatwright.data import pool
from chatwright.data.report import Tally
from chatwright.data.sources import Files, Hub, Listing, iter_partitions, list_partitions, read_partition
from chatwright.data.sources.hub import partitions_in
from chatwright.foundation.errors import DataError, StoppedError, UnreachableError
from chatwright.foundation.stopping import StopFlag

COMMIT = "c0ffee" + "0" * 34


@pytest.fixture
def web_folder(tmp_path):
    """A folder of texts behind a web server of this machine, its address, and what the server was asked."""
    folder, asked = tmp_path / "served", []
    (folder / "texts" / "more").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "more/c.txt"):
        (folder / "texts" / name).write_text(f"text of {name}")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            asked.append(f"{self.command} {self.path}")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield folder / "texts", f"http://127.0.0.1:{server.server_port}/texts/", asked
        server.shutdown()


def test_a_folder_of_a_web_server_that_lists_names_alone_is_read(web_folder):
    pytest.importorskip("aiohttp")
    folder, address, _ = web_folder
    config = Files(path=address)
    (partition,) = list_partitions(config)
    assert [entry["bytes"] for entry in partition.inputs] == [13, 13, 18]
    documents = list(read_partition(config, partition, Tally()))
    assert [(document.path, document.text, document.url) for document in documents] == [
        (name, f"text of {name}", f"{address}{name}") for name in ("a.txt", "b.txt", "more/c.txt")
    ]
    (folder / "b.txt").write_text("another text")
    with pytest.raises(DataError, match=r"`b\.txt` of `texts` changed"):
        list(read_partition(config, partition, Tally()))


@pytest.fixture
def store():
    system = fsspec.filesystem("memory")
    for name in ("a.txt", "b.txt", "c.txt"):
        system.pipe(f"/listed/{name}", b"text")
    yield system
    system.rm("/listed", recursive=True)


def test_no_file_is_asked_for_again_that_was_just_listed(store, monkeypatch):
    asked = []
    monkeypatch.setattr(type(store), "info", lambda self, path, **_: asked.append(path))  # noqa: ARG005
    monkeypatch.setattr(type(store), "isfile", lambda self, path: False)  # noqa: ARG005
    listed = {f"/listed/{name}.txt": {"type": "file", "size": 4, "created": name} for name in "abc"}
    monkeypatch.setattr(type(store), "glob", lambda self, path, **_: listed)  # noqa: ARG005
    (partition,) = list_partitions(Files(path="memory://listed"))
    assert len(partition.inputs) == 3
    assert asked == []


def failing(original, *, times):
    """The same call, which fails so many times before it works."""
    failed = []

    def call(*arguments, **settings):
        if len(failed) < times:
            failed.append(1)
            raise OSError("503")
        return original(*arguments, **settings)

    return call


@pytest.mark.parametrize("method", ["isfile", "glob"])
def test_a_store_that_does_not_answer_while_a_stage_lists_is_asked_again(store, monkeypatch, method):
    monkeypatch.setattr(pool, "_PAUSE_S", 0.0)
    source = Files(path="memory://listed")
    expected = list_partitions(source)
    whole = getattr(type(store), method)
    monkeypatch.setattr(type(store), method, failing(whole, times=pool.READ_ATTEMPTS - 1))
    assert list(iter_partitions(source, Listing(stop=StopFlag()))) == expected
    monkeypatch.setattr(type(store), method, failing(whole, times=pool.READ_ATTEMPTS))
    with pytest.raises(UnreachableError, match=f"attempt {pool.READ_ATTEMPTS} of {pool.READ_ATTEMPTS}"):
        list(iter_partitions(source, Listing(stop=StopFlag())))


def test_a_footer_that_is_not_given_is_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_PAUSE_S", 0.0)
    for name in "ab":
        pq.write_table(pa.table({"text": [name]}), tmp_path / f"{name}.parquet")
    config = Hub(dataset="someone/books", files="*.parquet")
    system = fsspec.filesystem("file", skip_instance_cache=True)
    expected = list(partitions_in(system, str(tmp_path), config, commit=COMMIT))
    system.open = failing(system.open, times=1)
    listing = Listing(stop=StopFlag())
    assert list(partitions_in(system, str(tmp_path), config, commit=COMMIT, listing=listing)) == expected


def test_listing_stops_between_two_files(tmp_path):
    for number in range(3):
        pq.write_table(pa.table({"text": ["x" * 100]}), tmp_path / f"{number}.parquet")
    stop = StopFlag()
    stop.requested = True
    for source in (Files(path=str(tmp_path)), Hub(dataset="someone/books", files="*.parquet", revision=COMMIT)):
        with pytest.raises(StoppedError):
            list(iter_partitions(source, Listing(stop=stop)))


def test_a_file_is_looked_into_when_its_partitions_are_taken(tmp_path):
    for name in "ab":
        pq.write_table(pa.table({"text": [name] * 4}), tmp_path / f"{name}.parquet", row_group_size=1)
    listing = Listing()
    partitions = iter_partitions(Files(path=str(tmp_path)), listing)
    (tmp_path / "b.parquet").write_bytes(b"no table any more")  # nobody has looked yet
    listing.names_suffice = True
    (partition,) = partitions
    assert [entry["path"] for entry in partition.inputs] == ["a.parquet", "b.parquet"]
    assert "group" not in partition.inputs[0]
