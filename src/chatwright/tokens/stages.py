"""The stages `tokenizer` (learn it, or take the base model's) and `tokens` (the corpus as ids)."""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from chatwright.data.document import Place, iter_groups, iter_rows, num_groups
from chatwright.data.engine import Job, read_notes, run_jobs, work_file
from chatwright.data.report import Tally
from chatwright.data.stretch import Stretch
from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import DataError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.tokens.learning_sample import WeightedTexts, domains_of, learning_texts
from chatwright.tokens.shards import ShardWriter, TextScores, TokenData, shard_files, total, write_index
from chatwright.tokens.tokenizer import (
    Tokenizer,
    TokenizerConfig,
    load_tokenizer,
    measure_compression,
    train_tokenizer,
)

_BATCH_DOCUMENTS = 256
_SHARD_DOCUMENTS = 20_000
_SHARD_CHARACTERS = 256 << 20  # their ids are in memory until the shard is written
_COMPRESSION_SAMPLE = 200
_COLUMNS = ("id", "text", "domain", *TextScores._fields)
_SPLITS = ("train", "heldout")
# Raise it when shards have other bytes than before: what an earlier version left half done is then encoded anew.
_VERSION = 3
_ANY_MARK = ".*.done.json"  # of versions that kept marks beside the shards
_NOTHING = pa.schema([("shard", pa.string())])  # a work file says in its footer what stands in the output


def run_tokenizer(context: StageContext) -> dict[str, Any]:
    """Learn a tokenizer on the training split of the corpus, and measure it on the held-out one.

    Raises:
        DataError: there is no text to learn from, or a weight names no domain.
        StoppedError: a stop was asked for; nothing of the stage is kept.
    """
    config: TokenizerConfig = context.config
    stop = context.stop
    corpus = context.inputs["corpus"]
    limit = config.max_training_bytes
    weighted = WeightedTexts(corpus, config.weights, max_bytes=limit, stop=stop) if config.weights else None
    texts = learning_texts(corpus, max_bytes=limit, stop=stop) if weighted is None else weighted
    tokenizer = _learned(texts, config)
    tokenizer.save(context.output)
    heldout = itertools.islice(iter_rows(corpus, ["text"], split="heldout"), _COMPRESSION_SAMPLE)
    measured = measure_compression(tokenizer, (row["text"] for row in heldout))
    summary: dict[str, Any] = {
        "kind": config.kind,
        "vocabulary_size": tokenizer.size,
        "digest": tokenizer.digest,
        "heldout_bytes_per_token": round(measured.bytes_per_token, 4),
    }
    if weighted is not None:
        summary["sample"] = _told_sample(weighted)
    storage.write_json(context.output / "report.json", summary)
    say(f"  {tokenizer.size} tokens learned; {measured.bytes_per_token:.2f} bytes of held-out text per token")
    return summary


