"""How many tokens there are to train on: counted by a run, or estimated from a sample of documents."""

import contextlib
import copy
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from chatwright.data.report import Tally
from chatwright.data.sources import Files, Partition, list_partitions
from chatwright.data.sources.files import list_files, read_partition
from chatwright.data.sources.partition import Input
from chatwright.data.sources.places import Listed, Place, place_of
from chatwright.foundation import storage
from chatwright.foundation.config import read_toml
from chatwright.foundation.errors import DataError, UsageError
from chatwright.recipe.recipe import Recipe
from chatwright.tokens.shards import TokenData
from chatwright.tokens.tokenizer import TokenizerConfig, measure_compression, train_tokenizer
from chatwright.train.heldout import sample_documents
from chatwright.train.pretrain import PretrainConfig

_SECTIONS = ("collect", "clean", "tokenizer")
_CALLED = ("seed", "workers", "engine")  # a recipe's keys above its sections, as far as documents depend on them
_RUNS = str(Recipe.model_fields["runs"].default)
_SAMPLE_S = 12.0  # reading stops after so long; the rest is judged by its bytes
_SAMPLE_CHARACTERS = 4_000_000
_LEARN_BYTES = 1_500_000  # of the sample, for a tokenizer of its own
_MEASURED = 50  # texts of the sample, or up to twice as many, that the tokenizer is measured on
_HELDOUT_TOKENS = int(PretrainConfig.model_fields["heldout_tokens"].default)  # of each domain; plans do not change it
_KEPT_SHARE = 0.9  # of the text, after cleaning and with 5 % held out: cautious


class CorpusSize(NamedTuple):
    """What there is to train on."""

    tokens: int
    bytes_per_token: float
    vocabulary_size: int
    how: str  # where the figures are from
    name: str  # for the planned recipe
    sections: dict[str, Any]  # of the recipe, and keys above them, as far as they lead to these tokens
    heldout_tokens: int = _HELDOUT_TOKENS  # that each measurement during training reads


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
    learned = storage.read_manifest(run_dir / "tokenizer").facts["config"]
    if learned.get("weights"):  # the planned recipe has no mixture that they would follow
        sections["tokenizer"] = {**sections["tokenizer"], "weights": learned["weights"]}
    name = str(recipe.get("name", "run"))
    if (run_dir / "pretrain").is_dir():  # what was trained stays; without it the run goes on with the planned recipe
        name = f"{name[:55]}-planned"
    return CorpusSize(
        tokens=int(train["tokens"]),
        bytes_per_token=per_token,
        vocabulary_size=vocabulary,
        how="counted by the run",
        name=name,
        sections=sections,
        heldout_tokens=_heldout_tokens(path),
    )


def _heldout_tokens(path: Path) -> int:
    """Of the documents that the training's own measurement takes: whole ones, of each domain."""
    sample = sample_documents(TokenData(path).split("heldout"), tokens_per_domain=_HELDOUT_TOKENS)
    return sum(len(document.ids) for document in sample)


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


def require_files(folder: Path) -> None:
    """Told before minutes of measuring: a folder without any file that is read.

    Raises:
        DataError: as it says.
    """
    list_files(_source_of(folder))


def _source_of(folder: Path) -> Files:
    return Files(path=str(folder), books="chapter")  # of a few whole books none might be held out


