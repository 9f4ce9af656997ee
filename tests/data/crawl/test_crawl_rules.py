"""robots.txt as RFC 9309 says it, reservations, sitemaps and patterns."""

import gzip
import json
import time

import pytest
from site_on_loopback import Answer

from chatwright.data import limits
from chatwright.data.crawl.fetch import Response, _joined
from chatwright.data.crawl.patterns import matches, matches_rule
from chatwright.data.crawl.rights import NOT_RESERVED, RESERVED, TdmRules, rights_of
from chatwright.data.crawl.robots import FOUND, UNAVAILABLE, UNREACHABLE, Robots, RobotsFile, fetch_robots
from chatwright.data.crawl.sitemaps import read_sitemap
from chatwright.data.crawl.urls import parse_url
from chatwright.data.crawl.verdicts import Unfetchable

ORIGIN = parse_url("https://site.test/")


def allows(text: str, path: str) -> bool:
    return Robots(RobotsFile(FOUND, text)).allows(parse_url(f"https://site.test{path}"))


RULES = [
    ("", "/a", True),
    ("User-agent: *\nDisallow: /", "/a", False),
    ("User-agent: *\nDisallow:", "/a", True),
    ("User-agent: *\nDisallow: /", "/robots.txt", True),
    ("User-agent: *\nDisallow: /\n\nUser-agent: chatwright\nDisallow: /x", "/a", True),
    ("User-agent: CHATWRIGHT\nDisallow: /", "/a", False),
    ("User-agent: chatwright/2.0\nDisallow: /", "/a", False),
    ("User-agent: chat\nDisallow: /", "/a", True),
    ("User-agent: chatwright-images\nDisallow: /", "/a", True),
    ("User-agent: notchatwright\nDisallow: /", "/a", True),
    ("User-agent: other\nUser-agent: chatwright\nDisallow: /", "/a", False),
    ("User-agent: chatwright\nDisallow: /a\n\nUser-agent: chatwright\nDisallow: /b", "/b", False),
    ("User-agent: chatwright\nDisallow: /a\n\nUser-agent: chatwright\nDisallow: /b", "/a", False),
    ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
    ("User-agent: *\nAllow: /a/b\nDisallow: /a", "/a/c", False),
    ("User-agent: *\nAllow: /a\nDisallow: /a", "/a", True),
    ("User-agent: *\nDisallow: /*.pdf$", "/a/b.pdf", False),
    ("User-agent: *\nDisallow: /*.pdf$", "/a/b.pdf?x=1", True),
    ("User-agent: *\nDisallow: /a*z", "/abcz/more", False),
    ("User-agent: *\nDisallow: /a%3Cb", "/a%3cb", False),
    ("User-agent: *\nDisallow: /\u30c4", "/%E3%83%84", False),
    ("User-agent: *\nDisallow: /A", "/a", True),
    ("Disallow: /", "/a", True),
    ("User-agent: * # all\nDisallow: /a # this", "/a", False),
    ("USER-AGENT : *\r\nDISALLOW : /a\r\n", "/a", False),
    ("User-agent: *\rDisallow: /a\r", "/a", False),
    ("<html><body>not rules</body></html>", "/a", True),
    ("User-agent: *\nSitemap: https://site.test/s\nDisallow: /a", "/a", False),
]


@pytest.mark.parametrize(("text", "path", "expected"), RULES)
def test_rules_are_read_as_the_rfc_says(text, path, expected):
    assert allows(text, path) is expected


def answering(*answers: Answer):
    """A `get` that gives the answers in turn and notes what was asked."""
    asked = []

    def get(url, bounds):
        asked.append(str(url))
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status, headers, body[: bounds.max_bytes], len(body))

    get.asked = asked
    return get


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_4xx_allows_everything(status):
    assert fetch_robots(ORIGIN, answering(Answer(status=status))).outcome == UNAVAILABLE
    assert Robots(RobotsFile(UNAVAILABLE)).allows(ORIGIN)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_5xx_may_pass_and_allows_nothing_until_then(status):
    with pytest.raises(Unfetchable) as caught:
        fetch_robots(ORIGIN, answering(Answer(status=status, headers={"Retry-After": "7"})))
    assert (caught.value.may_pass, caught.value.wait_s) == (True, 7.0)
    assert not Robots(RobotsFile(UNREACHABLE)).allows(ORIGIN)


def test_five_redirects_are_followed_to_other_hosts_too():
    steps = [Answer(status=302, headers={"Location": f"https://other.test/{n}"}) for n in range(5)]
    get = answering(*steps, Answer("User-agent: *\nDisallow: /a"))
    found = fetch_robots(ORIGIN, get)
    assert (found.outcome, len(get.asked)) == (FOUND, 6)
    assert not Robots(found).allows(parse_url("https://site.test/a"))


