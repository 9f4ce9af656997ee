"""The last part of the page: where everything came from and how to make it again."""

from typing import Any

import tomli_w

from chatwright.foundation.config import read_toml
from chatwright.foundation.console import duration
from chatwright.foundation.masking import without_secrets
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RECIPE, RunFacts, StageFacts
from chatwright.recipe.report.lineage_map import lineage_map

_SHOWN_DIGITS = 12
_WHAT = {
    "documents": "raw documents of all sources",
    "corpus": "documents cleaned, judged, split",
    "tokenizer": "learned from the corpus",
    "tokens": "the corpus as token ids",
    "pretrain": "a model that continues text",
    "finetune": "a model that answers",
    "reward": "a model that tells which answers people prefer",
    "align": "a model that answers as people prefer",
    "distill": "a student of the model before it",
    "evaluate": "scores and samples",
}


def lineage_section(run: RunFacts) -> html.Section:
    """The chain from the sources to the last model, each link with its digest."""
    linked = [html.element("li", _link(run, stage), id=f"link-{stage.name}") for stage in run.stages.values()]
    sources = _sources(run)
    first = [] if sources is None else [html.element("li", sources)]
    body = [
        html.element("div", lineage_map(run), html.element("ol", *first, *linked, class_="chain"), class_="origin"),
        html.note(
            "Each stage is named by the SHA-256 of the list of its files and their own SHA-256, the first 12 of 64 "
            "digits shown. What was made from something that has changed since is marked."
        ),
    ]
    return html.Section("lineage", "Lineage", html.join(body))


def _sources(run: RunFacts) -> html.Html | None:
    stage = run.stages.get("documents")
    sources = stage.config.get("sources") if stage is not None else None
    if not sources:
        return None
    return html.join(
        [html.paragraph(html.element("b", "sources")), *(html.note(_source(source)) for source in sources)]
    )


def _source(source: dict[str, Any]) -> html.Html:
    settings = [f"{key} = {_flat(value)}" for key, value in source.items() if key != "kind" and value is not None]
    return html.join([html.element("b", str(source.get("kind"))), ": " if settings else None, "; ".join(settings)])


def _flat(value: Any) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _link(run: RunFacts, stage: StageFacts) -> html.Html:
    head = [html.element("b", stage.name), f": {_WHAT.get(stage.name, '')} ", html.code(stage.content[:_SHOWN_DIGITS])]
    model = stage.summary.get("model_digest")
    parts: list[html.Child] = [html.paragraph(*head)]
    if model:
        parts.append(html.note("model ", html.code(f"{stage.name}/model"), " ", html.code(str(model)[:_SHOWN_DIGITS])))
    if stage.inputs:
        parts.append(html.note("from ", *_separated([_input(run, item) for item in stage.inputs.values()])))
    return html.join(parts)


def _separated(items: list[html.Html]) -> list[html.Child]:
    shown: list[html.Child] = []
    for index, item in enumerate(items):
        shown += [", " if index else None, item]
    return shown


def _input(run: RunFacts, item: dict[str, str]) -> html.Html:
    place, content = str(item.get("path", "")), str(item.get("content", ""))
    now = run.stages.get(place.split("/", maxsplit=1)[0])
    state = "" if now is None or now.content == content else " (made again since)"
    return html.join([place, " ", html.code(content[:_SHOWN_DIGITS]), state])


def making_section(run: RunFacts) -> html.Section:
    """Time and memory of each stage, versions, seeds, the recipe and every digest in full."""
    rows: list[list[html.Child]] = [
        [
            stage.name,
            duration(stage.seconds) if stage.seconds >= 10 else f"{stage.seconds:.1f} s",
            html.size(stage.peak_memory_bytes),
            str(stage.facts.get("seed", "")),
            str(stage.facts.get("version", "")),
        ]
        for stage in run.stages.values()
    ]
    how = (
        "Time: wall clock of the call that finished the stage; after an interruption only the time since. Memory: the "
        "largest resident size of the process, or of one of its child processes, since the process began, so within "
        "one call it never falls from a stage to the next."
    )
    parts: list[html.Child] = [
        html.table(["stage", "time", "peak memory", "seed", "stage version"], rows, caption="What it took"),
        html.note(how),
        _versions(run),
        _recipe(run),
        html.details("All digests in full", _digests(run)),
    ]
    return html.Section("making", "How it was made", html.join(parts))


def _recipe(run: RunFacts) -> html.Html | None:
    path = run.directory / RECIPE
    if not path.is_file():
        return None
    text = tomli_w.dumps(without_secrets(read_toml(path)))
    return html.details("The recipe, every default written out", html.element("pre", text))


def _versions(run: RunFacts) -> html.Html:
    """Versions; several where stages were made with different ones."""
    found: dict[str, dict[str, list[str]]] = {}
    for stage in run.stages.values():
        for name, version in (stage.facts.get("versions") or {}).items():
            found.setdefault(name, {}).setdefault(str(version), []).append(stage.name)
    rows: list[list[html.Child]] = [
        [
            name,
            "; ".join(
                f"{version} ({', '.join(stages)})" if len(versions) > 1 else version
                for version, stages in versions.items()
            ),
        ]
        for name, versions in found.items()
    ]
    return html.table(["part", "version"], rows, caption="Environment", words=(1,))


def _digests(run: RunFacts) -> html.Html:
    rows: list[list[html.Child]] = []
    for stage in run.stages.values():
        rows.append([stage.name, html.code(stage.content)])
        rows.append([f"{stage.name}, key", html.code(str(stage.facts.get("key", "")))])
        if stage.summary.get("model_digest"):
            rows.append([f"{stage.name}/model", html.code(str(stage.summary["model_digest"]))])
    how = html.note(
        "Key: of the stage's configuration, version, seed and inputs; while it stays the same, the stage is not done "
        "again."
    )
    return html.join([html.table(["what", "SHA-256"], rows, caption="Digests", words=(1,)), how])