def _learned(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """A tokenizer learned in a thread of its own.

    The trainers keep the thread that calls them until they end, and signals are heard in the main one alone: there, the
    request to stop would never reach whoever reads the texts.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(train_tokenizer, texts, config).result()


def _told_sample(weighted: WeightedTexts) -> dict[str, Any]:
    """What each domain gave, for the report and for the person."""
    taken = weighted.taken
    whole = sum(one.bytes for one in taken)
    shown = ", ".join(f"{one.domain} {one.bytes / whole:.1%} (read {one.times:.3g} times)" for one in taken)
    say(f"  learned by weight from {whole / 1e6:.1f} MB: {shown}")
    return {one.domain: {"bytes": one.bytes, "times": one.times} for one in taken}


def run_tokens(context: StageContext) -> dict[str, Any]:
    """Encode the corpus into shards, split by split. Shards that an earlier try wrote are kept.

    Raises:
        DataError: the corpus is empty, or a shard could not be encoded: none is left out.
        StoppedError: a stop was asked for; finished shards are kept.
    """
    tokenizer = load_tokenizer(context.inputs["tokenizer"])
    corpus = context.inputs["corpus"]
    domains = domains_of(corpus, stop=context.stop)
    if not domains:
        raise DataError(f"the corpus `{corpus}` holds no text", hint="add documents to `collect.sources`")
    jobs = list(_jobs(context, domains, tokenizer.digest))
    entries = _encode(context, jobs)
    shards = {name: [entries[job.label] for job in jobs if job.payload.split == name] for name in _SPLITS}
    write_index(context.output, shards, tokenizer=tokenizer.digest, vocabulary=tokenizer.size, domains=domains)
    for mark in context.output.glob(_ANY_MARK):
        mark.unlink()
    summary = {
        name: {key: total(listed, key) for key in ("tokens", "documents", "bytes")} for name, listed in shards.items()
    }
    summary["by_domain"] = _by_domain(TokenData(context.output))
    say(f"  {summary['train']['tokens']:,} training tokens, {summary['heldout']['tokens']:,} held out")
    if len(domains) > 1:
        for domain, tokens in summary["by_domain"].items():
            say(f"    {domain}: {tokens:,}")
    return summary


def _by_domain(data: TokenData) -> dict[str, int]:
    """Training tokens by domain, what the weights of a mixture are set against."""
    train = data.split("train")
    return {domain: int(train.spans(domain)[1].sum()) for domain in train.domains}


class _Begin(NamedTuple):
    """Where a shard's documents begin, and how many there are."""

    place: Place
    row: int  # of that row group, among those of the split
    documents: int


class _Payload(NamedTuple):
    """One shard to encode; crosses to another process or machine."""

    corpus: str
    tokenizer: str
    split: str
    begin: _Begin
    domains: tuple[str, ...]
    stem: str  # whole path of its files, but for their kind


def _jobs(context: StageContext, domains: list[str], tokenizer: str) -> Iterator[Job]:
    """A job for each shard; its key names all that the shard depends on beside the corpus, which the stage's does."""
    places = {name: str(context.inputs[name].resolve()) for name in ("corpus", "tokenizer")}
    for split in _SPLITS:
        for index, begin in enumerate(_cut(context.inputs["corpus"], split, context.stop)):
            name = f"{split}-{index:05d}"
            stem = str(context.output.resolve() / name)
            payload = _Payload(**places, split=split, begin=begin, domains=tuple(domains), stem=stem)
            yield Job(storage.digest_json([_VERSION, tokenizer, domains, name, begin])[:32], name, payload)


def _cut(corpus: Path, split: str, stop: StopFlag) -> Iterator[_Begin]:
    """Shards, as long as their documents and characters stay within the limits; a longer text stands alone."""
    begin: _Begin | None = None
    characters = 0
    groups = Stretch(f"measure {split}", stop=stop).through(
        iter_groups(corpus, ["text"], split=split), total=num_groups(corpus)
    )
    for place, rows in groups:
        for number, row in enumerate(rows):
            size = len(row["text"])
            if begin is not None and (begin.documents >= _SHARD_DOCUMENTS or characters + size > _SHARD_CHARACTERS):
                yield begin
                begin, characters = None, 0
            begin = begin or _Begin(place, number, 0)
            begin = begin._replace(documents=begin.documents + 1)
            characters += size
    if begin is not None:
        yield begin


def _encode(context: StageContext, jobs: list[Job]) -> dict[str, dict[str, Any]]:
    """The index entry of every shard, by its name."""
    # Here one shard after the other, since encoding has threads of its own; on a cluster each is a task.
    spread = context if context.engine == "ray" else dataclasses.replace(context, workers=1)
    results = run_jobs(_encode_shard, jobs, context=spread, label="encode")
    if _forget_lost(results.paths, context.output):
        results = run_jobs(_encode_shard, jobs, context=spread, label="encode")
    if results.failed:
        name, failure = min(results.failed.items())
        raise DataError(
            f"{len(results.failed)} of {len(jobs)} token shards could not be written, such as `{name}`: {failure}",
            kept="the shards that were written",
            hint="see the cause; the same command writes those that are missing",
        )
    entries = [read_notes(path)[0] for path in results.paths]
    return {entry["stem"]: entry for entry in entries}


def _forget_lost(paths: list[Path], output: Path) -> bool:
    """Remove the work files of shards that are gone, for they may outlive the output; whether there were any."""
    lost = [path for path in paths if not all(file.is_file() for file in shard_files(output, read_notes(path)[0]))]
    for path in lost:
        path.unlink()
    return bool(lost)


def _encode_shard(payload: _Payload, path: Path) -> None:
    """Write one shard's files, and beside them a work file with its entry for the index."""
    tokenizer = load_tokenizer(Path(payload.tokenizer))
    numbers = {name: number for number, name in enumerate(payload.domains)}
    writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
    tally = Tally()
    begin = payload.begin
    groups = iter_groups(Path(payload.corpus), _COLUMNS, split=payload.split, begin=begin.place)
    rows = itertools.chain.from_iterable(rows for _, rows in groups)
    wanted = itertools.islice(rows, begin.row, begin.row + begin.documents)
    while batch := list(itertools.islice(wanted, _BATCH_DOCUMENTS)):
        for row, ids in zip(batch, tokenizer.encode_arrays([row["text"] for row in batch]), strict=True):
            size = len(row["text"].encode())
            scores = TextScores(*(row[name] for name in TextScores._fields))
            writer.add(ids, domain=numbers[row["domain"]], num_bytes=size, document=row["id"], scores=scores)
            tally.seen(len(row["text"]))
    entry = writer.save(Path(payload.stem))
    with work_file(path, _NOTHING, tally, notes=[entry]):
        pass  # all that it says stands in its footer
