"""How many tokens there are to train on: counted by a run, or estimated from a sample of documents."""

import copy
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data.report import Tally
from chatwright.data.sources import Files, Partition, list_partitions, read_partition
from chatwright.foundation import storage
from chatwright.foundation.config import read_toml
from chatwright.foundation.errors import DataError, UsageError
from chatwright.recipe.recipe import Recipe
from chatwright.tokens.tokenizer import TokenizerConfig, measure_compression, train_tokenizer

_SECTIONS = ("collect", "clean", "tokenizer")
_CALLED = ("seed", "workers", "engine")  # a recipe's keys above its sections, as far as documents depend on them
_RUNS = str(Recipe.model_fields["runs"].default)
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
    sections: dict[str, Any]  # of the recipe, and keys above them, as far as they lead to these tokens


def size_of_run(run_dir: Path) -> CorpusSize:
    """Counted: the training tokens that a run has published.

    Raises:
        UsageError: the run has no tokens yet, or it begins from a model, whose shape and tokenizer are not to plan.
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
    if "base" in recipe:
        raise UsageError(
            f"`{run_dir}` begins from a model, and a plan is of a model from fresh weights",
            hint="name `--documents DIR`, or a run without `[base]`",
        )
    sections = _where_and_how(recipe, run_dir) | {name: recipe[name] for name in _SECTIONS if name in recipe}
    name = str(recipe.get("name", "run"))
    if (run_dir / "pretrain").is_dir():  # what was trained stays; without it the run goes on with the planned recipe
        name = f"{name[:55]}-planned"
    return CorpusSize(int(train["tokens"]), per_token, vocabulary, "counted by the run", name, sections)


def _where_and_how(recipe: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The run's own seed, folder and workers: with others than these every stage would be done again, or elsewhere."""
    default = {name: Recipe.model_fields[name].default for name in _CALLED}
    kept = {name: recipe[name] for name in _CALLED if recipe.get(name, default[name]) != default[name]}
    named, found = str(recipe.get("runs", _RUNS)), run_dir.resolve().parent
    if Path(named).resolve() != found:
        kept["runs"] = str(found)  # the recipe was called from another folder, or the run was moved
    elif named != _RUNS:
        kept["runs"] = named
    return kept


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


class Portable(NamedTuple):
    """A recipe's keys for a machine to which one folder is sent."""

    sections: dict[str, Any]
    outside: list[str]  # places that are not in the folder


def portable(sections: dict[str, Any], *, recipe: Path, root: Path) -> Portable:
    """The same with every place below `root` named from the recipe's folder, `runs` from `root` itself.

    Args:
        sections: of a `CorpusSize`.
        recipe: the file that they will stand in.
        root: the folder that is sent.
    """
    root, kept = root.resolve(), copy.deepcopy(sections)
    sources: list[dict[str, Any]] = (kept.get("collect") or {}).get("sources") or []
    places: list[tuple[Any, Any]] = [(source, key) for source in sources for key in ("path", "prefix") if key in source]
    sets = ((kept.get("clean") or {}).get("decontaminate") or {}).get("sets") or []
    places += [(sets, number) for number in range(len(sets))]
    outside = []
    for table, key in places:
        if not isinstance(table[key], str) or not table[key] or "://" in table[key]:
            continue
        place = (recipe.parent / table[key]).resolve()
        if place.is_relative_to(root):
            table[key] = Path(os.path.relpath(place, recipe.parent.resolve())).as_posix()
        else:
            outside.append(str(place))
    runs = Path(str(kept.get("runs", _RUNS))).resolve()
    if runs.is_relative_to(root):
        kept |= {"runs": runs.relative_to(root).as_posix()} if "runs" in kept else {}
    else:
        outside.append(str(runs))
    return Portable(kept, outside)


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
