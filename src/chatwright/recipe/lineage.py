"""From a model back to the documents it was made of, read from what each stage published."""

from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.foundation.masking import without_secrets
from chatwright.model.directory import LINEAGE, digest_of, no_model

_SUMMARY_KEYS = {
    "documents": ("documents", "by_source"),
    "corpus": ("documents_in", "documents_out", "bytes_out"),
    "tokenizer": ("kind", "vocabulary_size", "heldout_bytes_per_token"),
    "tokens": ("train", "heldout"),
    "pretrain": ("parameters", "steps", "target_tokens", "precision"),
    "finetune": ("method", "trained", "total", "steps", "target_tokens"),
    "reward": ("rows", "steps", "calibration"),
    "align": ("objective", "rows", "method", "trained", "steps", "divergence_nats"),
    "distill": ("by", "teacher_parameters", "total", "steps", "target_tokens"),
}


def lineage_of(model: Path) -> dict[str, Any]:
    """The chain of a model directory: its digest, its stage, that stage's inputs, and so on to the sources.

    Directories that are still beside the model are read and their digests compared; those that are gone are named.

    Raises:
        RefusedError: not a model directory, or one without lineage, such as a foreign one.
    """
    if not (model / "config.json").is_file():
        raise no_model(model)
    if not (model / LINEAGE).is_file():
        raise RefusedError(f"`{model}` carries no lineage: it was not made by chatwright")
    value = storage.read_json(model / LINEAGE)
    made_by = value.get("lineage", {})
    run_dir = model.resolve().parent.parent
    return {
        "model": str(model),
        "digest": value.get("digest"),
        "run": made_by.get("run"),
        "made_by": _stage(run_dir, made_by.get("stage", "unknown"), None, made_by),
    }


def _stage(run_dir: Path, name: str, content: str | None, told: dict[str, Any]) -> dict[str, Any]:
    """One stage and, below `from`, what it was made from; below `reads`, what it read from outside the run's stages."""
    entry: dict[str, Any] = {"stage": name}
    if content is not None:
        entry["content"] = content
    directory = run_dir / name.split("/", maxsplit=1)[0]
    if (directory / storage.MANIFEST).is_file():
        manifest = storage.read_manifest(directory)
        facts = manifest.facts
        entry["state"] = "as it was" if content in (None, manifest.content) else "made again since"
        entry["summary"] = _brief(facts.get("stage", name), facts.get("summary", {}))
        if facts.get("stage") == "documents":
            entry["sources"] = without_secrets(facts.get("config", {}).get("sources", []))
        told = told or facts
    elif Path(name).is_absolute():
        return entry | _outside(Path(name))
    else:
        entry["state"] = "no longer there"
    inputs, outside = told.get("inputs"), told.get("outside")
    if inputs:
        entry["from"] = [_stage(run_dir, item["path"], item["content"], {}) for _, item in sorted(inputs.items())]
    if outside:
        entry["reads"] = [_read(run_dir, name, item) for name, item in sorted(outside.items())]
    return entry


def _read(run_dir: Path, name: str, item: dict[str, str]) -> dict[str, Any]:
    """Something that a recipe names for a stage: a file, a store, or a model, which has a chain of its own."""
    place, digest = item["path"], item["digest"]
    entry: dict[str, Any] = {"name": name, "stage": place, "content": digest}
    path = run_dir / place  # a whole path stays what it is
    if path.is_file() and name != "store":  # a store's digest is of what it would give
        return entry | {"state": "as it was" if storage.digest_file(path) == digest else "changed since"}
    if not (path / "config.json").is_file():
        return entry | {"state": "outside the run" if "://" in place or path.exists() else "no longer there"}
    entry["state"] = "as it was" if digest_of(path) == digest else "made again since"
    return entry | ({"from": [lineage_of(path)["made_by"]]} if (path / LINEAGE).is_file() else {})


def _outside(model: Path) -> dict[str, Any]:
    """A model from elsewhere; one of ours has a chain of its own."""
    if not (model / LINEAGE).is_file():
        return {"state": "outside the run"}
    return {"state": "outside the run", "from": [lineage_of(model)["made_by"]]}


def _brief(stage: str, summary: dict[str, Any]) -> dict[str, Any]:
    if stage.startswith("round-"):
        learned = {name: summary["feedback"][name] for name in ("new_opinions", "train", "heldout")}
        return {"verdict": summary["verdict"], "feedback": learned, "objective": summary["learning"]["objective"]}
    return {key: summary[key] for key in _SUMMARY_KEYS.get(stage, ()) if key in summary}


def as_lines(chain: dict[str, Any]) -> list[str]:
    """The chain as an indented tree; a stage that was shown already is named only."""
    lines = [f"{chain['model']}  ({str(chain['digest'])[:12]})"]
    _add(lines, chain["made_by"], 1, set())
    return lines


def _add(lines: list[str], entry: dict[str, Any], depth: int, shown: set[str]) -> None:
    content = entry.get("content", "")
    name = f"{entry['name']}: " if "name" in entry else ""
    label = name + entry["stage"] + (f"  ({content[:12]})" if content else "")
    state = "" if entry["state"] == "as it was" else f"  [{entry['state']}]"
    if content and content in shown:
        lines.append("  " * depth + f"{label}  (see above)")
        return
    shown.add(content)
    lines.append("  " * depth + label + state)
    for key, value in entry.get("summary", {}).items():
        lines.append("  " * (depth + 2) + f"{key}: {value}")
    for source in entry.get("sources", []):
        settings = ", ".join(f"{key} = {value}" for key, value in source.items() if key != "kind" and value is not None)
        lines.append("  " * (depth + 2) + f"source {source.get('kind')}: {settings}")
    for parent in (*entry.get("reads", ()), *entry.get("from", ())):
        _add(lines, parent, depth + 1, shown)