def test_more_redirects_count_as_unavailable():
    assert fetch_robots(ORIGIN, answering(Answer(status=301, headers={"Location": "/loop"}))).outcome == UNAVAILABLE


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "http://site.test/robots.txt", "https://u@x/", "http://0x7f.1/"]
)
def test_a_redirect_to_where_nobody_should_go_allows_nothing(target):
    assert fetch_robots(ORIGIN, answering(Answer(status=302, headers={"Location": target}))).outcome == UNREACHABLE


def test_two_megabytes_are_read_up_to_the_last_whole_rule_of_the_first_half():
    filler = "Disallow: /filler\n" * 200_000
    found = fetch_robots(ORIGIN, answering(Answer(f"User-agent: *\nDisallow: /first\n{filler}Disallow: /last")))
    assert 500 * 1024 <= len(found.text) <= limits.MAX_ROBOTS_BYTES
    assert found.text.endswith("Disallow: /filler\n")
    assert not Robots(found).allows(parse_url("https://site.test/first"))
    assert Robots(found).allows(parse_url("https://site.test/last"))


@pytest.mark.parametrize("piece", ["*a", "a*", "*", "*a*b", "/*/"])
def test_hostile_rules_take_less_than_a_second(piece):
    text = f"User-agent: *\nDisallow: /{piece * (500_000 // len(piece))}$\n"
    many = "User-agent: *\n" + f"Disallow: /{piece * 50}$\n" * 4_000
    for rules in (text, many):
        began = time.process_time()
        Robots(RobotsFile(FOUND, rules)).allows(parse_url("https://site.test/" + "a" * 1_900))
        assert time.process_time() - began < 1.0


def test_delays_of_both_spellings_are_known():
    assert Robots(RobotsFile(FOUND, "User-agent: *\nCrawl-delay: 2.5")).delay_s == 2.5
    assert Robots(RobotsFile(FOUND, "User-agent: *\nRequest-rate: 1/10")).delay_s == 10.0
    assert Robots(RobotsFile(FOUND, "User-agent: other\nCrawl-delay: 9")).delay_s == 0.0


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("User-agent: *\nContent-Signal: search=yes, ai-train=no", "/a", True),
        ("User-agent: *\nContent-Signal: search=yes, ai-train=yes", "/a", False),
        ("User-agent: *\nContent-Usage: train-ai=n", "/a", True),
        ("User-agent: *\nContent-Usage: /free/ train-ai=y\nContent-Usage: train-ai=n", "/free/a", False),
        ("User-agent: *\nContent-Signal: ai-train=no\n\nUser-agent: chatwright\nAllow: /", "/a", False),
        ("User-agent: *\nDisallow: /x", "/a", False),
    ],
)
def test_signals_about_training_in_robots_txt_are_reservations(text, path, expected):
    assert Robots(RobotsFile(FOUND, text)).reserves(parse_url(f"https://site.test{path}")) is expected


@pytest.mark.parametrize(
    ("headers", "meta", "site_says", "expected"),
    [
        ({}, {}, "", ""),
        ({"tdm-reservation": "1"}, {}, "", RESERVED),
        ({"tdm-reservation": "0"}, {}, "", NOT_RESERVED),
        ({}, {"tdm-reservation": "1"}, "", RESERVED),
        ({"tdm-reservation": "0"}, {"tdm-reservation": "1"}, "", RESERVED),
        ({}, {}, "tdmrep.json", RESERVED),
        ({}, {}, "!tdmrep.json", NOT_RESERVED),
        ({"x-robots-tag": "noai"}, {}, "", RESERVED),
        ({}, {"robots": "index, NoAI"}, "", RESERVED),
        ({"content-usage": "train-ai=n"}, {}, "", RESERVED),
        ({"tdm-reservation": "yes"}, {}, "", ""),
    ],
)
def test_a_reservation_counts_wherever_it_stands(headers, meta, site_says, expected):
    assert rights_of(headers, meta, site_says=site_says).tdm == expected


@pytest.mark.parametrize(
    ("headers", "meta", "noindex", "nofollow"),
    [
        ({"x-robots-tag": "noindex"}, {}, True, False),
        ({"x-robots-tag": "otherbot: noindex"}, {}, False, False),
        ({"x-robots-tag": "otherbot: noindex, chatwright: nofollow"}, {}, False, True),
        ({"x-robots-tag": "unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"}, {}, True, False),
        ({}, {"robots": "none"}, True, True),
        ({}, {"chatwright": "noindex"}, True, False),
        ({}, {"robots": "index, follow"}, False, False),
    ],
)
def test_robots_tags_are_read_for_everybody_and_for_us(headers, meta, noindex, nofollow):
    rights = rights_of(headers, meta)
    assert (rights.noindex, rights.nofollow) == (noindex, nofollow)


