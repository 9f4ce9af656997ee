"""The source `website`: pages of sites, crawled into a store of its own and read from there.

Crawling is `data.crawl`'s work. The network is needed by `prepare` alone; partitions come from the store.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from chatwright.data import limits
from chatwright.data.crawl.addresses import SystemResolver
from chatwright.data.crawl.clock import Clock
from chatwright.data.crawl.crawler import Crawler
from chatwright.data.crawl.frontier import Frontier, has_ended, may_be_better
from chatwright.data.crawl.links import licence_name
from chatwright.data.crawl.selection import Choice, choose, refused_links
from chatwright.data.crawl.settings import CrawlSettings
from chatwright.data.crawl.store import Store
from chatwright.data.crawl.visit import decode_page
from chatwright.data.crawl.wire import Connector
from chatwright.data.decode import sound_text
from chatwright.data.document import UNKNOWN_LANGUAGE, Document, document_id
from chatwright.data.report import Tally
from chatwright.data.sources.limited import Limited
from chatwright.data.sources.partition import Input, Partition, partitions_of
from chatwright.foundation import storage
from chatwright.foundation.config import path_of
from chatwright.foundation.console import say
from chatwright.foundation.errors import DataError
from chatwright.foundation.stopping import StopFlag


class Website(Limited, CrawlSettings):
    """Pages of websites, fetched as their owners allow."""

    kind: Literal["website"] = "website"

    def problems(self) -> Iterator[str]:
        """Those of a crawl, and of the caps that every source has."""
        yield from Limited.problems(self)
        yield from CrawlSettings.problems(self)


def fingerprint(config: Website) -> str:
    """The settings alone: a site is asked again when the recipe says so (`refresh_before`), not on every run."""
    return storage.digest_json(config.model_dump(mode="json"))


def prepare(config: Website, *, stop: StopFlag) -> None:
    """Crawl what is not in the store yet; returns at once if an earlier run got all that there is.

    What an earlier run gave up for a reason that may pass is asked for again, and nothing else.

    Raises:
        BusyError: another process crawls into the same store.
        StoppedError: a stop was asked for; the same call goes on from there.
        RefusedError: the store is damaged.
    """
    stopped = threading.Event()
    resolver = SystemResolver()
    connector = Connector(resolver=resolver, private=config.networks, stopped=stopped)
    try:
        crawl(config, connector=connector, clock=Clock(), stop=stop, stopped=stopped)
    finally:
        resolver.close()


def crawl(
    config: Website,
    *,
    connector: Connector,
    clock: Clock,
    stop: StopFlag,
    stopped: threading.Event,
    time_limit_s: float = limits.FETCH_TIME_LIMIT_S,
) -> None:
    """`prepare` with its seams: how connections are made, and by which time hosts are left alone."""
    directory = store_of(config)
    with storage.exclusive(directory), storage.full_disk_named(directory):
        store = Store(directory)
        try:
            if not has_ended(store, config.traversal) or may_be_better(store):
                Crawler(
                    config,
                    store=store,
                    connector=connector,
                    clock=clock,
                    stop=stop,
                    stopped=stopped,
                    time_limit_s=time_limit_s,
                ).run()
                _say_refused_links(config, store)
        finally:
            store.close()


def list_partitions(config: Website) -> list[Partition]:
    """Every address of the crawl, in its order; those that are no document carry their reason.

    Raises:
        DataError: the crawl has not been made, or was made with other settings.
    """
    store = _finished(config)
    try:
        inputs = [_input(choice) for choice in choose(config, Frontier(store))]
    finally:
        store.close()
    bounds = {"max_bytes": limits.PARTITION_BYTES, "max_inputs": limits.PARTITION_INPUTS}
    return partitions_of("website", inputs, name=lambda entry: str(entry["url"]), **bounds)


def read_partition(config: Website, partition: Partition, tally: Tally) -> Iterator[Document]:
    """Documents of one partition.

    Raises:
        RefusedError: a stored page is damaged.
    """
    store = Store(store_of(config), is_read_only=True)
    try:
        for entry in partition.inputs:
            if entry["reason"]:
                tally.drop(entry["reason"], path=entry["url"], detail=entry["detail"], characters=entry["bytes"])
                continue
            document = _document(config, entry, store.body(entry["digest"]), tally)
            if document is not None:
                yield document
    finally:
        store.close()


def store_of(config: Website) -> Path:
    """The folder of a crawl."""
    return path_of(config.store or f"crawls/{config.name}")


def may_give_more(config: Website) -> bool:
    """Whether the crawl gave up addresses that another run may get."""
    store = _finished(config)
    try:
        return may_be_better(store)
    finally:
        store.close()


def _finished(config: Website) -> Store:
    directory = store_of(config)
    if directory.is_dir():
        store = Store(directory)
        if has_ended(store, config.traversal):
            return store
        store.close()
    raise DataError(f"`{directory}` holds no finished crawl of {config.name}", hint="run the recipe: it crawls first")


def _input(choice: Choice) -> Input:
    facts = choice.facts
    entry: Input = {"url": choice.url, "reason": choice.reason, "detail": choice.detail, "bytes": facts.get("bytes", 0)}
    if choice.reason:
        return entry
    kept = ("digest", "media", "content_type", "fetched", "licence", "language", "tdm")
    return entry | {name: facts[name] for name in kept}


def _document(config: Website, entry: Input, body: bytes, tally: Tally) -> Document | None:
    decoded = decode_page(body, {"content-type": entry["content_type"]})
    if decoded is None:
        tally.drop("undecodable", path=entry["url"], characters=len(body))
        return None
    sound = sound_text(decoded.text)
    for name, count in (decoded.changes | sound.changes).items():
        tally.change(name, count)
    source = f"website:{config.name}"
    declared = entry["licence"]
    return Document(
        id=document_id(source, entry["url"]),
        text=sound.text,
        source=source,
        path=entry["url"],
        url=entry["url"],
        domain=config.domain or config.name,
        media=entry["media"],
        licence=licence_name(declared) if declared else config.licence,
        licence_evidence=f"the page links to {declared}" if declared else "",
        language=entry["language"] or UNKNOWN_LANGUAGE,
        fetched=entry["fetched"],
        robots="allowed",
        tdm=entry["tdm"],
    )


def _say_refused_links(config: Website, store: Store) -> None:
    refused = refused_links(Frontier(store))
    if refused:
        say(
            f"  links of {config.name} not followed: " + ", ".join(f"{count:,} {why}" for why, count in refused.items())
        )
