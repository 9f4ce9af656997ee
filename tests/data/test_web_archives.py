import gzip

import pytest
from drop_reasons import reasons

from chatwright.data import limits
from chatwright.data.report import Tally
from chatwright.data.sources import Files, Warc, list_partitions, read_partition
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DataError


def record(
    url, body=b"<p>page", *, kind="response", status=200, head="Content-Type: text/html; charset=utf-8", warc=""
):
    http = f"HTTP/1.1 {status} OK\r\n{head}\r\n\r\n".encode() + body
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Target-URI: {url}",
        "WARC-Date: 2026-01-02T03:04:05Z",
        "WARC-Record-ID: <urn:uuid:12345678-1234-1234-1234-123456789abc>",
        *([warc] if warc else []),
        "Content-Type: application/http; msgtype=response",
        f"Content-Length: {len(http)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + http + b"\r\n\r\n"


def collect(config):
    tally = Tally()
    return [d for one in list_partitions(config) for d in read_partition(config, one, tally)], tally


def test_pages_of_an_archive_keep_where_and_when_they_were_fetched(tmp_path):
    licence = b'<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">x</a>'
    (tmp_path / "a.warc.gz").write_bytes(
        gzip.compress(record("https://a.example/1", b"<p>one" + licence))
        + gzip.compress(record("https://a.example/1", b"GET", kind="request"))
        + gzip.compress(record("https://a.example/2", b"two", head="Content-Type: text/plain\r\nTDM-Reservation: 1"))
    )
    documents, tally = collect(Warc(path=str(tmp_path), reserved="keep"))
    assert [(d.media, d.url, d.path, d.tdm) for d in documents] == [
        ("html", "https://a.example/1", "a.warc.gz#1", ""),
        ("text", "https://a.example/2", "a.warc.gz#2", "reserved"),
    ]
    assert {d.fetched for d in documents} == {"2026-01-02T03:04:05Z"}
    assert (documents[0].licence, documents[1].licence) == ("CC-BY-4.0", "unknown")
    assert "rel=license" in documents[0].licence_evidence
    assert tally.dropped == {}


SAID = {
    "silent": ("", b"<p>page"),
    "header": ("X-Robots-Tag: nofollow\r\nX-Robots-Tag: chatwright: noindex", b"<p>page"),
    "other": ("X-Robots-Tag: otherbot: noindex", b"<p>page"),
    "meta": ("", b"<META content='all, NOINDEX' name=robots><p>page"),
    "twice": ("", b'<meta name="robots" content="follow"><meta name="Robots" content="none"><p>page'),
    "noai": ("X-Robots-Tag: noai", b"<p>page"),
    "meta-noai": ("", b'<meta name="robots" content="noai, noimageai"><p>page'),
    "usage": ("Content-Usage: train-ai=n", b"<p>page"),
    "tdm": ("TDM-Reservation: 1", b"<p>page"),
    "meta-tdm": ("TDM-Reservation: 0", b'<meta name="tdm-reservation" content="1"><p>page'),
    "free": ("TDM-Reservation: 0", b'<meta name="robots" content="index"><p>page'),
}
NOINDEX = ["header", "meta", "twice"]
RESERVED = ["noai", "meta-noai", "usage", "tdm", "meta-tdm"]


@pytest.fixture(params=[Warc, Files])
def said(tmp_path, request):
    """An archive of pages whose owners say something, and the source that reads it."""
    head = "Content-Type: text/html"
    pages = [
        record(f"https://a.example/{name}", body, head=f"{head}\r\n{more}" if more else head)
        for name, (more, body) in SAID.items()
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(pages))
    return lambda **settings: collect(request.param(path=str(tmp_path), **settings))


def test_pages_go_as_their_owners_ask_in_headers_and_tags(said):
    documents, tally = said()
    left = {document.url.rsplit("/")[-1]: (document.robots, document.tdm) for document in documents}
    assert left == {"silent": ("", ""), "other": ("allowed", ""), "free": ("allowed", "not_reserved")}
    assert {reason: entry["count"] for reason, entry in tally.dropped.items()} == {
        "noindex": len(NOINDEX),
        "tdm_reserved": len(RESERVED),
    }
    assert tally.dropped["tdm_reserved"]["examples"][0] == {
        "id": "",
        "path": "a.warc#6",
        "detail": "https://a.example/noai robots tag noai",
    }


def test_pages_of_owners_who_ask_otherwise_are_kept_with_the_verdict_where_the_recipe_says_so(said):
    documents, tally = said(noindex="keep", reserved="keep")
    names = {document.url.rsplit("/")[-1]: document for document in documents}
    assert list(names) == list(SAID)
    assert [name for name, document in names.items() if document.robots == "disallowed"] == NOINDEX
    assert [name for name, document in names.items() if document.tdm == "reserved"] == RESERVED
    assert tally.dropped == {}


def test_responses_that_are_no_pages_are_counted_with_their_number(tmp_path):
    image = "Content-Type: image/png"
    (tmp_path / "a.warc").write_bytes(
        record("https://a.example/404", status=404)
        + record("https://a.example/x.png", head=image)
        + record("https://a.example/cut", warc="WARC-Truncated: length")
        + record("https://a.example/good")
    )
    documents, tally = collect(Warc(path=str(tmp_path)))
    assert [d.path for d in documents] == ["a.warc#4"]
    assert reasons(tally) == {"not_a_page": ["a.warc#1", "a.warc#2"], "truncated": ["a.warc#3"]}
    assert "https://a.example/404" in tally.dropped["not_a_page"]["examples"][0]["detail"]


