"""Listing a source: what web servers leave out is asked for, nothing else is, failures are asked again, a stop is heard."""

import http.server
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatwright.data import limits, pool
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


class Watched:
    """The file system of this machine, which notes what is opened and how many are being opened at the same time."""

    def __init__(self, *, together=()):
        self._system, self._lock = fsspec.filesystem("file"), threading.Lock()
        self._together, self._met = together, threading.Barrier(max(1, len(together)))
        self.opened, self.most, self._within = [], 0, 0

    def __getattr__(self, name):
        return getattr(self._system, name)

    def open(self, name, mode):
        number = int(name[-10:-8])
        with self._lock:
            self.opened.append(number)
            self._within += 1
            self.most = max(self.most, self._within)
        if number in self._together:
            self._met.wait(timeout=20.0)  # until all of them are asked for; alone, it breaks
        with self._lock:
            self._within -= 1
        return self._system.open(name, mode)


@pytest.fixture
def tables(tmp_path):
    for number in range(24):
        pq.write_table(pa.table({"text": [f"text {number}"]}), tmp_path / f"{number:02}.parquet")
    return tmp_path


def listed(system, folder, listing=None, **settings):
    config = Hub(dataset="someone/books", files="*.parquet", **settings)
    return partitions_in(system, str(folder), config, commit=COMMIT, listing=listing)


def test_footers_are_read_eight_at_a_time_and_given_in_the_order_of_files(tables):
    system = Watched(together=range(7, 15))
    assert list(listed(system, tables)) == list(listed(fsspec.filesystem("file"), tables))
    assert (system.most, sorted(system.opened)) == (8, list(range(24)))


@pytest.mark.parametrize(("documents", "most"), [(1, 1), (2, 3), (4, 7), (10, 17)])
def test_no_more_footers_are_read_ahead_than_were_needed(tables, documents, most):
    system = Watched()
    (partition,) = listed(system, tables, max_documents=documents)
    assert [entry["path"] for entry in partition.inputs] == [f"{number:02}.parquet" for number in range(documents)]
    assert set(system.opened) <= set(range(most))


def test_a_broken_file_behind_the_last_that_is_needed_does_not_matter(tables, monkeypatch):
    (tables / "02.parquet").write_bytes(b"no table")
    assert [len(one.inputs) for one in listed(Watched(), tables, max_documents=2)] == [2]
    monkeypatch.setattr(limits, "PARTITION_BYTES", 0)
    listing, system = Listing(), Watched()
    partitions = listed(system, tables, listing)
    assert next(partitions).label.startswith("00.parquet")  # and the second file is known, too
    listing.names_suffice = True
    paths = [entry["path"] for one in partitions for entry in one.inputs]
    assert paths == [f"{number:02}.parquet" for number in range(1, 24)]
    assert set(system.opened) == {0, 1, 2}


def test_a_broken_file_that_was_read_ahead_is_named_when_its_turn_comes(tables, monkeypatch):
    (tables / "05.parquet").write_bytes(b"no table")
    monkeypatch.setattr(limits, "PARTITION_BYTES", 0)
    partitions = listed(Watched(), tables)
    assert [next(partitions).label[:2] for _ in range(4)] == ["00", "01", "02", "03"]
    with pytest.raises(DataError, match=r"05\.parquet"):
        list(partitions)


def test_a_stop_is_heard_while_footers_are_read_ahead(tables, monkeypatch):
    monkeypatch.setattr(limits, "PARTITION_BYTES", 0)
    stop = StopFlag()
    partitions = listed(Watched(), tables, Listing(stop=stop))
    next(partitions)
    stop.requested = True
    with pytest.raises(StoppedError):
        next(partitions)


def test_footers_in_a_store_are_read_several_at_once(store, tables, monkeypatch):
    for name in ("0.parquet", "1.parquet", "2.parquet"):
        store.pipe(f"/listed/{name}", (tables / f"0{name}").read_bytes())
    store.pipe("/listed/3.parquet", b"no table")
    source = Files(path="memory://listed")
    expected = list_partitions(source)
    met, whole = threading.Barrier(2), type(store).open

    def opened(self, path, *arguments, **settings):
        if path.endswith(("1.parquet", "2.parquet")):
            met.wait(timeout=20.0)
        return whole(self, path, *arguments, **settings)

    monkeypatch.setattr(type(store), "open", opened)
    assert list_partitions(source) == expected
    paths = [entry["path"] for one in expected for entry in one.inputs]
    assert paths == [*(f"{number}.parquet" for number in range(4)), "a.txt", "b.txt", "c.txt"]
    assert ["group" in entry for one in expected for entry in one.inputs] == [True] * 3 + [False] * 4
