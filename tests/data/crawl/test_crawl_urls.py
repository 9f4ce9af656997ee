"""One spelling for one page."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.data.crawl.links import licence_name, read_page
from chatwright.data.crawl.scope import shape, trap
from chatwright.data.crawl.urls import RefusedUrl, parse_url
from chatwright.data.crawl.visit import decode_page

BASE = parse_url("https://site.test/a/b?c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HTTPS://Site.TEST:443", "https://site.test/"),
        ("http://site.test:443/", "http://site.test:443/"),
        ("http://site.test./", "http://site.test/"),
        ("https://site.test/%7euser/%e4?q=%2f#top", "https://site.test/~user/%E4?q=%2F"),
        ("https://site.test/a b?c d", "https://site.test/a%20b?c%20d"),
        ("https://site.test/100%", "https://site.test/100%25"),
        ("https://b\u00fccher.test/\u00fc", "https://xn--bcher-kva.test/%C3%BC"),
        ("https://site.test/a/./b/../../c/", "https://site.test/c/"),
        ("https://site.test/../../etc/passwd", "https://site.test/etc/passwd"),
        ("https://site.test/%2e%2e/x", "https://site.test/x"),
        ("https://site.test/?", "https://site.test/"),
        ("https://site.test/?utm_source=a&b=1&SID=9", "https://site.test/?b=1"),
        ("https://site.test/p;jsessionid=A1?b", "https://site.test/p?b"),
        (" \n https://site.test/a\tb \r", "https://site.test/ab"),
        ("https:\\\\site.test\\a", "https://site.test/a"),
        ("https://[2001:DB8:0::1]:8080/", "https://[2001:db8::1]:8080/"),
        ("//other.test/x", "https://other.test/x"),
        ("/x", "https://site.test/x"),
        ("x", "https://site.test/a/x"),
        ("?x", "https://site.test/a/b?x"),
        ("#x", "https://site.test/a/b?c"),
        ("", "https://site.test/a/b?c"),
        ("../../..", "https://site.test/"),
    ],
)
def test_links_have_one_spelling(text, expected):
    assert str(parse_url(text, base=BASE)) == expected


@given(st.text(alphabet=string.printable + "\u00e4\u30c4\u2028\u0130", max_size=60))
def test_reading_a_spelling_again_changes_nothing(text):
    try:
        url = parse_url(f"https://site.test/{text}")
    except RefusedUrl:
        return
    assert parse_url(str(url)) == url
    assert url.host == "site.test"
    assert str(url).isascii()
    assert not any(character in url.target for character in " \r\n\t")


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_refused(text):
    for prefix in ("", "http://", "http://[", "https://x:"):
        with contextlib.suppress(RefusedUrl):
            assert parse_url(prefix + text, base=BASE).scheme in ("http", "https")


def test_a_url_beyond_the_limit_is_refused():
    with pytest.raises(RefusedUrl, match="url_too_long"):
        parse_url("https://site.test/" + "a" * 3_000)
    with pytest.raises(RefusedUrl, match="url_too_long"):
        parse_url("https://site.test/" + "\u30c4" * 500)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/a/b", ""),
        ("/a/a/a", "trap_repeating"),
        ("/x/p/q/p/q/p/q", "trap_repeating"),
        ("/2026/11/23/title", ""),
        ("/" + "/".join(map(str, range(33))), "trap_long"),
        ("/?" + "&".join(f"a{n}=1" for n in range(17)), "trap_long"),
    ],
)
def test_addresses_that_servers_make_without_end_are_known(path, expected):
    assert trap(parse_url(f"https://site.test{path}")) == expected


def test_pages_that_differ_in_numbers_and_values_are_alike():
    alike = [shape(parse_url(f"https://a.test/day/{n}/?to=x{n}&from={n}")) for n in (7, 1234)]
    assert alike[0] == alike[1] == shape(parse_url("https://a.test/day/0/?from=&to="))


def test_a_page_is_read_as_a_browser_would():
    html = """<html lang="de"><head><base href="/base/"><link rel="canonical" href="../c#x">
    <meta NAME="Robots" content="NOINDEX"><meta name="tdm-reservation" content="1"></head>
    <a href="one">1<a href=two rel="nofollow">2</a><area href='/three'><a href="one#again"><a href="ftp://x/">
    <a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">"""
    said = read_page({"url": "https://site.test/a/b", "html": html})
    assert said["links"] == [
        "https://site.test/base/one",
        "https://site.test/three",
        "https://creativecommons.org/publicdomain/zero/1.0/",
    ]
    assert (said["canonical"], said["language"], said["nofollow"]) == ("https://site.test/c", "de", 1)
    assert said["refused"] == {"scheme_not_allowed": 1}
    assert said["meta"] == {"robots": "NOINDEX", "tdm-reservation": "1"}
    assert licence_name(said["licence"]) == "CC0-1.0"


def test_links_beyond_the_limit_are_counted():
    html = "".join(f"<a href='/{n}'>x</a>" for n in range(10_005))
    said = read_page({"url": "https://site.test/", "html": html})
    assert (len(said["links"]), said["refused"]) == (10_000, {"too_many_links": 5})


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("caf\u00e9 \u20ac".encode(), "text/html; charset=iso-8859-1", "caf\u00e9 \u20ac"),
        ("caf\u00e9".encode("latin-1"), "text/html; charset=latin1", "caf\u00e9"),
        (
            "\u043f\u0440\u0438\u0432\u0435\u0442".encode("cp1251"),
            'text/html; charset="windows-1251"',
            "\u043f\u0440\u0438\u0432\u0435\u0442",
        ),
        ("\ufeffcaf\u00e9".encode("utf-16"), "text/html; charset=utf-8", "\ufeffcaf\u00e9"),
        (
            b"<meta charset=cp1251>" + "\u043f\u0440\u0438\u0432\u0435\u0442".encode("cp1251"),
            "text/html; charset=nonsense",
            "<meta charset=cp1251>\u043f\u0440\u0438\u0432\u0435\u0442",
        ),
    ],
)
def test_a_page_is_decoded_by_what_fits(body, kind, text):
    decoded = decode_page(body, {"content-type": kind})
    assert decoded is not None
    assert decoded.text.removeprefix("\ufeff") == text.removeprefix("\ufeff")