def test_the_charset_of_the_server_is_believed_where_it_fits(tmp_path):
    head = "Content-Type: text/html; charset=windows-1251"
    (tmp_path / "a.warc").write_bytes(record("https://a.example/", "<p>Съешь".encode("cp1251"), head=head))
    assert collect(Warc(path=str(tmp_path)))[0][0].text == "<p>Съешь"


def test_a_packed_page_is_unpacked_within_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_HTML_BYTES", 1 << 20)
    head = "Content-Type: text/html\r\nContent-Encoding: gzip"
    pages = [gzip.compress(b"<p>small"), gzip.compress(b" " * (20 << 20))]
    (tmp_path / "a.warc").write_bytes(b"".join(record("https://a.example/", one, head=head) for one in pages))
    documents, tally = collect(Warc(path=str(tmp_path)))
    assert [d.text for d in documents] == ["<p>small"]
    assert reasons(tally) == {"too_large": ["a.warc#2"]}


@pytest.mark.parametrize(
    ("data", "kept", "reason"),
    [
        (b"no archive at all\r\n" * 50, 0, "damaged_warc"),
        (record("https://a.example/") + b"junk\r\n" * 20, 1, "damaged_warc"),
        (record("https://a.example/") + record("https://a.example/2", b"x" * 500)[:-300], 1, "damaged_warc"),
        (b"", 0, "no_text"),
    ],
)
def test_a_damaged_archive_keeps_what_came_before(tmp_path, data, kept, reason):
    (tmp_path / "a.warc").write_bytes(data)
    documents, tally = collect(Warc(path=str(tmp_path)))
    assert (len(documents), set(tally.dropped)) == (kept, {reason})


def test_a_list_of_paths_names_archives_below_a_prefix(tmp_path):
    for name in ("crawl/a.warc", "crawl/b.warc", "crawl/c.warc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(record(f"https://{name}/"))
    (tmp_path / "warc.paths.gz").write_bytes(gzip.compress(b"crawl/b.warc\ncrawl/a.warc\n\ncrawl/c.warc\n"))
    config = Warc(path=str(tmp_path / "warc.paths.gz"), prefix=f"{tmp_path}/", max_files=2)
    assert [d.url for d in collect(config)[0]] == ["https://crawl/b.warc/", "https://crawl/a.warc/"]


def test_an_archive_stands_in_a_folder_of_files_too(tmp_path):
    (tmp_path / "a.warc").write_bytes(record("https://a.example/"))
    documents, _ = collect(Files(path=str(tmp_path)))
    assert [(d.path, d.url, d.media) for d in documents] == [("a.warc#1", "https://a.example/", "html")]


def test_a_list_that_names_nothing_is_an_error(tmp_path):
    (tmp_path / "warc.paths").write_text("\n")
    with pytest.raises(DataError, match=r"warc\.paths"):
        list_partitions(Warc(path=str(tmp_path / "warc.paths")))


def test_all_mistakes_of_the_source_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(Warc, {"path": "", "prefix": "gopher://x", "max_files": 0, "max_bytes": 0}, where="x")
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
@pytest.mark.parametrize("charset", ["utf-7", "punycode", "unicode_escape", "idna"])
def test_codecs_that_are_no_encodings_of_pages_are_not_believed(tmp_path, kind, charset):
    """UTF-7 would give half a letter here, and a megabyte of punycode would take hours."""
    body = b"<p>\\ud800 +2AA-" + b"a" * (1 << 20)
    page = record("https://a.example/", body, head=f"Content-Type: {kind}; charset={charset}")
    (tmp_path / "a.warc").write_bytes(page + record("https://a.example/2"))
    documents, tally = collect(Warc(path=str(tmp_path)))
    assert [d.text for d in documents] == [body.decode(), "<p>page"]
    assert (tally.dropped, tally.changed) == ({}, {})


def test_a_page_that_is_sound_utf8_is_read_so_whatever_its_server_says(tmp_path):
    head = "Content-Type: text/html; charset=iso-8859-1"
    (tmp_path / "a.warc").write_bytes(record("https://a.example/", "<p>Съешь café".encode(), head=head))
    assert collect(Warc(path=str(tmp_path)))[0][0].text == "<p>Съешь café"


HTML_FILES = {
    "silent.html": "<p>page",
    "licence.html": '<p>page<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">x</a>',
    "index.htm": '<meta name="robots" content="index, follow"><p>page',
    "noindex.html": '<meta name="robots" content="noindex"><p>page',
    "reserved.xhtml": '<meta name="tdm-reservation" content="1"><p>page',
}


def test_pages_in_a_folder_go_as_their_owners_ask_in_their_tags(tmp_path):
    for name, text in HTML_FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "notes.txt").write_text(HTML_FILES["noindex.html"])  # no page: it says nothing of the kind
    documents, tally = collect(Files(path=str(tmp_path), licence="MIT"))
    assert {d.path: (d.media, d.robots, d.tdm, d.licence) for d in documents} == {
        "silent.html": ("html", "", "", "MIT"),
        "licence.html": ("html", "", "", "CC-BY-4.0"),
        "index.htm": ("html", "allowed", "", "MIT"),
        "notes.txt": ("text", "", "", "MIT"),
    }
    assert "rel=license" in next(d.licence_evidence for d in documents if d.path == "licence.html")
    assert reasons(tally) == {"noindex": ["noindex.html"], "tdm_reserved": ["reserved.xhtml"]}
    assert tally.dropped["tdm_reserved"]["examples"][0]["detail"] == "meta tdm-reservation"
    kept, tally = collect(Files(path=str(tmp_path), noindex="keep", reserved="keep"))
    verdicts = {d.path: (d.robots, d.tdm) for d in kept}
    assert (verdicts["noindex.html"], verdicts["reserved.xhtml"]) == (("disallowed", ""), ("", "reserved"))
    assert tally.dropped == {}
