"""From one document to every place it stands in and every model that saw it: what taking it down needs.

Reads what the stages of a model's run published. Removes nothing: `collect.taken_down` does, on the next run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from chatwright.data.document import open_part, part_files
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, RefusedError
from chatwright.model.directory import LINEAGE
from chatwright.recipe.lineage import lineage_of
from chatwright.tokens.shards import TokenData

_ABOUT = ("id", "path", "source", "url", "licence", "licence_evidence", "fetched", "raw_sha256", "cluster", "split")
_MODELS = ("pretrain/model", "finetune/model", "align/model", "distill/model")


class _Row(NamedTuple):
    part: str
    row: int  # within the part
    about: dict[str, str]


def trace(model: Path, query: str) -> dict[str, Any]:
    """Where a document stands in the run of a model and in those of the models it was made from.

    Args:
        model: a model directory of ours.
        query: the document's id, its path within its source, or its URL.

    Raises:
        RefusedError: not a model of ours, or a shard is damaged.
        DataError: no run of the chain knows the document.
    """
    runs = [_in_run(run_dir, query) for run_dir in dict.fromkeys(_run_dirs(model))]
    if not any(run["documents"] for run in runs):
        raise DataError(
            f"no document `{query}` in the runs that `{model}` was made of: {', '.join(run['run'] for run in runs)}",
            hint="name its id, its path as `path` in `documents/part-*.parquet` has it, or its URL",
        )
    return {"query": query, "runs": runs}


def _run_dirs(model: Path) -> Iterator[Path]:
    """The run of a model, then those of the models from elsewhere that it began with."""
    yield model.resolve().parent.parent
    waiting = [lineage_of(model)["made_by"]]
    while waiting:
        entry = waiting.pop()
        place = Path(entry["stage"])
        if place.is_absolute() and (place / LINEAGE).is_file():
            yield place.resolve().parent.parent
        waiting += entry.get("from", [])


def _in_run(run_dir: Path, query: str) -> dict[str, Any]:
    collected = {row.about["id"]: row for row in _rows(run_dir / "documents", query)}
    cleaned = {row.about["id"]: row for row in _rows(run_dir / "corpus", query)}
    tokens = TokenData(run_dir / "tokens") if (run_dir / "tokens" / storage.MANIFEST).is_file() else None
    ids = sorted(collected.keys() | cleaned.keys())
    sightings = {id_: tokens.find(id_) if tokens else [] for id_ in ids}
    documents: list[dict[str, Any]] = []
    for id_ in ids:
        raw, kept = collected.get(id_), cleaned.get(id_)
        documents.append(
            {
                **((raw.about if raw else {}) | (kept.about if kept else {})),
                "documents": _place(raw),
                "corpus": _place(kept),
                "dropped_in_cleaning": raw is not None and kept is None and (run_dir / "corpus").is_dir(),
                "tokens": [place._asdict() for place in sightings[id_]],
            }
        )
    splits = {place.split for places in sightings.values() for place in places}
    return {"run": str(run_dir), "documents": documents, "models": list(_models(run_dir, splits))}


def _rows(directory: Path, query: str) -> Iterator[_Row]:
    """Rows of a published directory that a query names; reads only the columns it looks at."""
    if not directory.is_dir():
        return
    for path in part_files(directory):
        with open_part(path) as file:
            first = 0
            for group in range(file.num_row_groups):
                yield from _rows_of_group(file, group, path.name, first, query)
                first += file.metadata.row_group(group).num_rows


def _rows_of_group(file: pq.ParquetFile, group: int, part: str, first: int, query: str) -> Iterator[_Row]:
    columns = [name for name in _ABOUT if name in file.schema_arrow.names]
    table = file.read_row_group(group, columns=columns)
    wanted = [name for name in ("id", "path", "url") if name in columns]
    values = {name: table[name].to_pylist() for name in wanted}
    for row in range(table.num_rows):
        if any(values[name][row] == query for name in wanted):
            yield _Row(part, first + row, {name: table[name][row].as_py() or "" for name in columns})


def _place(row: _Row | None) -> dict[str, Any] | None:
    return None if row is None else {"part": row.part, "row": row.row}


def _models(run_dir: Path, splits: set[str]) -> Iterator[dict[str, Any]]:
    """Models of a run with what they had of the document, and whether the tokens are still those they had."""
    now = storage.read_manifest(run_dir / "tokens").content if (run_dir / "tokens" / storage.MANIFEST).is_file() else ""
    for name in _MODELS:
        if not (run_dir / name / LINEAGE).is_file():
            continue
        try:
            chain = lineage_of(run_dir / name)
        except RefusedError:
            continue
        had = _content_of(chain["made_by"], "tokens")
        saw = "trained on it" if "train" in splits else "measured on it" if "heldout" in splits else "did not see it"
        is_same = had is None or had == now
        yield {
            "model": str(run_dir / name),
            "digest": chain["digest"],
            "saw": saw if is_same else "made before the tokens were; run the recipe again",
        }


def _content_of(entry: dict[str, Any], stage: str) -> str | None:
    if entry["stage"] == stage:
        return str(entry.get("content"))
    return next((found for parent in entry.get("from", []) if (found := _content_of(parent, stage))), None)


def _shard_line(place: dict[str, Any]) -> str:
    where = f"tokens/{place['shard']}: {place['num_tokens']:,} tokens from {place['first_token']:,}"
    return f"    {where} ({place['split']})"


def as_lines(found: dict[str, Any]) -> list[str]:
    """What `trace` gives, for a person."""
    lines = []
    for run in found["runs"]:
        lines.append(run["run"])
        for document in run["documents"]:
            lines.append(f"  document {document['id']}  {document['path']}")
            lines += [f"    {key}: {document[key]}" for key in _ABOUT[2:] if document.get(key)]
            for stage in ("documents", "corpus"):
                place = document[stage]
                if place:
                    lines.append(f"    {stage}/{place['part']}, row {place['row']}")
            if document["dropped_in_cleaning"]:
                lines.append("    dropped in cleaning: no tokens, no model; `corpus/report.json` counts the reasons")
            lines += [_shard_line(place) for place in document["tokens"]]
        lines += [f"  {model['model']}  ({str(model['digest'])[:12]}): {model['saw']}" for model in run["models"]]
    return [*lines, f"To take it down: add {found['query']!r} to `taken_down` of `[collect]` and run the recipe again."]
