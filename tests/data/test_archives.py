import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import time
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drop_reasons import reasons

from chatwright.data import limits
from chatwright.data.report import Tally
from chatwright.data.sources import Files, list_partitions, read_partition


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {
    "gz": lambda data: gzip.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),  # in blocks of 100 kB
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": zstd,
}
REASONS = {"gz": "damaged_gzip", "bz2": "damaged_bzip2", "xz": "damaged_xz", "zst": "damaged_zstd"}


def collect(folder, **settings):
    config = Files(path=str(folder), **settings)
    tally = Tally()
    return [d for partition in list_partitions(config) for d in read_partition(config, partition, tally)], tally


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)


def tar_of(members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", sorted(PACKERS))
def test_packed_texts_tables_and_lines_are_read(tmp_path, kind):
    pack = PACKERS[kind]
    (tmp_path / f"a.txt.{kind}").write_bytes(pack(b"packed text"))
    (tmp_path / f"b.jsonl.{kind}").write_bytes(pack(b'{"text": "packed line"}'))
    (tmp_path / f"c.csv.{kind}").write_bytes(pack(b"id,text\n1,packed row\n"))
    (tmp_path / f"d.html.{kind}").write_bytes(pack(b"<p>packed page"))
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["packed text", "packed line", "packed row", "<p>packed page"]
    assert tally.dropped == {}


@pytest.mark.parametrize("kind", sorted(PACKERS))
def test_streams_one_behind_the_other_are_one_text(tmp_path, kind):
    (tmp_path / f"a.txt.{kind}").write_bytes(PACKERS[kind](b"one ") + PACKERS[kind](b"two"))
    assert [d.text for d in collect(tmp_path)[0]] == ["one two"]


@pytest.mark.parametrize("kind", sorted(PACKERS))
def test_a_cut_stream_is_counted_and_its_first_lines_kept(tmp_path, kind):
    lines = b"".join(b'{"text": "%s"}\n' % os.urandom(60).hex().encode() for _ in range(4_000))
    (tmp_path / f"a.jsonl.{kind}").write_bytes(PACKERS[kind](lines)[:-9_000])
    documents, tally = collect(tmp_path)
    assert 500 < len(documents) < 4_000
    assert reasons(tally)[REASONS[kind]] == [f"a.jsonl.{kind}"]


@pytest.mark.parametrize("kind", sorted(PACKERS))
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.tar"])
def test_a_bomb_is_stopped_within_a_second(tmp_path, kind, name):
    (tmp_path / f"{name}.{kind}").write_bytes(PACKERS[kind](b"\0" * (30 << 20)))
    began = time.process_time()
    documents, tally = collect(tmp_path)
    assert documents == []
    assert set(tally.dropped) == {"no_text" if name == "a.tar" else "compression_ratio"}  # zeros end a tar at once
    assert time.process_time() - began < 1.0


def test_an_xz_stream_that_asks_for_too_much_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_XZ_MEMORY_BYTES", 1 << 20)
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"x", preset=6))  # whose decoder needs 8 MiB
    assert reasons(collect(tmp_path)[1]) == {"damaged_xz": ["a.txt.xz"]}


def test_members_of_archives_are_documents_with_their_place(tmp_path):
    write_zip(tmp_path / "a.zip", [("in/b.txt", "zipped"), ("c.jsonl", '{"text": "line"}'), ("empty/", "")])
    (tmp_path / "d.tar.gz").write_bytes(gzip.compress(tar_of([("e.md", b"tarred"), ("f.csv", b"text\nrow\n")])))
    (tmp_path / "g.tgz").write_bytes(gzip.compress(tar_of([("h.txt.bz2", bz2.compress(b"packed twice"))])))
    documents, tally = collect(tmp_path)
    assert [(d.path, d.text) for d in documents] == [
        ("a.zip!/in/b.txt", "zipped"),
        ("a.zip!/c.jsonl#1", "line"),
        ("d.tar.gz!/e.md", "tarred"),
        ("d.tar.gz!/f.csv#2", "row"),
        ("g.tgz!/h.txt.bz2", "packed twice"),
    ]
    assert tally.dropped == {}


def test_an_archive_in_an_archive_is_read_and_a_third_is_not(tmp_path):
    inner = io.BytesIO()
    write_zip(inner, [("x.txt", "deep")])
    deepest = tar_of([("y.zip", inner.getvalue())])
    write_zip(tmp_path / "a.zip", [("b.zip", inner.getvalue()), ("c.tar", deepest)])
    documents, tally = collect(tmp_path)
    assert [(d.path, d.text) for d in documents] == [("a.zip!/b.zip!/x.txt", "deep")]
    assert reasons(tally) == {"archive_too_deep": ["a.zip!/c.tar!/y.zip"]}


