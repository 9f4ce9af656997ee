import io
import subprocess
import sys
import threading
import time
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from drop_reasons import reasons

from chatwright.data import licences, limits
from chatwright.data.formats import reading
from chatwright.data.formats.books import read_book
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources import Files, list_partitions, places, read_partition
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DataError, StorageFullError


def collect(path, **settings):
    config = Files(path=str(path), **settings)
    tally = Tally()
    return [d for partition in list_partitions(config) for d in read_partition(config, partition, tally)], tally


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def write_docx(path, body, *, head=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("word/document.xml", f"{head}<w:document {W}><w:body>{body}</w:body></w:document>")
        about = (
            '<cp:core xmlns:cp="c" xmlns:dc="d"><dc:title>Letter</dc:title><dc:language>en-GB</dc:language></cp:core>'
        )
        file.writestr("docProps/core.xml", about)


def paragraph(text):
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_a_docx_gives_paragraphs_and_rows_and_no_deleted_words(tmp_path):
    cells = "".join(f"<w:tc>{paragraph(word)}</w:tc>" for word in ("tea", "2.50"))
    deleted = "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:t>kept</w:t><w:tab/><w:t>on</w:t></w:r></w:p>"
    write_docx(tmp_path / "a.docx", paragraph("Dear all,") + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>" + deleted)
    book = read_book(str(tmp_path / "a.docx"))
    assert [chapter["text"] for chapter in book["chapters"]] == ["Dear all,\ntea \t2.50\nkept\ton"]
    assert (book["title"], book["language"]) == ("Letter", "en")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"PK nothing", "damaged_docx"), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 100, "encrypted")]
)
def test_a_docx_that_is_none_says_why(tmp_path, content, reason):
    (tmp_path / "a.docx").write_bytes(content)
    with pytest.raises(Unreadable) as caught:
        read_book(str(tmp_path / "a.docx"))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("body", "head", "reason"),
    [
        ("", '<!DOCTYPE x [<!ENTITY a "b">]>', "damaged_docx"),
        ("<w:p>", "", "damaged_docx"),
        ("", "", "no_text"),
        (" " * (4 << 20), "", "compression_ratio"),
    ],
)
def test_a_hostile_docx_is_refused(tmp_path, body, head, reason):
    write_docx(tmp_path / "a.docx", body, head=head)
    with pytest.raises(Unreadable) as caught:
        read_book(str(tmp_path / "a.docx"))
    assert caught.value.reason == reason


def test_a_docx_of_deep_nesting_is_read(tmp_path):
    write_docx(tmp_path / "a.docx", "<w:sdt>" * 3_000 + paragraph("deep") + "</w:sdt>" * 3_000)
    assert read_book(str(tmp_path / "a.docx"))["chapters"][0]["text"] == "deep"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_table_is_found_in_its_header(tmp_path, delimiter):
    rows = [["id", "text", "licence", "url"], ["1", '"a ""quoted""\nline"', "CC BY 4.0", "https://a.example/1"]]
    (tmp_path / "a.csv").write_text("\n".join(delimiter.join(row) for row in rows))
    documents, tally = collect(tmp_path)
    assert [(d.text, d.path, d.licence, d.url) for d in documents] == [
        ('a "quoted"\nline', "a.csv#2", "CC-BY-4.0", "https://a.example/1")
    ]
    assert documents[0].licence_evidence == "column `licence`: CC BY 4.0"
    assert tally.dropped == {}


def test_bad_rows_are_counted_and_the_rest_read(tmp_path):
    lines = [b"\xef\xbb\xbftext,id", b"good,1", b"short", b"bad \xff,2", b'"odd" quote,3', b"last,4"]
    (tmp_path / "a.csv").write_bytes(b"\r\n".join(lines))
    documents, tally = collect(tmp_path)
    assert [d.text for d in documents] == ["good", "last"]
    assert reasons(tally) == {"invalid_csv": ["a.csv:3", "a.csv:5"], "invalid_utf8": ["a.csv:4"]}


