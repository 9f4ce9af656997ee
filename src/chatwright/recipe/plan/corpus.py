"""How many tokens there are to train on: counted by a run, or estimated from a sample of documents."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data.report import Tally
from chatwright.data.sources import Files, Partition, list_partitions, read_partition
from chatwright.foundation import storage
from chatwright.foundation.config import read_toml
from chatwright.foundation.errors import DataError, UsageError
from chatwright.tokens.tokenizer import TokenizerConfig, measure_compression, train_tokenizer

_SECTIONS = ("collect", "clean", "tokenizer")
_SAMPLE_S = 12.0  # reading stops after so long; the rest is judged by its bytes
_SAMPLE_BYTES = 4_000_000
_LEARN_BYTES = 1_500_000  # of the sample, for a tokenizer of its own
_KEPT_SHARE = 0.9  # of the text, after cleaning and with 5 % held out: cautious


class CorpusSize(NamedTuple):
    """What there is to train on."""

    tokens: int
    bytes_per_token: float
    vocabulary_size: int
    how: str  # where the figures are from
    name: str  # for the planned recipe
    sections: dict[str, Any]  # of the recipe, as far as they lead to these tokens


def size_of_run(run_dir: Path) -> CorpusSize:
    """Counted: the training tokens that a run has published.

    Raises:
        UsageError: the run has no tokens yet.
    """
    path = run_dir / "tokens"
    if not (path / storage.MANIFEST).is_file():
        raise UsageError(
            f"`{run_dir}` has no tokens yet", hint="`chatwright tokenize RECIPE` makes them; or name `--documents`"
        )
    train = storage.read_manifest(path).facts["summary"]["train"]
    vocabulary = int(storage.read_json(path / "index.json")["vocabulary_size"])
    per_token = train["bytes"] / max(1, train["tokens"])
    recipe = read_toml(run_dir / "recipe.toml")
    sections = {name: recipe[name] for name in _SECTIONS if name in recipe}
    name = str(recipe.get("name", "run"))
    if (run_dir / "pretrain").is_dir():  # what was trained stays; without it the run goes on with the planned recipe
        name = f"{name[:55]}-planned"
    return CorpusSize(int(train["tokens"]), per_token, vocabulary, "counted by the run", name, sections)


def size_of_documents(folder: Path, *, vocabulary_size: int) -> CorpusSize:
    """Estimated: documents are read for some seconds, a tokenizer is learned on them, the rest is judged by size.

    Raises:
        DataError: no folder, or nothing in it can be read.
    """
    source = Files(path=str(folder))
    partitions = list_partitions(source)
    whole = sum(_bytes_of(one) for one in partitions)
    texts, read_bytes = _sample(source, partitions)
    text_bytes = sum(len(text.encode()) for text in texts)
    if not text_bytes:
        raise DataError(f"no text in `{folder}`", hint="txt, md, rst, html, epub, pdf, jsonl and parquet are read")
    tokenizer = train_tokenizer(
        (text[:_LEARN_BYTES] for text in texts),
        TokenizerConfig(vocabulary_size=vocabulary_size, max_training_bytes=_LEARN_BYTES),
    )
    measured = measure_compression(tokenizer, (text[:200_000] for text in itertools.islice(texts, 50)))
    total_text = text_bytes * whole / max(1, read_bytes)
    share = f"{read_bytes / max(1, whole):.0%}"
    return CorpusSize(
        tokens=round(total_text * _KEPT_SHARE / measured.bytes_per_token),
        bytes_per_token=measured.bytes_per_token,
        vocabulary_size=vocabulary_size,
        how=f"estimated from {share} of the files' bytes, less a tenth for cleaning and the held-out part",
        name="planned",
        sections={
            "collect": {"sources": [{"kind": "files", "path": str(folder.expanduser().resolve())}]},
            "tokenizer": {"vocabulary_size": vocabulary_size},
        },
    )


class _Sample(NamedTuple):
    texts: list[str]
    read_bytes: int  # of the files that they were in


def _sample(source: Files, partitions: list[Partition]) -> _Sample:
    """Texts of partitions spread over the list, whole partitions, within the sample's time and size."""
    texts: list[str] = []
    read_bytes, size, began, tally = 0, 0, time.monotonic(), Tally()
    for partition in _spread(partitions):
        if texts and (size > _SAMPLE_BYTES or time.monotonic() - began > _SAMPLE_S):
            break
        for document in read_partition(source, partition, tally):
            texts.append(document.text)
            size += len(document.text)
        read_bytes += _bytes_of(partition)
    return _Sample(texts, read_bytes)


def _spread(partitions: list[Partition]) -> Iterator[Partition]:
    """Every eighth first, then those between: the first files of a folder are seldom typical."""
    for offset in range(8):
        yield from partitions[offset::8]


def _bytes_of(partition: Partition) -> int:
    return sum(int(entry["bytes"]) for entry in partition.inputs)
