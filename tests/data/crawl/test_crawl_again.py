"""What failed for a reason that may pass is asked for again by the next run; what was fetched is not."""

import pytest
from site_on_loopback import Answer, crawl, page, text, verdicts

from chatwright.data import collect, limits
from chatwright.data.crawl.verdicts import Unfetchable
from chatwright.foundation.errors import StoppedError
from chatwright.foundation.stopping import StopFlag

TROUBLED = Answer("", 503)


def no_names(host, port):
    raise Unfetchable("dns_failed", f"{host}: no answer in time", may_pass=True)


def test_rules_that_could_not_be_had_are_asked_for_again_by_the_next_run(site, settings):
    site.hosts["site.test"] = {"/": page("/a"), "/a": page(text="a"), "/robots.txt": TROUBLED}
    config = settings()
    crawl(config)
    assert verdicts(config) == {site.url(): "robots_unreachable"}
    site.hosts["site.test"]["/robots.txt"] = text("User-agent: *\nDisallow: /private")
    crawl(config)
    assert verdicts(config) == {site.url(): "", site.url("/a"): ""}
    assert site.asked() == ["/", "/a"]


def test_a_name_that_did_not_resolve_is_looked_up_again_by_the_next_run(site, settings):
    site.hosts["site.test"] = {"/": page()}
    config = settings()
    crawl(config, resolver=no_names)
    assert verdicts(config) == {site.url(): "dns_failed"}
    crawl(config)
    assert verdicts(config) == {site.url(): ""}


@pytest.mark.parametrize("troubled", [1, limits.HOST_FAILURES + 3])
def test_after_an_outage_only_what_failed_is_asked_for_and_the_crawl_is_that_of_a_sound_site(
    site, settings, tmp_path, troubled
):
    paths = [f"/{n}" for n in range(12)]
    pages = {"/": page(*paths, "/gone")} | {path: page(f"{path}/inner", text=path) for path in paths}
    pages |= {f"{path}/inner": page(text=f"{path} inner") for path in paths}
    site.hosts["site.test"] = pages | dict.fromkeys(paths[2 : 2 + troubled], TROUBLED)
    config = settings(max_pages=20)
    crawl(config)
    given_up = [url for url, reason in verdicts(config).items() if reason in ("http_503", "host_given_up")]
    assert len(given_up) >= troubled
    fetched = [path for path in site.asked() if pages.get(path) is site.hosts["site.test"].get(path)]
    site.hosts["site.test"] = pages
    site.log.clear()
    crawl(config)
    assert not set(site.asked()) & set(fetched)
    found = verdicts(config)
    sound = settings(max_pages=20, store=str(tmp_path / "sound"))
    crawl(sound)
    assert list(found.items()) == list(verdicts(sound).items())  # in the same order, cut off at the same page
    site.log.clear()
    crawl(config)
    assert site.log == []


def test_the_stage_says_that_pages_may_be_had_later(site, settings, stage, monkeypatch):
    site.hosts["site.test"] = {"/": page("/a"), "/a": TROUBLED}
    config = settings()
    crawl(config)
    monkeypatch.setattr(collect, "prepare", lambda *_, **__: None)  # it has no network of tests
    context = stage(collect.CollectConfig(sources=(config,)))
    assert collect.run(context)["try_again"] == {"crawls": 1}
    site.hosts["site.test"]["/a"] = page(text="a")
    crawl(config)
    summary = collect.run(context)
    assert (summary["documents"], "try_again" in summary) == (2, False)


def test_a_page_that_is_gone_or_forbidden_is_not_asked_for_again(site, settings):
    site.hosts["site.test"] = {"/": page("/gone", "/no"), "/robots.txt": text("User-agent: *\nDisallow: /no")}
    config = settings()
    crawl(config)
    site.log.clear()
    crawl(config)
    assert site.log == []


def test_an_outage_while_asking_again_takes_no_page_that_was_had_and_no_reservation(site, settings):
    site.hosts["site.test"] = {
        "/": page("/a", "/closed", "/b"),
        "/a": page(text="a"),
        "/closed": page(text="closed"),
        "/b": TROUBLED,
        "/.well-known/tdmrep.json": Answer('[{"location": "/closed", "tdm-reservation": 1}]'),
    }
    config = settings()
    clock = crawl(config)
    before = {site.url(): "", site.url("/a"): "", site.url("/closed"): "tdm_reserved", site.url("/b"): "http_503"}
    assert verdicts(config) == before
    clock.moment += limits.ROBOTS_FRESH_S + 1
    site.hosts["site.test"] = {"/robots.txt": TROUBLED}
    crawl(config, clock=clock)
    assert verdicts(config) == before | {site.url("/b"): "robots_unreachable"}


def test_asking_again_that_is_stopped_halfway_goes_on_where_it_was(site, settings):
    stop = StopFlag()

    def stopping(request):
        stop.requested = True
        return page(text="b")

    site.hosts["site.test"] = {"/": page("/a", "/b", "/c"), "/a": page(text="a"), "/b": TROUBLED, "/c": TROUBLED}
    config = settings()
    clock = crawl(config)
    site.hosts["site.test"] |= {"/b": stopping, "/c": page(text="c")}
    site.log.clear()
    with pytest.raises(StoppedError):
        crawl(config, stop=stop, clock=clock)
    crawl(config, clock=clock)
    assert [path for path in site.asked() if path != "/b"] == ["/c"]
    assert set(verdicts(config).values()) == {""}