def test_a_record_that_does_not_end_is_counted_within_bounded_memory(tmp_path, monkeypatch):
    """Each field stays below the limit of a field; the quotes carry the record over the lines."""
    monkeypatch.setattr(limits, "MAX_LINE_BYTES", 200)
    endless = "".join(f'"{"x" * 90}\n{"x" * 90}",' for _ in range(20))
    (tmp_path / "a.csv").write_text(f"id,text\n1,good\n{endless}\n2,last\n")
    documents, tally = collect(tmp_path)
    assert documents[0].text == "good"
    assert tally.dropped["line_too_long"]["examples"][0]["path"] == "a.csv:3"
    assert max(len(document.text) for document in documents) <= 200


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"', "\0" * 50])
def test_a_table_without_the_column_is_counted(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    assert reasons(collect(tmp_path)[1]) == {"no_text_key": ["a.csv"]}


def page(role, words):
    return f'</p></body></html><html><body epub:type="x"><section epub:type="{role}"><h2>H</h2><p>{words}'


def test_front_matter_and_licence_pages_of_a_book_are_counted(tmp_path, write_epub, prose):
    write_epub(
        tmp_path / "b.epub",
        chapters={
            "titlepage.xhtml": "Harbour",
            "copyright.xhtml": f"All rights reserved. {prose}",
            "part-1.xhtml": "Part One",
            "x1.xhtml": f'He went<a epub:type="noteref" href="#n">12</a> away. {prose}',
            "x2.xhtml": prose,
        },
    )
    book = read_book(str(tmp_path / "b.epub"))
    assert [chapter["place"] for chapter in book["chapters"]] == ["OPS/text/x1.xhtml", "OPS/text/x2.xhtml"]
    assert "He went away." in book["chapters"][0]["text"]
    assert {page["place"].rsplit("/")[-1]: page["reason"] for page in book["dropped"]} == {
        "titlepage.xhtml": "front_matter",
        "copyright.xhtml": "licence_page",
        "part-1.xhtml": "heading_only",
    }


@pytest.mark.parametrize("name", ["index.xhtml", "contents.xhtml", "copyright.xhtml"])
def test_a_file_name_alone_takes_no_whole_book(tmp_path, write_epub, name, prose):
    write_epub(tmp_path / "b.epub", chapters={name: prose})
    book = read_book(str(tmp_path / "b.epub"))
    assert [chapter["place"] for chapter in book["chapters"]] == [f"OPS/text/{name}"]
    assert book["dropped"] == []


@pytest.mark.parametrize(("times", "is_kept"), [(1, False), (3, True), (30, True)])
def test_a_file_name_decides_only_for_a_short_page_beside_longer_chapters(tmp_path, write_epub, times, is_kept, prose):
    write_epub(tmp_path / "b.epub", chapters={"a.xhtml": prose * 2, "index.xhtml": prose * times})
    book = read_book(str(tmp_path / "b.epub"))
    places = [chapter["place"].rsplit("/")[-1] for chapter in book["chapters"]]
    assert places == ["a.xhtml", "index.xhtml"][: 1 + is_kept]
    assert [page["reason"] for page in book["dropped"]] == ["front_matter"] * (not is_kept)


@pytest.mark.slow
def test_pages_that_are_no_part_of_the_work_are_counted_also_where_nothing_is_left(tmp_path, write_epub):
    write_epub(tmp_path / "b.epub", chapters={"part-1.xhtml": "Part One", "titlepage.xhtml": "Harbour"})
    documents, tally = collect(tmp_path)
    assert documents == []
    assert reasons(tally) == {
        "heading_only": ["b.epub#OPS/text/part-1.xhtml"],
        "front_matter": ["b.epub#OPS/text/titlepage.xhtml"],
        "no_text": ["b.epub"],
    }


def test_the_chapters_of_a_book_have_a_limit_together(tmp_path, write_epub, prose, monkeypatch):
    monkeypatch.setattr(limits, "MAX_DOCUMENT_CHARACTERS", len(prose) * 3)
    write_epub(tmp_path / "b.epub", chapters={"a.xhtml": prose * 2, "b.xhtml": prose * 2})
    with pytest.raises(Unreadable, match="too_large"):
        read_book(str(tmp_path / "b.epub"))


def damage(path, *names):
    """Turn bytes in the middle of members of a zip, so that their checksums fail."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for info in map(archive.getinfo, names):
            begin = info.header_offset + 30 + len(info.filename)
            data[begin + info.compress_size // 2] ^= 0xFF
    path.write_bytes(data)


def test_pages_of_a_book_that_cannot_be_read_are_counted_and_the_rest_kept(tmp_path, write_epub, prose):
    write_epub(tmp_path / "b.epub", chapters={"a.xhtml": prose, "b.xhtml": prose, "c.xhtml": " " * (4 << 20)})
    damage(tmp_path / "b.epub", "OPS/text/b.xhtml")
    book = read_book(str(tmp_path / "b.epub"))
    assert [chapter["place"] for chapter in book["chapters"]] == ["OPS/text/a.xhtml"]
    assert book["dropped"] == [
        {"place": "OPS/text/b.xhtml", "reason": "damaged_epub", "characters": 0},
        {"place": "OPS/text/c.xhtml", "reason": "compression_ratio", "characters": 0},
    ]


def test_a_book_of_which_no_page_can_be_read_says_why(tmp_path, write_epub, prose):
    write_epub(tmp_path / "b.epub", chapters={"a.xhtml": prose, "titlepage.xhtml": "Harbour"})
    damage(tmp_path / "b.epub", "OPS/text/a.xhtml")
    with pytest.raises(Unreadable, match="damaged_epub"):
        read_book(str(tmp_path / "b.epub"))


def test_pages_that_swell_are_paid_from_the_budget_of_the_book(tmp_path, write_epub, prose, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ARCHIVE_BYTES", 3 << 20)
    swelling = {f"{number}.xhtml": " " * (4 << 20) for number in range(4)}
    write_epub(tmp_path / "b.epub", chapters={"0-first.xhtml": prose, **swelling, "z.xhtml": prose})
    book = read_book(str(tmp_path / "b.epub"))
    assert [chapter["place"] for chapter in book["chapters"]] == ["OPS/text/0-first.xhtml"]
    assert [page["reason"] for page in book["dropped"]] == ["compression_ratio"] * 5


def test_a_page_of_a_pdf_that_cannot_be_read_is_counted_and_the_rest_kept(tmp_path, write_pdf):
    path = tmp_path / "p.pdf"
    write_pdf(path, ["Hello from a page"])
    path.write_bytes(path.read_bytes().replace(b"/Kids[3 0 R]/Count 1", b"/Kids[9 0 R 3 0 R]/Count 2"))
    book = read_book(str(path))
    assert [chapter["text"] for chapter in book["chapters"]] == ["Hello from a page"]
    assert book["dropped"] == [{"place": "1", "reason": "damaged_pdf", "characters": 0}]
    write_pdf(path, [])
    path.write_bytes(path.read_bytes().replace(b"/Kids[3 0 R]/Count 1", b"/Kids[9 0 R 3 0 R]/Count 2"))
    with pytest.raises(Unreadable, match="damaged_pdf"):
        read_book(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("books", ["book", "chapter"])
def test_a_book_is_one_document_or_one_a_chapter(tmp_path, write_epub, books, prose):
    write_epub(tmp_path / "b.epub", chapters={"a.xhtml": prose, "b.xhtml": prose, "colophon.xhtml": prose})
    documents, tally = collect(tmp_path, books=books)
    expected = {"book": ["b.epub"], "chapter": ["b.epub#OPS/text/a.xhtml", "b.epub#OPS/text/b.xhtml"]}
    assert [d.path for d in documents] == expected[books]
    assert reasons(tally) == {"front_matter": ["b.epub#OPS/text/colophon.xhtml"]}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("https://creativecommons.org/licenses/by-sa/4.0/deed.en", "CC-BY-SA-4.0"),
        ("under CC0 1.0 Universal", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("CC BY-NC-SA 3.0", "CC-BY-NC-SA-3.0"),
        ("All rights reserved", ""),
    ],
)
def test_licences_are_told_from_words_and_addresses(words, name):
    assert licences.recognise(words) == name


def test_the_licence_of_a_page_is_the_one_it_links_to():
    html = '<p>text</p><a href="/license">x</a> <a rel="nofollow license" href="https://creativecommons.org/licenses/by/4.0/">'
    assert licences.licence_of_page(html) == licences.Licence(
        "CC-BY-4.0", "page: rel=license https://creativecommons.org/licenses/by/4.0/"
    )
    assert licences.licence_of_page('<a href="https://creativecommons.org/licenses/by/4.0/">a license</a>') is None


@pytest.mark.parametrize("piece", ["<a ", '<a rel="', "<a rel=license href=", "license", 'rel="licen', "noteref"])
def test_looking_for_a_licence_takes_linear_time(piece):
    text = piece * ((1 << 20) // len(piece)) + ' license"'
    began = time.process_time()
    licences.licence_of_page(text)
    licences.recognise(text)
    assert time.process_time() - began < 1.0


@pytest.fixture
def store():
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/bucket", recursive=True)


def test_a_folder_of_a_store_is_read_like_one_of_this_machine(store, tmp_path):
    for name, text in (("b.txt", "two"), ("sub/a.txt", "one"), (".hidden.txt", "no"), ("c.bin", "x")):
        store.pipe(f"/bucket/{name}", text.encode())
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    remote, tally = collect("memory://bucket")
    local, _ = collect(tmp_path)
    assert (
        [(d.path, d.text) for d in remote]
        == [(d.path, d.text) for d in local]
        == [("b.txt", "two"), ("sub/a.txt", "one")]
    )
    assert reasons(tally) == {"unsupported_format": ["c.bin"]}
    assert {(d.domain, d.source) for d in remote} == {("bucket", "files:memory://bucket")}
    assert [d.text for d in collect("memory://bucket/sub/a.txt")[0]] == ["one"]


def test_an_object_that_changes_while_collecting_stops(store):
    store.pipe("/bucket/a.txt", b"before")
    config = Files(path="memory://bucket")
    partition = list_partitions(config)[0]
    store.pipe("/bucket/a.txt", b"after all")
    with pytest.raises(DataError, match="changed"):
        list(read_partition(config, partition, Tally()))


@pytest.mark.parametrize("failure", [OSError("503"), RuntimeError("503: a class of the client's own")])
@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.warc", "a.txt", "a.jsonl", "a.csv", "a.txt.gz", "a.txt.zst"])
def test_an_error_of_the_network_is_never_counted_as_damage(store, monkeypatch, name, failure):
    store.pipe(f"/bucket/{name}", b"whatever stands there")
    config = Files(path="memory://bucket")
    (partition,) = list_partitions(config)

    def fail(*arguments):  # noqa: ARG001 - the signature is the file's
        raise failure

    for method in ("read", "readline"):
        monkeypatch.setattr(fsspec.implementations.memory.MemoryFile, method, fail)
    tally = Tally()
    with pytest.raises(DataError, match=name) as caught:
        list(read_partition(config, partition, tally))
    assert "503" in str(caught.value)
    assert tally.dropped == {}


def test_an_error_of_the_network_while_listing_a_table_stops(store, monkeypatch):
    store.pipe("/bucket/a.parquet", b"whatever stands there")

    def fail(*arguments):  # noqa: ARG001 - the signature is the file's
        raise OSError("503")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFile, "read", fail)
    with pytest.raises(DataError, match="503"):
        list_partitions(Files(path="memory://bucket"))


def test_an_error_of_the_disk_is_named_with_its_file(tmp_path):
    (tmp_path / "a.tar").symlink_to("/proc/self/mem")  # opens like any file, and its first page cannot be read
    with places.place_of(str(tmp_path)).open("a.tar") as file, pytest.raises(DataError, match=r"a\.tar"):
        file.read(512)


def test_documents_come_over_https_extras_client(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "a.txt").write_text("over the wire")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        documents, _ = collect(f"{address}/a.txt")
        with pytest.raises(DataError, match=r"missing\.txt"):
            collect(f"{address}/missing.txt")
        server.shutdown()
    assert [(d.text, d.path, d.url) for d in documents] == [("over the wire", "a.txt", f"{address}/a.txt")]


def test_a_missing_client_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(places._SCHEMES, "s3", ("a_client_that_is_not_installed", "s3"))
    with pytest.raises(DataError, match="s3://bucket/x") as caught:
        collect("s3://bucket/x")
    assert "chatwright[s3]" in caught.value.hint


def test_unknown_schemes_are_refused_with_the_known_ones():
    for path in ("gopher://x", "git://x", "zip://a::s3://b", ""):
        with pytest.raises(ConfigError):
            validate(Files, {"path": path}, where="x")


def test_the_core_reads_without_the_extras():
    code = (
        "import sys; sys.modules.update(aiohttp=None, mwparserfromhell=None, s3fs=None, gcsfs=None);"
        "import chatwright.data.collect"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_disk_that_is_full_of_temporary_copies_is_no_fault_of_the_document():
    with open("/dev/full", "wb") as copy, pytest.raises(StorageFullError):
        reading._copy(io.BytesIO(b"x" * 100_000), copy)
