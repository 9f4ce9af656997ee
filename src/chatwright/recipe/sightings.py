"""From one document to every place it stands in and every model that saw it: what taking it down needs.

Reads what the stages of a model's run published. Removes nothing: `collect.taken_down` does, on the next run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatwright.data.duplicates.removals import EXACT
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, RefusedError
from chatwright.model.directory import LINEAGE
from chatwright.recipe.copies import ABOUT, Family, Row, family_of, rows
from chatwright.recipe.lineage import lineage_of
from chatwright.tokens.shards import TokenData

_DEEDS = {"train": "trained on", "heldout": "measured on"}  # by split, the graver first
_SHOWN = 20  # copies named to a person; `--json` has all


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
    named = {name: {query} for name in ("id", "path", "url")}
    collected = {row.about["id"]: row for row in rows(run_dir / "documents", named)}
    cleaned = {row.about["id"]: row for row in rows(run_dir / "corpus", named)}
    tokens = TokenData(run_dir / "tokens") if (run_dir / "tokens" / storage.MANIFEST).is_file() else None
    documents: list[dict[str, Any]] = []
    saw: dict[str, str] = {}  # by split: what a model that had it did
    for id_ in sorted(collected.keys() | cleaned.keys()):
        raw, kept = collected.get(id_), cleaned.get(id_)
        about = (raw.about if raw else {}) | (kept.about if kept else {})
        family = family_of(about, run_dir)
        places = {of: tokens.find(of) if tokens else [] for of in _standing(id_, family)}
        for of, found in places.items():
            near = "" if of == id_ or (family.how and family.how.reason == EXACT) else " a near copy of"
            saw |= {place.split: near for place in found if saw.get(place.split) != ""}
        shown = {of: [place._asdict() for place in found] for of, found in places.items()}
        documents.append(
            {
                **about,
                "documents": _place(raw),
                "corpus": _place(kept),
                "dropped_in_cleaning": raw is not None and kept is None and (run_dir / "corpus").is_dir(),
                "tokens": shown[id_],
                "stands_for_it": _stand_in(family, shown),
                "copies": [copy._asdict() for copy in family.copies],
            }
        )
    return {"run": str(run_dir), "documents": documents, "models": list(_models(run_dir, saw))}


def _standing(id_: str, family: Family) -> list[str]:
    """The documents of the corpus in which a document's text stands."""
    return [id_] if family.kept is None else [id_, family.kept.about["id"]]


def _stand_in(family: Family, tokens: dict[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """The document that stays for one that went as its copy, and where it is."""
    if family.kept is None or family.how is None:
        return None
    about = family.kept.about
    how = {"reason": family.how.reason, "similarity": family.how.similarity}
    return {
        "id": about["id"],
        "path": about["path"],
        **how,
        "corpus": _place(family.kept),
        "tokens": tokens[about["id"]],
    }


def _place(row: Row | None) -> dict[str, Any] | None:
    return None if row is None else {"part": row.part, "row": row.row}


def _models(run_dir: Path, splits: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Models of a run with what they had of the document, and whether the tokens are still those they had."""
    now = storage.read_manifest(run_dir / "tokens").content if (run_dir / "tokens" / storage.MANIFEST).is_file() else ""
    deeds = {split: f"{deed}{splits[split]} it" for split, deed in _DEEDS.items() if split in splits}
    saw = next(iter(deeds.values()), "did not see it")
    for model in sorted(run_dir.glob("*/model")):
        if not (model / LINEAGE).is_file():
            continue
        try:
            chain = lineage_of(model)
        except RefusedError:
            continue
        had = _content_of(chain["made_by"], "tokens")
        is_same = had is None or had == now
        yield {
            "model": str(model),
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
            lines += _document_lines(document)
        lines += [f"  {model['model']}  ({str(model['digest'])[:12]}): {model['saw']}" for model in run["models"]]
    named = "To take it down: add {!r} to `taken_down` of `[collect]` and run the recipe again."
    copies = [copy for run in found["runs"] for document in run["documents"] for copy in document["copies"]]
    staying = sorted({copy["id"] for copy in copies if not copy["goes_along"]})
    lines.append(named.format(found["query"]))
    if any(copy["goes_along"] for copy in copies):
        lines.append("Copies with the same text go with it.")
    if staying:
        listed = ", ".join(map(repr, staying[:_SHOWN])) + (", ..." if len(staying) > _SHOWN else "")
        lines.append(f"Copies that are not equal stay, and one may take its place: to take them down, add {listed}")
    return lines


def _document_lines(document: dict[str, Any]) -> list[str]:
    lines = [f"  document {document['id']}  {document['path']}"]
    lines += [f"    {key}: {document[key]}" for key in ABOUT[2:] if document.get(key)]
    for stage in ("documents", "corpus"):
        place = document[stage]
        if place:
            lines.append(f"    {stage}/{place['part']}, row {place['row']}")
    stand_in = document["stands_for_it"]
    if stand_in:
        how = f"{stand_in['reason']}, {stand_in['similarity']:.2f} alike"
        lines.append(f"    dropped in cleaning ({how}): {stand_in['id']}  {stand_in['path']} stands for it")
        lines += [_shard_line(place) for place in stand_in["tokens"]]
    elif document["dropped_in_cleaning"]:
        lines.append("    dropped in cleaning: no tokens, no model; `corpus/report.json` counts the reasons")
    lines += [_shard_line(place) for place in document["tokens"]]
    lines += [_copy_line(copy) for copy in document["copies"][:_SHOWN]]
    more = len(document["copies"]) - _SHOWN
    return [*lines, f"    and {more:,} further copies"] if more > 0 else lines


def _copy_line(copy: dict[str, Any]) -> str:
    alike = "near" if copy["similarity"] is None else f"{copy['similarity']:.2f} alike"
    how = "the same text" if copy["goes_along"] else alike
    where = "in the corpus" if copy["in_corpus"] else "dropped in cleaning"
    return f"    copy {copy['id']}  {copy['path']} ({how}, {where})"
