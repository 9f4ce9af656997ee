"""A crawl that is killed at any moment goes on to the same corpus, and asks again for next to nothing."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from site_on_loopback import crawl, page, verdicts

from chatwright.data import collect, limits
from chatwright.data.crawl.store import Store
from chatwright.data.document import iter_documents
from chatwright.data.report import Tally
from chatwright.data.sources import website
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, RefusedError

KILLS = 6
PROGRAM = """
import sys
from site_on_loopback import crawl
from chatwright.data.sources.website import Website
if __name__ == "__main__":
    crawl(Website.model_validate_json(sys.argv[1]))
"""


def corpus(config):
    """All that a crawl gives, but for the moment at which pages were fetched."""
    tally = Tally()
    found = []
    for part in website.list_partitions(config):
        for document in website.read_partition(config, part, tally):
            found.append(dataclasses.replace(document, fetched=""))
    return found, tally


@pytest.mark.slow
def test_a_crawl_killed_at_any_moment_gives_the_same_corpus(site, settings, tmp_path):
    pages = {f"/{n}": page(f"/{2 * n}", f"/{2 * n + 1}", f"/{n // 2}", text=f"page {n}") for n in range(1, 80)}
    site.hosts["site.test"] = {"/": page("/1")} | pages
    whole = settings(store=str(tmp_path / "whole"))
    crawl(whole)
    expected, counted = corpus(whole)
    unbroken = len(site.log)
    site.log.clear()
    killed = settings(store=str(tmp_path / "killed"))
    command = [sys.executable, "-c", PROGRAM, killed.model_dump_json()]
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    chance = random.Random(7)
    kills = 0
    for kill in range(KILLS):
        target = (kill + 1) * unbroken // (KILLS + 1) - chance.randrange(5)
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 20.0
            while len(site.log) < target and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.02)
            kills += process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
    crawl(killed)
    assert kills >= KILLS // 2
    found, tally = corpus(killed)
    assert found == expected
    assert tally == counted
    assert len(site.log) <= unbroken + 2 * KILLS  # what was under way, at most one request for each kill, and the rules


def test_a_finished_crawl_needs_no_network(site, settings, stage):
    site.hosts["site.test"] = {"/": page("/a", text="start"), "/a": page(text="a")}
    config = settings()
    crawl(config)
    asked = list(site.log)
    context = stage(collect.CollectConfig(sources=(config,)))
    summary = collect.run(context)
    assert summary["documents"] == 2
    assert [document.path for document in iter_documents(context.output)] == [site.url("/"), site.url("/a")]
    assert storage.read_json(context.output / "report.json")["by_domain"] == {
        "site.test": {"documents": 2, "bytes": summary["bytes"]}
    }
    assert site.log == asked


def test_the_stage_itself_refuses_a_private_site_that_the_recipe_does_not_name(site, settings, stage):
    config = settings(f"http://127.0.0.1:{site.port}/")
    with pytest.raises(DataError, match="no text") as caught:
        collect.run(stage(collect.CollectConfig(sources=(config,))))
    assert caught.value.cause == "dropped: private_address: 1"
    assert site.log == []


def test_the_stage_itself_crawls_a_private_site_that_the_recipe_names(site, settings, stage):
    site.hosts["127.0.0.1"] = {"/": page(text="mine")}
    config = settings(f"http://127.0.0.1:{site.port}/", allow_private=("127.0.0.0/8",))
    assert collect.run(stage(collect.CollectConfig(sources=(config,))))["documents"] == 1


def test_a_hostile_page_ends_in_its_own_process_and_the_crawl_goes_on(site, settings, monkeypatch):
    monkeypatch.setattr(limits, "LINKS_TIME_LIMIT_S", 1.0)
    hostile = page()
    hostile.body = "<a " + " ".join(f"a{n}=1" for n in range(100_000)) + ">"
    site.hosts["site.test"] = {"/": page("/hostile", "/b"), "/hostile": hostile, "/b": page(text="b")}
    config = settings()
    crawl(config)
    assert verdicts(config) == {site.url("/"): "", site.url("/hostile"): "links_timeout", site.url("/b"): ""}


def test_a_stored_page_that_was_damaged_is_not_taken(site, settings):
    site.hosts["site.test"] = {"/": page()}
    config = settings()
    crawl(config)
    store = Store(website.store_of(config))
    store.execute("UPDATE bodies SET data = x'00'")
    (part,) = website.list_partitions(config)
    with pytest.raises(RefusedError, match="damaged"):
        list(website.read_partition(config, part, Tally()))
    store.close()


def test_partitions_of_a_crawl_that_was_not_made_are_refused(settings):
    with pytest.raises(DataError, match="no finished crawl"):
        website.list_partitions(settings())