@pytest.mark.parametrize(
    ("fields", "noindex", "nofollow"),
    [
        (["noindex", "googlebot: nofollow"], True, False),
        (["googlebot: nofollow", "noindex"], True, False),
        (["otherbot: noindex, chatwright: nofollow"], False, True),
        (["otherbot: noindex", "chatwright: nofollow"], False, True),
        (["chatwright: nofollow", "otherbot: noindex"], False, True),
    ],
)
def test_a_robots_tag_ends_with_its_header_field(fields, noindex, nofollow):
    headers = _joined([(b"X-Robots-Tag", field.encode()) for field in fields])
    rights = rights_of(headers, {})
    assert (rights.noindex, rights.nofollow) == (noindex, nofollow)


def test_other_header_fields_are_joined_by_commas():
    assert _joined([(b"Vary", b"a"), (b"Content-Usage", b"x"), (b"vary", b"b")])["vary"] == "a, b"


def test_tdmrep_takes_the_first_rule_that_fits_and_ignores_what_is_unsound():
    rules = TdmRules(
        json.dumps(
            [
                {"location": "/free/*", "tdm-reservation": 0},
                {"location": "/*.html$", "tdm-reservation": 1},
                {"location": 7, "tdm-reservation": 1},
                {"location": "/odd", "tdm-reservation": 2},
                "text",
            ]
        ).encode()
    )
    found = [rules.verdict(parse_url(f"https://a.test{path}")) for path in ("/free/a.html", "/a.html", "/a", "/odd")]
    assert found == [False, True, None, None]
    for broken in (b"{", b"[" * 100_000, b"\xff", b"null", b'{"location": "/"}'):
        assert TdmRules(broken).verdict(ORIGIN) is None


URLSET = '<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{}</urlset>'


def test_a_sitemap_gives_its_pages_plain_or_zipped():
    data = URLSET.format("<url><loc> https://a.test/?a=1&amp;b=2 </loc><lastmod>x</lastmod></url>").encode()
    assert read_sitemap(data).pages == ("https://a.test/?a=1&b=2",)
    assert read_sitemap(gzip.compress(data)) == read_sitemap(data)


def test_an_index_gives_sitemaps_and_a_text_file_gives_pages():
    index = "<sitemapindex><sitemap><loc>https://a.test/1.xml</loc></sitemap></sitemapindex>"
    assert read_sitemap(index.encode()).sitemaps == ("https://a.test/1.xml",)
    assert read_sitemap(b"https://a.test/1\r\nno\nhttps://a.test/2\n").pages == ("https://a.test/1", "https://a.test/2")


def test_a_broken_sitemap_gives_what_came_before_the_break():
    found = read_sitemap(b"<urlset><url><loc>https://a.test/1</loc></url><url><loc>https://a")
    assert found.pages == ("https://a.test/1",)
    assert "not sound XML" in found.problem


@pytest.mark.parametrize(
    "data",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><urlset><url><loc>&b;</loc></url></urlset>',
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><urlset><url><loc>&a;</loc></url></urlset>',
        b"<a>" * 1_000_000,
        gzip.compress(bytes(100_000_000)),
        gzip.compress(b"<urlset>")[:-4],
        URLSET.format("<url><loc>https://a.test/</loc></url>" * 50_001).encode(),
        b"https://a.test/\n" * 50_001,
    ],
    ids=["entities", "external entity", "deep", "bomb", "cut gzip", "many urls", "many lines"],
)
def test_a_hostile_sitemap_ends_with_its_problem_within_a_second(data):
    began = time.process_time()
    found = read_sitemap(data)
    assert found.problem
    assert len(found.pages) <= limits.MAX_SITEMAP_URLS
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("/docs/*", "/docs/a", True),
        ("/docs/*", "/doc", False),
        ("*.html", "/a.html", True),
        ("*.html", "/a.html?x", False),
        ("/a*b*c", "/aXbYc", True),
        ("/a*a", "/a", False),
        ("*", "", True),
        ("/a?b", "/axb", False),
        ("/a", "/a/", False),
    ],
)
def test_patterns_know_the_star_and_nothing_else(pattern, text, expected):
    assert matches(pattern, text) is expected


def test_a_rule_is_the_beginning_of_a_path_unless_it_says_its_end():
    assert matches_rule("/a", "/abc")
    assert not matches_rule("/a$", "/abc")


def test_patterns_take_less_than_a_second_on_a_megabyte_of_their_worst_case():
    began = time.process_time()
    assert not matches("*a" * 30 + "*b", "a" * 1_000_000)
    assert not matches("*" + "a" * 1_000 + "b*", "a" * 1_000_000)
    assert time.process_time() - began < 1.0