@pytest.mark.slow
def test_books_and_tables_in_archives_are_read(tmp_path, write_epub, prose):
    write_epub(tmp_path / "b.epub")
    pq.write_table(pa.table({"text": ["cell"]}), tmp_path / "t.parquet")
    write_zip(tmp_path / "a.zip", [(n, (tmp_path / n).read_bytes()) for n in ("b.epub", "t.parquet")])
    documents, tally = collect(tmp_path, include=("a.zip",))
    assert [(d.path, d.title) for d in documents] == [("a.zip!/b.epub", "Harbour"), ("a.zip!/t.parquet#0", "")]
    assert documents[1].text == "cell"
    assert tally.dropped == {}


def test_names_lead_nowhere(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["../../out.txt", "/abs.txt", "..\\win.txt"]
    write_zip(folder / "a.zip", [(name, name) for name in names])
    (folder / "b.tar").write_bytes(tar_of([(name, name.encode()) for name in names]))
    documents, tally = collect(folder)
    assert sorted(d.text for d in documents) == sorted(names * 2)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "b.tar", "in"]
    assert tally.dropped == {}


def test_links_devices_and_hidden_members_are_counted(tmp_path):
    link, device = tarfile.TarInfo("link.txt"), tarfile.TarInfo("null.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type = tarfile.CHRTYPE
    (tmp_path / "a.tar").write_bytes(tar_of([(link, b""), (device, b""), ("__MACOSX/._a.txt", b"x"), ("b.txt", b"b")]))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        info = zipfile.ZipInfo("link.txt")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["b"]
    assert reasons(tally) == {
        "link_in_archive": ["a.tar!/link.txt", "c.zip!/link.txt"],
        "not_a_file": ["a.tar!/null.txt"],
        "hidden_file": ["a.tar!/__MACOSX/._a.txt"],
    }


def test_members_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of([("x.txt", b"1"), ("x.txt", b"2")]))
    documents, _ = collect(tmp_path)
    assert [(d.path, d.text) for d in documents] == [("a.tar!/x.txt", "1"), ("a.tar!/x.txt~2", "2")]
    assert len({d.id for d in documents}) == 2


def test_an_encrypted_member_is_counted_and_the_rest_read(tmp_path):
    write_zip(tmp_path / "a.zip", [("secret.txt", "s"), ("open.txt", "o")])
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of the first member in the directory
    (tmp_path / "a.zip").write_bytes(data)
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["o"]
    assert reasons(tally) == {"encrypted": ["a.zip!/secret.txt"]}


def test_members_that_share_their_bytes_are_stopped(tmp_path):
    """A zip bomb of overlapping members: every entry of the directory points to the same megabyte."""
    write_zip(tmp_path / "a.zip", [("a.txt", b"x" * (1 << 20))])
    data = (tmp_path / "a.zip").read_bytes()
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[at:end]
    tail = bytearray(data[end:])
    tail[8:12] = (50).to_bytes(2, "little") * 2
    tail[12:16] = (50 * len(entry)).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data[:at] + entry * 50 + tail)
    documents, tally = collect(tmp_path)
    assert len(documents) <= 1
    assert set(tally.dropped) <= {"compression_ratio", "damaged_zip"}
    assert tally.dropped


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_CORPUS_ARCHIVE_MEMBERS", 2)
    (tmp_path / "a.tar").write_bytes(tar_of([(f"{n}.txt", b"x") for n in range(4)]))
    documents, tally = collect(tmp_path)
    assert len(documents) == 2
    assert reasons(tally) == {"too_many_members": ["a.tar"]}


def test_a_directory_of_gigabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ARCHIVE_DIRECTORY_BYTES", 100)
    write_zip(tmp_path / "a.zip", [(f"{n}.txt", "x") for n in range(4)])
    assert reasons(collect(tmp_path)[1]) == {"too_many_members": ["a.zip"]}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", b"PK\x03\x04 nothing", "damaged_zip"),
        ("a.zip", b"", "damaged_zip"),
        ("a.tar", b"no tar at all" * 100, "damaged_tar"),
        ("a.tar", tar_of([("x.txt", b"x" * 5_000)])[:3_000], "damaged_tar"),
        ("a.tar.gz", gzip.compress(tar_of([("x.txt", os.urandom(50_000))]))[:-20_000], "damaged_gzip"),
    ],
)
def test_a_damaged_archive_is_counted_and_the_folder_goes_on(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.txt").write_text("good")
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["good"]
    assert set(tally.dropped) == {reason}


def test_a_header_that_claims_a_gigabyte_is_refused(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 10_240)
    assert reasons(collect(tmp_path)[1]) == {"damaged_tar": ["a.tar"]}


def test_a_zip_that_points_before_its_own_beginning_is_counted_as_damaged(tmp_path):
    write_zip(tmp_path / "a.zip", [("a.txt", "x")])
    data = bytearray((tmp_path / "a.zip").read_bytes())
    at = data.index(b"PK\x05\x06") + 16
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "little") + 50).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    assert set(collect(tmp_path)[1].dropped) == {"damaged_zip"}


