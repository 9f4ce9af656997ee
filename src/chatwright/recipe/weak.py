"""Where a run's models are weak, in one table, and the change of its recipe that follows: proposed, never made alone.

Joined by topic: test questions with their answers, people's ratings, thumbs; beside them the loss by domain. Questions
without a label are put into topics by their words. A person accepts a proposal, which writes a new recipe file.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tomli_w

from chatwright.foundation import storage
from chatwright.foundation.config import read_toml
from chatwright.foundation.errors import UsageError
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.report.facts import RunFacts

_ROUNDS = 25
_LEAST = 3  # judgements of a topic below which nothing is concluded
_POOR_SHARE = 0.6  # of right answers
_POOR_SCORE = 3.0  # of five
_HARD = 1.15  # times the loss of all documents


class Topic(NamedTuple):
    """What is known of one topic; None where nothing is."""

    name: str
    questions: int
    right: float | None  # share of test answers
    rated: float | None  # mean of people's scores, 1 to 5
    ratings: int
    thumbs_up: int
    thumbs_down: int


class Proposal(NamedTuple):
    """A change of the recipe and why."""

    why: str
    key: str
    value: Any


def topics_of(texts: Sequence[str], *, number: int, seed: int = 1) -> list[int]:
    """A topic for each text: spherical k-means (Dhillon and Modha 2001) over TF-IDF of words met at least twice."""
    words = [[w for w in "".join(c.lower() if c.isalnum() else " " for c in t).split() if len(w) > 2] for t in texts]
    seen: dict[str, int] = {}
    for listed in words:
        for word in set(listed):
            seen[word] = seen.get(word, 0) + 1
    vocabulary = {word: place for place, word in enumerate(sorted(w for w, n in seen.items() if n >= 2))}
    vectors = np.zeros((len(texts), max(1, len(vocabulary))))
    for row, listed in enumerate(words):
        for word in listed:
            if word in vocabulary:
                vectors[row, vocabulary[word]] += np.log((1 + len(texts)) / (1 + seen[word])) + 1
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(norms, 1e-12)
    generator = np.random.Generator(np.random.PCG64(seed))
    centres = vectors[generator.permutation(len(texts))[: max(1, min(number, len(texts)))]]
    chosen = np.zeros(len(texts), dtype=np.int64)
    for _ in range(_ROUNDS):
        before, chosen = chosen, (vectors @ centres.T).argmax(axis=1)
        for place in range(len(centres)):
            mine = vectors[chosen == place].sum(axis=0)
            if mine.any():
                centres[place] = mine / np.linalg.norm(mine)
        if (before == chosen).all():
            break
    return [int(place) for place in chosen]


def topic_table(
    run: RunFacts, *, ratings: Iterable[dict[str, Any]] = (), feedback: Iterable[dict[str, Any]] = (), number: int = 12
) -> list[Topic]:
    """Topics of a run, the weakest first.

    Args:
        run: a run with answers to test questions.
        ratings: what a study exports.
        feedback: what a feedback store exports.
        number: topics to make of questions that carry no label.
    """
    rows: list[tuple[str, str, str, float]] = []  # question, label, kind, value
    samples = run.read("evaluate", "samples.json")
    last: dict[str, Any] = next(
        (samples[name] for name in ("finetune", "pretrain") if samples.get(name, {}).get("answers")), {}
    )
    for item in last.get("answers", []):
        label = str(item.get("expected") or "")
        is_right = item["said"] == item["expected"] if label else item["answer"].strip() == item["reference"].strip()
        rows.append((item["messages"][-1]["content"], label, "right", float(is_right)))
    for entry in ratings:
        if entry["item_kind"] == "scale" and not entry["is_check"] and entry["occasion"] == 0:
            value = float(np.mean(list(entry["scores"].values())))
            rows.append((entry["asked"], str(entry.get("topic") or ""), "rated", value))
    for entry in feedback:
        if entry["ratings"]:
            asked = str(entry["messages"][-1]["content"])
            rows.append((asked, "", "thumb", float(entry["ratings"][-1]["thumb"])))
    return _grouped(_labelled(rows, number=number))


def _labelled(rows: Sequence[tuple[str, str, str, float]], *, number: int) -> list[tuple[str, str, float]]:
    """Rows with a topic each: their label, that of the same question, or else a cluster named by its first question."""
    if not rows:
        raise UsageError("there are no answers, ratings or thumbs to look at", hint="run the stage `evaluate` first")
    known = {question: label for question, label, _, _ in rows if label}
    clusters = topics_of([question for question, _, _, _ in rows], number=number)
    names: dict[int, str] = {}
    for (question, label, _, _), cluster in zip(rows, clusters, strict=True):
        names.setdefault(cluster, label or known.get(question) or f"like: {question[:60]}")
    return [
        (label or known.get(question) or names[cluster], kind, value)
        for (question, label, kind, value), cluster in zip(rows, clusters, strict=True)
    ]


def _grouped(rows: Sequence[tuple[str, str, float]]) -> list[Topic]:
    groups: dict[str, dict[str, list[float]]] = {}
    for name, kind, value in rows:
        groups.setdefault(name, {"right": [], "rated": [], "thumb": []})[kind].append(value)
    topics = [
        Topic(
            name,
            len(found["right"]),
            float(np.mean(found["right"])) if found["right"] else None,
            float(np.mean(found["rated"])) if found["rated"] else None,
            len(found["rated"]),
            sum(value > 0 for value in found["thumb"]),
            sum(value < 0 for value in found["thumb"]),
        )
        for name, found in groups.items()
    ]
    return sorted(topics, key=_goodness)


def _goodness(topic: Topic) -> float:
    """Between 0 and 1, from whatever is known."""
    thumbs = topic.thumbs_up + topic.thumbs_down
    parts = [topic.right, None if topic.rated is None else (topic.rated - 1) / 4]
    parts.append(topic.thumbs_up / thumbs if thumbs else None)
    known = [part for part in parts if part is not None]
    return sum(known) / len(known)


def proposals(run: RunFacts, topics: Sequence[Topic]) -> list[Proposal]:
    """What to do, as changes of the recipe that was run; only where enough is known."""
    recipe = load_recipe(run.directory / "recipe.toml")
    found: list[Proposal] = []
    poor = [t for t in topics if t.right is not None and t.questions >= _LEAST and t.right < _POOR_SHARE]
    disliked = [t for t in topics if t.rated is not None and t.ratings >= _LEAST and t.rated < _POOR_SCORE]
    down = [t for t in topics if t.thumbs_down >= _LEAST and t.thumbs_down > t.thumbs_up]
    if (poor or disliked or down) and recipe.finetune is not None:
        worst = ", ".join(t.name for t in (poor or disliked or down)[:5])
        found.append(
            Proposal(
                f"answers are weak on {len({*poor, *disliked, *down})} topics ({worst}): fine-tune longer, "
                "and add conversations of these topics to `finetune.data`",
                "finetune.epochs",
                round(recipe.finetune.epochs * 1.5, 2),
            )
        )
    summary = run.summary("finetune")
    forgotten = (summary.get("forgetting") or {}).get("all")
    if recipe.finetune is not None and forgotten is not None and forgotten > 0.05:
        share = min(0.5, round(max(0.1, 2 * recipe.finetune.replay_share), 3))
        why = f"fine-tuning forgot {forgotten:.2f} bits per byte of the base's documents: replay more of them"
        found.append(Proposal(why, "finetune.replay_share", share))
    hard = _hard_domains(run)
    if hard and recipe.pretrain is not None:
        why = f"documents of {', '.join(hard)} are much harder than the rest: add more of them, and train longer"
        found.append(Proposal(why, "pretrain.steps", round(recipe.pretrain.steps * 1.5)))
    return found


def _hard_domains(run: RunFacts) -> list[str]:
    heldout: dict[str, Any] = next((m["heldout"] for m in run.models.values() if "heldout" in m), {})
    every = heldout.get("all", {}).get("bits_per_byte")
    domains = {name: values["bits_per_byte"] for name, values in heldout.items() if name != "all"}
    return [name for name, bits in domains.items() if len(domains) > 1 and bits > _HARD * every]


def accept(run: RunFacts, chosen: Sequence[Proposal], target: Path) -> Path:
    """Write the run's recipe with these changes as a new file; the run and its recipe stay as they are.

    Raises:
        UsageError: nothing was chosen, or the file is there already.
        ConfigError: the changed recipe is not sound; nothing is written.
    """
    if not chosen:
        raise UsageError("no change was chosen")
    if target.exists():
        raise UsageError(f"`{target}` is there already", hint="name a new file")
    data = read_toml(run.directory / "recipe.toml")
    for proposal in chosen:
        section, _, key = proposal.key.partition(".")
        data.setdefault(section, {})[key] = proposal.value
    with storage.publish_file(target) as scratch:
        reasons = "".join(f"# {proposal.key} = {proposal.value}: {proposal.why}\n" for proposal in chosen)
        scratch.write_text(f"# Changed after looking at {run.name}:\n{reasons}{tomli_w.dumps(data)}", encoding="utf-8")
        load_recipe(scratch)
    return target


def as_text(topics: Sequence[Topic], found: Sequence[Proposal]) -> str:
    """The table and the proposals for a terminal."""
    lines = [f"{'topic':44} {'questions':>9} {'right':>6} {'rated':>6} {'ratings':>7} {'up':>4} {'down':>4}"]
    for topic in topics:
        right = "" if topic.right is None else f"{topic.right:.0%}"
        rated = "" if topic.rated is None else f"{topic.rated:.2f}"
        lines.append(
            f"{topic.name[:44]:44} {topic.questions:9} {right:>6} {rated:>6} {topic.ratings:7} "
            f"{topic.thumbs_up:4} {topic.thumbs_down:4}"
        )
    lines += [f"\n{place}. {p.why}\n   {p.key} = {p.value}" for place, p in enumerate(found, start=1)]
    return "\n".join(lines)