def size_of_documents(folder: Path, *, vocabulary_size: int) -> CorpusSize:
    """Estimated: documents are read for some seconds, a tokenizer is learned on them, the rest is judged by size.

    Raises:
        DataError: no folder, or nothing in it can be read.
    """
    source = _source_of(folder)
    partitions = list_partitions(source)
    whole = sum(_bytes_of(one.inputs) for one in partitions)
    texts, read_bytes = _sample(source, partitions)
    text_bytes = sum(len(text.encode()) for text in texts)
    if not text_bytes:
        raise DataError(f"no text in `{folder}`", hint="txt, md, rst, html, epub, pdf, jsonl and parquet are read")
    learned, measured_on = _halves(texts, is_whole=read_bytes >= whole)
    tokenizer = train_tokenizer(
        (text[:_LEARN_BYTES] for text in learned),
        TokenizerConfig(vocabulary_size=vocabulary_size, max_training_bytes=_LEARN_BYTES),
    )
    spread = measured_on[:: max(1, len(measured_on) // _MEASURED)]  # the first ones may all be of one book
    measured = measure_compression(tokenizer, (text[:200_000] for text in spread))
    total_text = text_bytes * whole / max(1, read_bytes)
    share = f"{read_bytes / max(1, whole):.0%}"
    return CorpusSize(
        tokens=round(total_text * _KEPT_SHARE / measured.bytes_per_token),
        bytes_per_token=measured.bytes_per_token,
        vocabulary_size=vocabulary_size,
        how=f"estimated from {share} of the files' bytes, less a tenth for cleaning and the held-out part",
        name="planned",
        sections={
            "collect": {
                "sources": [{"kind": "files", "path": str(folder.expanduser().resolve()), "books": source.books}]
            },
            "tokenizer": {"vocabulary_size": vocabulary_size},
        },
    )


class _Halves(NamedTuple):
    learned: list[str]
    measured_on: list[str]


def _halves(texts: list[str], *, is_whole: bool) -> _Halves:
    """Every other text to learn a tokenizer from, the rest to measure it on: what it has seen it packs too tightly.

    Of a single text the two halves. Few documents, all of them read, are what the run's own tokenizer will have seen.
    """
    if is_whole and sum(len(text.encode()) for text in texts) <= _LEARN_BYTES:
        return _Halves(texts, texts)
    found = [text for text in texts if text]
    if len(found) == 1:
        middle = len(found[0]) // 2
        found = [found[0][:middle], found[0][middle:]]
    return _Halves(found[::2], found[1::2])


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
    read_bytes: int  # of the files that they were in, as far as those were read


class _Watched:
    """A place that notes how many of a partition's files were begun, and how far the newest one was read."""

    def __init__(self, place: Place):
        self._place = place
        self._file: IO[bytes] | None = None
        self.begun = 0

    @property
    def name(self) -> str:
        """The place's."""
        return self._place.name

    def list(self, include: Sequence[str]) -> list[Listed]:
        """The place's."""
        return self._place.list(include)

    def version(self, relative: str) -> str:
        """The place's; it is asked for when a file is begun."""
        self.begun, self._file = self.begun + 1, None
        return self._place.version(relative)

    def open(self, relative: str) -> IO[bytes]:
        """The place's, with an eye on its position."""
        self._file = self._place.open(relative)
        return self._file

    def path(self, relative: str) -> Path | None:
        """The place's."""
        return self._place.path(relative)

    def unread(self, entry: Input) -> int | None:
        """Bytes of the newest file that were not read yet; None where it is not read from its beginning on."""
        if self._file is None or self._file.closed or "group" in entry:  # a book, or a piece of a table
            return None
        begin = int(entry["lines"][0]) if "lines" in entry else 0  # of a piece of a file of lines
        return max(0, begin + int(entry["bytes"]) - self._file.tell())


def _sample(source: Files, partitions: list[Partition]) -> _Sample:
    """Texts of partitions spread over the list, within time and size; of the last file a part may do."""
    place = _Watched(place_of(source.path))
    texts: list[str] = []
    read_bytes, size, began, tally = 0, 0, time.monotonic(), Tally()

    def is_enough() -> bool:
        return bool(texts) and (size > _SAMPLE_CHARACTERS or time.monotonic() - began > _SAMPLE_S)

    for partition in _spread(partitions):
        if is_enough():
            break
        place.begun, num_files, unread = 0, 0, 0
        with contextlib.closing(read_partition(source, partition, tally, place=place)) as documents:
            for document in documents:
                if is_enough() and place.begun > num_files:
                    break  # a file that nothing was taken of yet
                texts.append(document.text)
                size, num_files = size + len(document.text), place.begun
                left = place.unread(partition.inputs[num_files - 1]) if is_enough() else None
                if left is not None:
                    unread = left
                    break
            else:
                num_files = len(partition.inputs)
        read_bytes += _bytes_of(partition.inputs[:num_files]) - unread
    return _Sample(texts, read_bytes)


def _spread(partitions: list[Partition]) -> Iterator[Partition]:
    """Every eighth first, then those between: the first files of a folder are seldom typical."""
    for offset in range(8):
        yield from partitions[offset::8]


def _bytes_of(inputs: Sequence[Input]) -> int:
    return sum(int(entry["bytes"]) for entry in inputs)