SIX = tar_of([(f"{n}.txt", f"text {n}".encode()) for n in range(6)])  # a block of header and one of text for each


@pytest.mark.parametrize(
    "data",
    [
        SIX[: 3 * 1024 + 10] + bytes([SIX[3 * 1024 + 10] ^ 0xFF]) + SIX[3 * 1024 + 11 :],
        SIX[: 3 * 1024 + 100],
        SIX[: 3 * 1024],
    ],
    ids=["a damaged header", "a cut header", "no end mark"],
)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_that_ends_at_no_end_mark_is_counted_and_its_first_members_kept(tmp_path, name, data):
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["text 0", "text 1", "text 2"]
    assert reasons(tally) == {"damaged_tar": [name]}
    assert "end mark" in tally.dropped["damaged_tar"]["examples"][0]["detail"]


@pytest.mark.parametrize(
    ("data", "kept", "dropped"),
    [(SIX, 6, {}), (SIX[: 6 * 1024 + 512], 6, {}), (b"\0" * 10_240, 0, {"no_text": ["a.tar"]})],
    ids=["sound", "one zero block", "nothing but zeros"],
)
def test_a_tar_that_ends_at_its_end_mark_is_sound(tmp_path, data, kept, dropped):
    (tmp_path / "a.tar").write_bytes(data)
    documents, tally = collect(tmp_path)
    assert (len(documents), reasons(tally)) == (kept, dropped)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [0, 511, 512, 513, 1024])
def test_members_of_whole_and_part_blocks_end_at_the_end_mark(tmp_path, form, size):
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for name in ("ä" * 120 + ".txt" if form != tarfile.USTAR_FORMAT else "a.txt", "b.txt"):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(b"x" * size))
    documents, tally = collect(tmp_path)
    assert [len(d.text) for d in documents] == [size, size]
    assert tally.dropped == {}


ALL_ONES = (0xFFFF, 0xFFFFFFFF)


def with_large_record(path, *, plain=None, points_to=None, comment=b""):
    """Put a true zip64 record into an archive of four members; `plain`: what its end record says instead of the truth.

    Returns:
        How many members its directory has, and how many bytes.
    """
    write_zip(path, [(f"{n}.txt", f"text {n}") for n in range(4)])
    data = path.read_bytes()
    at = data.index(b"PK\x05\x06")
    _, _, _, _, count, size, offset, _ = struct.unpack("<4s4H2LH", data[at:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    pointer = struct.pack("<4sLQL", b"PK\x06\x07", 0, at if points_to is None else points_to, 1)
    told = plain or (count, size)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, told[0], *told, offset, len(comment))
    path.write_bytes(data[:at] + record + pointer + end + comment)
    return count, size


@pytest.mark.parametrize(("plain", "points_to"), [(None, None), (ALL_ONES, None), (ALL_ONES, 1 << 63)])
def test_an_archive_with_the_record_of_large_ones_is_read(tmp_path, plain, points_to):
    with_large_record(tmp_path / "a.zip", plain=plain, points_to=points_to)
    documents, tally = collect(tmp_path)
    assert [document.text for document in documents] == [f"text {n}" for n in range(4)]
    assert tally.dropped == {}


def test_the_limit_on_a_directory_holds_whatever_its_end_records_say(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ARCHIVE_DIRECTORY_BYTES", 100)
    assert with_large_record(tmp_path / "plain.zip", plain=(4, 50))[1] > 100
    false_record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 4, 4, 50, 0)
    with_large_record(tmp_path / "comment.zip", plain=ALL_ONES, comment=false_record)
    with_large_record(tmp_path / "equal.zip")
    documents, tally = collect(tmp_path)
    assert documents == []
    assert reasons(tally) == {"damaged_zip": ["plain.zip"], "too_many_members": ["comment.zip", "equal.zip"]}


def test_two_records_of_large_archives_that_differ_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    with_large_record(path, plain=ALL_ONES)
    false_record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 4, 4, 50, 0)
    data = path.read_bytes()
    at = data.index(b"PK\x06\x07")
    pointer = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    path.write_bytes(false_record + data[:at] + pointer + data[at + len(pointer) :])
    assert reasons(collect(tmp_path)[1]) == {"damaged_zip": ["a.zip"]}
