"""The stages `tokenizer` (learn it, or take the base model's) and `tokens` (the corpus as ids)."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatwright.data.document import iter_rows
from chatwright.foundation import storage
from chatwright.foundation.console import ProgressLine, say
from chatwright.foundation.errors import DataError
from chatwright.foundation.stage import StageContext
from chatwright.tokens.shards import ShardWriter, TextScores, TokenData, total, write_index
from chatwright.tokens.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer, measure_compression, train_tokenizer

_BATCH_DOCUMENTS = 256
_SHARD_DOCUMENTS = 20_000
_SHARD_CHARACTERS = 256 << 20  # in memory while a shard is encoded, and still there while the next one is read
_COMPRESSION_SAMPLE = 200
_COLUMNS = ("id", "text", "domain", *TextScores._fields)
# Marks a shard that is written, until all are published. Raise the number when shards are cut elsewhere: what an
# earlier version left half done is then encoded anew.
_DONE = "{}.2.done.json"
_ANY_MARK = ".*.done.json"  # of versions that kept marks beside the shards

Row = dict[str, Any]  # what is read of a document


def run_tokenizer(context: StageContext) -> dict[str, Any]:
    """Learn a tokenizer on the training split of the corpus, and measure it on the held-out one."""
    config: TokenizerConfig = context.config
    corpus = context.inputs["corpus"]
    tokenizer = train_tokenizer(learning_texts(corpus, max_bytes=config.max_training_bytes), config)
    tokenizer.save(context.output)
    heldout = itertools.islice(iter_rows(corpus, ["text"], split="heldout"), _COMPRESSION_SAMPLE)
    measured = measure_compression(tokenizer, (row["text"] for row in heldout))
    summary = {
        "kind": config.kind,
        "vocabulary_size": tokenizer.size,
        "digest": tokenizer.digest,
        "heldout_bytes_per_token": round(measured.bytes_per_token, 4),
    }
    storage.write_json(context.output / "report.json", summary)
    say(f"  {tokenizer.size} tokens learned; {measured.bytes_per_token:.2f} bytes of held-out text per token")
    return summary


def learning_texts(corpus: Path, *, max_bytes: int) -> Iterator[str]:
    """Texts of the training split to learn a tokenizer from, for whoever stops at `max_bytes`.

    The corpus stands source by source, so the beginning of a larger one would be one source alone. There an even sample
    of about `max_bytes` comes first: the documents whose id, a hash, is low enough as a fraction, the same ones each
    time. What it leaves out follows, since few or very unlike documents may give too little. All is in stored order.
    """
    total_bytes = sum(len(row["text"].encode()) for row in iter_rows(corpus, ["text"], split="train"))
    for is_sample in (True, False) if total_bytes > max_bytes else (True,):
        for row in iter_rows(corpus, ["id", "text"], split="train"):
            is_low = int(row["id"], 16) * total_bytes < max_bytes << 4 * len(row["id"])  # four bits a digit
            if is_low is is_sample:
                yield row["text"]


def run_tokens(context: StageContext) -> dict[str, Any]:
    """Encode the corpus into shards, split by split. Shards that an earlier try wrote are kept."""
    tokenizer = load_tokenizer(context.inputs["tokenizer"])
    corpus = context.inputs["corpus"]
    domains = sorted({row["domain"] for row in iter_rows(corpus, ["domain"])})
    if not domains:
        raise DataError(f"the corpus `{corpus}` holds no text", hint="add documents to `collect.sources`")
    shards = {name: _encode_split(context, tokenizer, corpus, name, domains) for name in ("train", "heldout")}
    write_index(context.output, shards, tokenizer=tokenizer.digest, vocabulary=tokenizer.size, domains=domains)
    for mark in context.output.glob(_ANY_MARK):
        mark.unlink()
    summary = {
        name: {key: total(entries, key) for key in ("tokens", "documents", "bytes")} for name, entries in shards.items()
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


def _encode_split(
    context: StageContext, tokenizer: Tokenizer, corpus: Path, split: str, domains: list[str]
) -> list[dict[str, Any]]:
    entries = []
    numbers = {name: number for number, name in enumerate(domains)}
    progress = ProgressLine(f"encode {split}", sum(1 for _ in iter_rows(corpus, ["split"], split=split)))
    done = 0
    for index, documents in enumerate(_cut(iter_rows(corpus, _COLUMNS, split=split))):
        context.stop.check("the shards encoded so far")
        stem = context.output / f"{split}-{index:05d}"
        done += len(documents)
        entry_path = context.work / _DONE.format(stem.name)
        if not _is_written(stem, entry_path):
            entry = _encode_shard(tokenizer, documents, numbers, stem)
            with storage.publish_file(entry_path) as path:
                storage.write_json(path, entry)
        entries.append(storage.read_json(entry_path))
        progress.update(done)
    progress.close()
    return entries


def _is_written(stem: Path, mark: Path) -> bool:
    """Whether a shard is marked and its files are here: a mark may outlive the directory that it speaks of."""
    kinds = storage.read_json(mark)["digests"] if mark.exists() else {}
    return bool(kinds) and all(stem.with_name(f"{stem.name}.{kind}.npy").is_file() for kind in kinds)


def _encode_shard(tokenizer: Tokenizer, rows: list[Row], numbers: dict[str, int], stem: Path) -> dict[str, Any]:
    writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
    for batch in _groups(iter(rows), _BATCH_DOCUMENTS):
        for row, ids in zip(batch, tokenizer.encode_arrays([row["text"] for row in batch]), strict=True):
            size = len(row["text"].encode())
            scores = TextScores(*(row[name] for name in TextScores._fields))
            writer.add(ids, domain=numbers[row["domain"]], num_bytes=size, document=row["id"], scores=scores)
    return writer.save(stem)


def _cut(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows by shard, as long as their number and characters stay within the limits; a longer text stands alone."""
    shard: list[Row] = []
    characters = 0
    for row in rows:
        size = len(row["text"])
        if shard and (len(shard) >= _SHARD_DOCUMENTS or characters + size > _SHARD_CHARACTERS):
            yield shard
            shard, characters = [], 0
        shard.append(row)
        characters += size
    if shard:
        yield shard


def _groups(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while group := list(itertools.islice(rows, size)):
        yield group
