"""A site with every difficulty, crawled exactly as it should be."""

import threading

import pyarrow as pa
import pytest
from site_on_loopback import Answer, ToldClock, crawl, page, redirect, text, verdicts, zipped

from chatwright.data import limits
from chatwright.data.crawl.frontier import Frontier
from chatwright.data.crawl.selection import refused_links
from chatwright.data.crawl.store import Store
from chatwright.data.report import Tally
from chatwright.data.sources import website
from chatwright.foundation.errors import BusyError, RefusedError, StoppedError
from chatwright.foundation.stopping import StopFlag


def documents(config):
    """Documents of a finished crawl by path, and the tally of what gave none."""
    tally = Tally()
    parts = website.list_partitions(config)
    found = {document.path: document for part in parts for document in website.read_partition(config, part, tally)}
    return found, tally


def refused(config):
    store = Store(website.store_of(config), is_read_only=True)
    counts = refused_links(Frontier(store))
    store.close()
    return counts


def html(body: str, content_type="text/html; charset=utf-8", **headers) -> Answer:
    return Answer(body, headers={"Content-Type": content_type} | headers)


def slow(request):
    """Sends a byte and never the rest."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")
    request.wfile.flush()
    threading.Event().wait(4.0)


def fill(site) -> None:
    """The whole of a difficult site."""
    pages = {
        "/": page(*"/plain /zip /private/a /open?utm_source=x /open /loop1 /chain0 /long0 /inside /up /far".split()),
        "/robots.txt": text("User-agent: *\nDisallow: /private/\nSitemap: /map.xml"),
        "/map.xml": Answer("<urlset><url><loc>/mapped</loc></url><url><loc>http://far.test/</loc></url></urlset>"),
        "/plain": page("/deep/1", "#top", "mailto:a@b.c", "javascript:x()", text="plain"),
        "/zip": zipped(page("/never", text="zip", head='<meta name="robots" content="nofollow">')),
        "/open": page("/again/again/again/again", text="open"),
        "/loop1": redirect("/loop2"),
        "/loop2": redirect("/loop1"),
        **{f"/chain{n}": redirect(f"/chain{n + 1}", 301) for n in range(5)},
        "/chain5": page(text="the end of five redirects"),
        **{f"/long{n}": redirect(f"/long{n + 1}", 307) for n in range(9)},
        "/inside": redirect("http://127.0.0.1:1/admin"),
        "/up": redirect("//far.test/"),
        "/far": page("http://far.test/x", "https://site.test:8443/", "/a.pdf", "/slow", "/bomb", "/huge", text="far"),
        "/a.pdf": Answer(b"%PDF", headers={"Content-Type": "application/pdf"}),
        "/slow": slow,
        "/bomb": Answer(
            pa.compress(bytes(300_000_000), codec="zstd", asbytes=True),
            headers={"Content-Type": "text/html", "Content-Encoding": "zstd"},
        ),
        "/huge": html("x", **{"Content-Length": str(limits.MAX_RESPONSE_BYTES + 1)}),
        "/mapped": page("/copy", "/canon", "/canon?v=1", "/gone", "/broken", "/latin", "/image", text="mapped"),
        "/copy": page("/deep/1", "#top", "mailto:a@b.c", "javascript:x()", text="plain"),
        "/canon": page(text="one"),
        "/canon?v=1": page(text="other", head='<link rel="canonical" href="/canon">'),
        "/gone": Answer("gone", 410),
        "/broken": html("<html><p>un<b>closed <a href='/tail'>t</a><div <table><a href=\"/tail2"),
        "/tail": page(text="tail"),
        "/latin": Answer("caf\xe9 ".encode("latin-1") * 30, headers={"Content-Type": "text/html; charset=utf-8"}),
        "/image": Answer(b"\x89PNG\r\n\x1a\n" + bytes(1_000), headers={"Content-Type": "text/html"}),
        "/deep/1": page("../deep/./2", text="deep"),
        "/deep/2": page("/hidden", text="deep 2"),
        "/hidden": page("/closed", head='<meta name="robots" content="noindex">', text="hidden"),
        "/closed": html("<p>closed", **{"TDM-Reservation": "1"}),
    }
    site.hosts["site.test"] = pages


FETCHED = """
/ /map.xml /mapped /plain /zip /open /loop1 /loop2 /chain0 /chain1 /chain2 /chain3 /chain4 /chain5 /long0 /long1 /long2
/long3 /long4 /long5 /inside /up /far /a.pdf /slow /bomb /huge /deep/1 /deep/2 /copy /canon /canon?v=1 /gone /broken
/tail /latin /image /hidden /closed
""".split()
REASONS = {
    "/private/a": "robots_disallowed",
    "/loop1": "redirected",
    "/loop2": "redirect_loop",
    **{f"/chain{n}": "redirected" for n in range(5)},
    **{f"/long{n}": "redirected" for n in range(5)},
    "/long5": "too_many_redirects",
    "/inside": "off_site",
    "/up": "off_site",
    "/a.pdf": "wrong_type",
    "/slow": "timeout",
    "/bomb": "bomb",
    "/huge": "too_large",
    "/copy": "duplicate_content",
    "/canon?v=1": "duplicate_canonical",
    "/gone": "http_410",
    "/image": "undecodable",
    "/hidden": "noindex",
    "/closed": "tdm_reserved",
}
KEPT = "/ /mapped /plain /zip /open /chain5 /far /deep/1 /deep/2 /canon /broken /tail /latin".split()


@pytest.mark.slow
def test_a_difficult_site_is_crawled_exactly_as_it_should_be(site, settings):
    fill(site)
    config = settings(sitemaps=True)
    crawl(config, limit_s=3.0)
    assert sorted(set(site.asked())) == sorted(FETCHED)
    assert [path for path in FETCHED if site.asked().count(path) > 1] == ["/slow"]
    assert site.asked().count("/slow") == limits.FETCH_ATTEMPTS
    found = {url.removeprefix(site.url("")): reason for url, reason in verdicts(config).items()}
    assert found == REASONS | dict.fromkeys(KEPT, "")
    counts = {"nofollow": 1, "off_site": 2, "port_not_allowed": 1, "scheme_not_allowed": 4, "trap_repeating": 1}
    assert refused(config) == counts
    kept, tally = documents(config)
    assert sorted(kept) == sorted(site.url(path) for path in KEPT)
    assert sum(entry["count"] for entry in tally.dropped.values()) == len(REASONS)
    assert "caf\u00e9" in kept[site.url("/latin")].text


def test_a_page_carries_where_it_is_from_and_what_its_owner_says(site, settings):
    head = '<link rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">'
    answer = page(text="mine", head=head)
    answer.body = answer.body.replace("<html>", '<html lang="en-GB">')
    answer.headers["TDM-Reservation"] = "0"
    site.hosts["site.test"] = {"/": answer}
    config = settings(domain="mine")
    clock = crawl(config)
    document = documents(config)[0][site.url()]
    assert (document.licence, document.language, document.domain) == ("CC-BY-SA-4.0", "en-GB", "mine")
    assert (document.robots, document.tdm, document.media) == ("allowed", "not_reserved", "html")
    assert document.licence_evidence == "the page links to https://creativecommons.org/licenses/by-sa/4.0/"
    assert document.url == document.path == site.url()
    assert document.fetched.endswith("+00:00")
    assert abs(clock.moment - clock.now()) < 1


def test_the_crawler_says_who_it_is_and_asks_nothing_without_the_rules(site, settings):
    site.hosts["site.test"] = {"/": page()}
    crawl(settings())
    assert site.log[:2] == ["site.test/robots.txt", "site.test/.well-known/tdmrep.json"]
    (agent,) = site.agents
    assert agent.startswith("chatwright/")
    assert "(+owner@example.org)" in agent
    assert {headers["from"] for headers in site.headers} == {"owner@example.org"}
    assert not any("cookie" in headers or "referer" in headers for headers in site.headers)


def test_a_site_whose_rules_cannot_be_had_is_left_alone(site, settings):
    site.hosts["site.test"] = {"/": page(), "/robots.txt": Answer("", 503)}
    config = settings()
    crawl(config)
    assert site.asked() == []
    assert site.log == ["site.test/robots.txt"] * limits.FETCH_ATTEMPTS
    assert verdicts(config) == {site.url(): "robots_unreachable"}


def test_rules_are_kept_for_a_day_and_no_longer(site, settings):
    site.hosts["site.test"] = {"/": page("/a"), "/a": page(text="a")}
    clock = crawl(settings(max_depth=0))
    clock.moment += limits.ROBOTS_FRESH_S - 60
    crawl(settings(max_depth=1), clock=clock)
    assert site.log.count("site.test/robots.txt") == 1
    clock.moment += 120
    site.hosts["site.test"]["/robots.txt"] = text("User-agent: *\nDisallow: /")
    config = settings(max_depth=2)
    crawl(config, clock=clock)
    assert site.log.count("site.test/robots.txt") == 2
    assert set(verdicts(config).values()) == {"robots_disallowed"}


def test_the_delay_that_a_site_asks_for_is_kept(site, settings):
    site.hosts["site.test"] = {"/": page("/a", "/b"), "/a": page(text="a"), "/b": page(text="b")}
    site.hosts["site.test"]["/robots.txt"] = text("User-agent: *\nCrawl-delay: 20")
    clock = crawl(settings(delay_s=1.0))
    assert 60 <= clock.slept < 62  # after the rules and between three pages


def test_a_delay_beyond_reason_leaves_the_site(site, settings):
    site.hosts["site.test"] = {"/": page(), "/robots.txt": text("User-agent: *\nCrawl-delay: 86400")}
    config = settings()
    crawl(config)
    assert verdicts(config) == {site.url(): "robots_too_slow"}


def failing(times: int, answer: Answer, then: Answer):
    """Answers with `answer` so many times, and from then on with `then`."""
    left = [answer] * times
    return lambda request: left.pop() if left else then


def test_a_server_that_asks_to_wait_is_waited_for(site, settings):
    busy = Answer("", 429, {"Retry-After": "600"})
    site.hosts["site.test"] = {"/": failing(2, busy, page())}
    config = settings()
    clock = crawl(config)
    assert site.asked() == ["/"] * 3
    assert 1_200 <= clock.slept < 1_202
    assert verdicts(config) == {site.url(): ""}


def test_a_wait_without_end_is_cut_and_a_page_is_given_up_after_three_attempts(site, settings):
    site.hosts["site.test"] = {"/": Answer("", 503, {"Retry-After": "999999"})}
    config = settings()
    clock = crawl(config)
    assert site.asked() == ["/"] * limits.FETCH_ATTEMPTS
    assert clock.slept < 2 * limits.MAX_RETRY_AFTER_S + 2
    assert verdicts(config) == {site.url(): "http_503"}


@pytest.mark.parametrize("status", [500, 522])
def test_a_host_that_keeps_failing_is_given_up(site, settings, status):
    paths = [f"/{n}" for n in range(20)]
    site.hosts["site.test"] = {"/": page(*paths)} | dict.fromkeys(paths, Answer("", status))
    config = settings()
    crawl(config)
    assert len(site.asked()) == 1 + limits.HOST_FAILURES * limits.FETCH_ATTEMPTS
    reasons = list(verdicts(config).values())
    assert (reasons.count(f"http_{status}"), reasons.count("host_given_up")) == (limits.HOST_FAILURES, 15)


def test_only_what_changed_is_fetched_again_and_only_when_asked(site, settings):
    def tagged(request):
        site.hosts.setdefault("seen", {})[request.headers.get("If-None-Match", "none")] = Answer()
        if request.headers.get("If-None-Match") == '"1"':
            return Answer("", 304, {"ETag": '"1"', "Content-Length": ""})
        return Answer("<p>tagged", headers={"Content-Type": "text/html", "ETag": '"1"'})

    site.hosts["site.test"] = {"/": page("/t", "/old"), "/t": tagged, "/old": page(text="old")}
    first = settings()
    clock = crawl(first)
    crawl(first, clock=clock)
    assert site.asked() == ["/", "/t", "/old"]
    before = documents(first)[0]
    site.hosts["site.test"]["/old"] = page(text="new")
    clock.moment += 86_400 * 3
    again = settings(refresh_before="2999-01-01")
    crawl(again, clock=clock)
    crawl(again, clock=clock)
    assert site.asked() == ["/", "/t", "/old"] * 2
    after = documents(again)[0]
    assert after[site.url("/t")] == before[site.url("/t")]
    assert "new" in after[site.url("/old")].text
    assert after[site.url("/old")].fetched > before[site.url("/old")].fetched


@pytest.mark.parametrize("status", [500, 507, 522, 530])  # from 520 on it is a provider that stands before the site
def test_a_page_that_cannot_be_had_for_the_moment_keeps_its_earlier_copy(site, settings, status):
    site.hosts["site.test"] = {"/": page(text="first")}
    clock = crawl(settings())
    site.hosts["site.test"]["/"] = Answer("", status)
    clock.moment += 86_400
    again = settings(refresh_before="2999-01-01")
    crawl(again, clock=clock)
    assert "first" in documents(again)[0][site.url()].text


def test_other_settings_follow_links_anew_without_fetching_pages_again(site, settings):
    site.hosts["site.test"] = {"/": page("/a"), "/a": page("/b", text="a"), "/b": page(text="b")}
    crawl(settings(max_depth=1))
    assert site.asked() == ["/", "/a"]
    crawl(settings(max_depth=2))
    assert site.asked() == ["/", "/a", "/b"]


def test_patterns_depth_and_folders_bound_a_crawl(site, settings):
    site.hosts["site.test"] = {
        "/docs/": page("/docs/a", "/docs/old/x", "/blog/", "/docs/a?print=1", "/"),
        "/docs/a": page("/docs/b", text="a"),
        "/docs/b": page("/docs/c", text="b"),
    }
    values = {"same_site": "prefix", "exclude": ("/docs/old/*", "*print=*"), "max_depth": 2}
    config = settings(site.url("/docs/"), **values)
    crawl(config)
    assert site.asked() == ["/docs/", "/docs/a", "/docs/b"]
    assert refused(config) == {"excluded": 2, "off_site": 2, "too_deep": 1}


def test_start_pages_that_include_does_not_name_are_read_for_links_only(site, settings):
    site.hosts["site.test"] = {"/": page("/docs/a", "/news"), "/docs/a": page(text="a"), "/news": page(text="n")}
    config = settings(include=("/docs/*",))
    crawl(config)
    assert site.asked() == ["/", "/docs/a"]
    assert verdicts(config) == {site.url(): "not_included", site.url("/docs/a"): ""}


def test_the_registrable_domain_joins_hosts_and_no_more(site, settings):
    far = f"http://b.example.co.uk:{site.port}/"
    site.hosts["www.example.co.uk"] = {"/": page(far, f"http://other.co.uk:{site.port}/")}
    site.hosts["b.example.co.uk"] = {"/": page(text="b")}
    crawl(settings(site.url("/", "www.example.co.uk"), same_site="domain"))
    assert (site.asked("b.example.co.uk"), site.asked("other.co.uk")) == (["/"], [])


def test_limits_of_pages_cut_the_same_pages_off_every_time(site, settings, tmp_path):
    paths = [f"/{letter}" for letter in "qwertyuiop"]
    site.hosts["site.test"] = {"/": page(*paths)} | {path: page(text=path) for path in paths}
    found = []
    for store in ("one", "two"):
        config = settings(max_pages=4, store=str(tmp_path / store))
        crawl(config)
        found.append(verdicts(config))
    assert found[0] == found[1]
    assert [url for url, reason in found[0].items() if not reason] == [site.url(p) for p in ("/", "/q", "/w", "/e")]
    assert list(found[0].values()).count("page_limit") == 7


def test_a_limit_of_bytes_begins_no_further_page(site, settings):
    paths = [f"/{n}" for n in range(9)]
    site.hosts["site.test"] = {"/": page(*paths)} | {p: page(text=p * 2_000) for p in paths}
    config = settings(max_fetched_bytes=10_000)
    crawl(config)
    assert len(site.asked()) == 4
    assert list(verdicts(config).values()).count("byte_limit") == 6


def test_a_calendar_without_end_is_left_after_so_many_pages_alike(site, settings):
    class Calendar(dict):
        def get(self, path, default=None):
            month = int(path.partition("month=")[2] or 0) if "calendar" in path else None
            return (
                super().get(path, default) if month is None else page(f"/calendar?month={month + 1}", text=str(month))
            )

    site.hosts["site.test"] = Calendar({"/": page("/calendar?month=1", "/about"), "/about": page(text="about")})
    config = settings(max_alike=5, max_depth=100)
    crawl(config)
    assert len([path for path in site.asked() if "calendar" in path]) == 5
    assert list(verdicts(config).values()).count("trap_alike") == 1


def test_paths_without_end_and_sessions_are_no_pages_of_their_own(site, settings):
    links = ("/a;jsessionid=1?x=1", "/a;jsessionid=2?x=1", "/a?x=1&PHPSESSID=77", "/a?x=1&utm_medium=mail", "/a?x=1#f")
    site.hosts["site.test"] = {"/": page(*links, "/x" * 40, "/p/q/p/q/p/q/"), "/a?x=1": page("b/", text="a")}
    config = settings()
    crawl(config)
    assert site.asked() == ["/", "/a?x=1", "/b/"]
    assert refused(config) == {"trap_long": 1, "trap_repeating": 1}


def test_reserved_pages_are_kept_only_where_the_recipe_says_so(site, settings):
    rules = '[{"location": "/closed*", "tdm-reservation": 1}]'
    site.hosts["site.test"] = {
        "/": page("/closed", "/open"),
        "/closed": page(text="closed"),
        "/open": page(text="open"),
        "/.well-known/tdmrep.json": Answer(rules, headers={"Content-Type": "application/json"}),
    }
    crawl(settings())
    assert verdicts(settings())[site.url("/closed")] == "tdm_reserved"
    kept, _ = documents(settings(reserved="keep")) if crawl(settings(reserved="keep")) else ({}, None)
    assert kept[site.url("/closed")].tdm == "reserved"
    assert kept[site.url("/open")].tdm == ""


def test_a_stop_is_answered_and_the_crawl_goes_on_where_it_was(site, settings):
    stop = StopFlag()

    def stopping(request):
        stop.requested = True
        return page("/c", text="b")

    site.hosts["site.test"] = {"/": page("/a", "/b"), "/a": page(text="a"), "/b": stopping, "/c": page(text="c")}
    config = settings()
    clock = ToldClock()
    with pytest.raises(StoppedError):
        crawl(config, stop=stop, clock=clock)
    crawl(config, clock=clock)
    assert [path for path in site.asked() if path != "/b"] == ["/", "/a", "/c"]
    assert set(verdicts(config).values()) == {""}


def test_two_crawls_do_not_share_a_store_at_once(site, settings):
    site.hosts["site.test"] = {"/": page()}
    config = settings()
    caught = []

    class Meddling(ToldClock):
        def sleep(self, seconds):
            if not caught:
                with pytest.raises(BusyError) as error:
                    crawl(config)
                caught.append(error)
            super().sleep(seconds)

    crawl(config, clock=Meddling())
    assert caught


def test_a_damaged_store_is_refused_with_its_name(site, settings):
    config = settings()
    website.store_of(config).mkdir(parents=True)
    (website.store_of(config) / "crawl.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(RefusedError, match=r"crawl\.sqlite"):
        crawl(config)
    assert site.log == []


def test_hosts_are_crawled_at_the_same_time_with_one_connection_each(site, settings):
    hosts = [f"h{n}.test" for n in range(4)]
    meeting = threading.Barrier(4, timeout=5.0)
    busy: dict[str, int] = {}

    def meet(request):
        host = request.headers["Host"].partition(":")[0]
        busy[host] = busy.get(host, 0) + 1
        meeting.wait()  # only passes if all four are asked at once
        return page("/a", text=host)

    for host in hosts:
        site.hosts[host] = {"/": meet, "/a": page(text=f"{host} a")}
    config = settings(*(site.url("/", host) for host in hosts), concurrency=4)
    crawl(config)
    assert busy == dict.fromkeys(hosts, 1)
    assert list(verdicts(config).values()).count("") == 8
