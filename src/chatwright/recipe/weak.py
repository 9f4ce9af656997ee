"""Where a run's models are weak, in one table, and the change of its recipe that follows: proposed, never made alone.

Joined by topic: test questions with their answers, scores of own tasks, people's ratings, thumbs; beside them the loss
by domain. Questions without a label are put into topics by their words. A person accepts a proposal, which writes a new
recipe file.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tomli_w

from chatwright.evaluate.records import FOLDER, history
from chatwright.foundation import storage
from chatwright.foundation.config import read_toml
from chatwright.foundation.console import printable
from chatwright.foundation.errors import UsageError
from chatwright.foundation.masking import without_secrets
from chatwright.recipe.recipe import Recipe, load_recipe, write_toml
from chatwright.recipe.report.facts import FORGETTING_ALLOWED, RunFacts

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
    tasks: float | None  # mean score of own tasks' items
    task_items: int
    rated: float | None  # mean of people's scores, 1 to 5
    ratings: int
    thumbs_up: int
    thumbs_down: int


class Domain(NamedTuple):
    """The loss on one kind of documents."""

    name: str
    documents: int
    bits_per_byte: float
    beside_all: float  # times the loss of all documents


class Proposal(NamedTuple):
    """A change of the recipe and why."""

    why: str
    key: str  # `section.key`, or a whole section
    value: Any

    @property
    def shown(self) -> str:
        """The change for a person: what it would write into the recipe, but for passwords."""
        return f"{self.key} = {without_secrets(self.value)}"


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
    last = run.chat_model([name for name, model in samples.items() if model.get("answers")]) or "finetune"
    for item in samples.get(last, {}).get("answers", ()):
        label = str(item.get("expected") or "")
        rows.append((item["messages"][-1]["content"], label, "right", float(run.is_right(last, item))))
    for entry in ratings:
        if entry["item_kind"] == "scale" and not entry["is_check"] and entry["occasion"] == 0:
            value = float(np.mean(list(entry["scores"].values())))
            rows.append((entry["asked"], str(entry.get("topic") or ""), "rated", value))
    for entry in feedback:
        if entry["ratings"]:
            asked = str(entry["messages"][-1]["content"])
            rows.append((asked, "", "thumb", float(entry["ratings"][-1]["thumb"])))
    joined = [*_labelled(rows, number=number), *_task_rows(run, _digest_of(run, last) if last in samples else None)]
    if not joined:
        raise UsageError(
            "there are no answers, task scores, ratings or thumbs to look at", hint="run the stage `evaluate` first"
        )
    return _grouped(joined)


def _digest_of(run: RunFacts, stage: str) -> str | None:
    """Of the model that the evaluation had answer, or else of the one that the stage made; None where neither says."""
    found = run.models.get(stage, {}).get("digest") or run.summary(stage).get("model_digest")
    return None if found is None else str(found)


def _task_rows(run: RunFacts, digest: str | None) -> list[tuple[str, str, float]]:
    """Scores of own tasks by topic, of the newest record of each task; a task without topics is one of its own.

    Args:
        run: the run.
        digest: of the model whose answers stand beside them: other models' records tell nothing of it. None: of any.
    """
    newest: dict[str, dict[str, Any]] = {}
    for record in history(run.directory / FOLDER):
        if record["kind"] == "tasks" and (digest is None or record["model"].get("digest") == digest):
            # Tasks of the public harness have no topics: what they ask is nothing that this recipe could teach.
            newest |= {name: figures for name, figures in record["result"]["tasks"].items() if "topics" in figures}
    rows: list[tuple[str, str, float]] = []
    for name, figures in newest.items():
        for topic, values in (figures.get("topics") or {name: figures}).items():
            rows += [(topic, "task", float(values["value"]))] * int(values["items"])
    return rows


def domains_of(run: RunFacts) -> list[Domain]:
    """Loss by domain of the run's last model that was measured on held-out documents, the hardest first."""
    measured: dict[str, Any] = next((m["heldout"] for m in reversed(run.models.values()) if "heldout" in m), {})
    every = measured.get("all", {}).get("bits_per_byte")
    found = [
        Domain(name, values["documents"], values["bits_per_byte"], round(values["bits_per_byte"] / every, 3))
        for name, values in measured.items()
        if name != "all"
    ]
    return sorted(found, key=lambda domain: -domain.bits_per_byte)


def _labelled(rows: Sequence[tuple[str, str, str, float]], *, number: int) -> list[tuple[str, str, float]]:
    """Rows with a topic each: their label, that of the same question, or else a cluster named by its first question."""
    if not rows:
        return []
    known = {question: label for question, label, _, _ in rows if label}
    clusters = topics_of([question for question, _, _, _ in rows], number=number)
    names: dict[int, str] = {}
    for (question, label, _, _), cluster in zip(rows, clusters, strict=True):
        names.setdefault(cluster, label or known.get(question) or f"like: {' '.join(question.split())[:60]}")
    return [
        (label or known.get(question) or names[cluster], kind, value)
        for (question, label, kind, value), cluster in zip(rows, clusters, strict=True)
    ]


def _grouped(rows: Sequence[tuple[str, str, float]]) -> list[Topic]:
    groups: dict[str, dict[str, list[float]]] = {}
    for name, kind, value in rows:
        groups.setdefault(name, {"right": [], "task": [], "rated": [], "thumb": []})[kind].append(value)
    topics = [
        Topic(
            name,
            len(found["right"]),
            _mean(found["right"]),
            _mean(found["task"]),
            len(found["task"]),
            _mean(found["rated"]),
            len(found["rated"]),
            sum(value > 0 for value in found["thumb"]),
            sum(value < 0 for value in found["thumb"]),
        )
        for name, found in groups.items()
    ]
    return sorted(topics, key=_goodness)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _goodness(topic: Topic) -> float:
    """Between 0 and 1, from whatever is known."""
    thumbs = topic.thumbs_up + topic.thumbs_down
    parts = [topic.right, topic.tasks, None if topic.rated is None else (topic.rated - 1) / 4]
    parts.append(topic.thumbs_up / thumbs if thumbs else None)
    known = [part for part in parts if part is not None]
    return sum(known) / len(known)


def proposals(run: RunFacts, topics: Sequence[Topic], *, store: str | None = None) -> list[Proposal]:
    """What to do, as changes of the recipe that was run; only where enough is known.

    Args:
        run: the run.
        topics: from `topic_table`.
        store: the feedback database that the thumbs came from, for learning from them.
    """
    recipe = load_recipe(run.directory / "recipe.toml")
    found = [*_more_tuning(recipe, topics), *_learning_from_people(recipe, topics, store), *_more_replay(recipe, run)]
    return [*found, *_more_documents(recipe, run)]


def _is_poor(topic: Topic) -> bool:
    asked = topic.right is not None and topic.questions >= _LEAST and topic.right < _POOR_SHARE
    tested = topic.tasks is not None and topic.task_items >= _LEAST and topic.tasks < _POOR_SHARE
    return asked or tested or _is_disliked(topic)


def _is_disliked(topic: Topic) -> bool:
    rated = topic.rated is not None and topic.ratings >= _LEAST and topic.rated < _POOR_SCORE
    return rated or (topic.thumbs_down >= _LEAST and topic.thumbs_down > topic.thumbs_up)


def _named(topics: Sequence[Topic]) -> str:
    return ", ".join(topic.name for topic in topics[:5])


def _more_tuning(recipe: Recipe, topics: Sequence[Topic]) -> list[Proposal]:
    poor = [topic for topic in topics if _is_poor(topic)]
    if not poor or recipe.finetune is None:
        return []
    why = (
        f"answers are weak on {len(poor)} {'topic' if len(poor) == 1 else 'topics'} ({_named(poor)}): fine-tune "
        "longer, and add conversations of these topics to `finetune.data`"
    )
    return [Proposal(why, "finetune.epochs", round(recipe.finetune.epochs * 1.5, 2))]


def _learning_from_people(recipe: Recipe, topics: Sequence[Topic], store: str | None) -> list[Proposal]:
    """Preference training, where people's thumbs say that the model could answer and does not as they like it."""
    disliked = [topic for topic in topics if topic.thumbs_down >= _LEAST and topic.thumbs_down > topic.thumbs_up]
    if not disliked or store is None or recipe.align is not None:
        return []
    why = f"people put more thumbs down than up on {_named(disliked)}: learn from all their thumbs"
    place = store if "://" in store else str(Path(store).resolve())
    return [Proposal(why, "align", {"objective": "kto", "store": place})]


def _more_replay(recipe: Recipe, run: RunFacts) -> list[Proposal]:
    forgotten = (run.summary("finetune").get("forgetting") or {}).get("all")
    if recipe.finetune is None or forgotten is None or forgotten <= FORGETTING_ALLOWED:
        return []
    share = min(0.5, round(max(0.1, 2 * recipe.finetune.replay_share), 3))
    why = f"fine-tuning forgot {forgotten:.2f} bits per byte of the base's documents: replay more of them"
    return [Proposal(why, "finetune.replay_share", share)]


def _more_documents(recipe: Recipe, run: RunFacts) -> list[Proposal]:
    """Longer pretraining, and a larger share for domains that are much harder than the rest."""
    domains = domains_of(run)
    hard = [domain.name for domain in domains if len(domains) > 1 and domain.beside_all > _HARD]
    if not hard or recipe.pretrain is None:
        return []
    told = f"documents of {', '.join(hard)} are much harder than the rest"
    longer = round(recipe.pretrain.steps * 1.5)
    found = [Proposal(f"{told}: add more of them, and train longer", "pretrain.steps", longer)]
    weights = _weights(recipe, run)
    if weights.keys() >= set(hard):
        raised = {name: round(weight * (2 if name in hard else 1), 4) for name, weight in weights.items()}
        found.append(Proposal(f"{told}: show them twice as often", "pretrain.mixture", {"weights": raised}))
    return found


def _weights(recipe: Recipe, run: RunFacts) -> dict[str, float]:
    """Shares of the domains in pretraining: as the recipe says, or as large as they are."""
    assert recipe.pretrain is not None  # noqa: S101 - whoever calls has looked
    if recipe.pretrain.mixture is not None:
        return {} if recipe.pretrain.mixture.stages else dict(recipe.pretrain.mixture.weights)
    domains: dict[str, Any] = (run.summary("tokens").get("train") or {}).get("domains") or {}
    every = sum(entry["tokens"] for entry in domains.values())
    return {name: round(entry["tokens"] / every, 4) for name, entry in domains.items() if entry["tokens"]}


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
        if key:
            data.setdefault(section, {})[key] = proposal.value
        else:
            data[section] = proposal.value
    told = [f"Changed after looking at {run.name}:", *(f"{proposal.shown}: {proposal.why}" for proposal in chosen)]
    # Topics are named by what people asked: whatever it is, it stays a comment.
    head = "".join(f"# {line}\n" for line in printable("\n".join(told)).splitlines())
    with storage.publish_file(target) as scratch:
        write_toml(scratch, head + tomli_w.dumps(data))
        load_recipe(scratch)
    return target


def as_text(topics: Sequence[Topic], domains: Sequence[Domain], found: Sequence[Proposal]) -> str:
    """The tables and the proposals for a terminal."""
    head = f"{'topic':40} {'questions':>9} {'right':>6} {'tasks':>6} {'rated':>6} {'ratings':>7} {'up':>4} {'down':>4}"
    lines = [head]
    for topic in topics:
        right, tasks = ("" if share is None else f"{share:.0%}" for share in (topic.right, topic.tasks))
        rated = "" if topic.rated is None else f"{topic.rated:.2f}"
        lines.append(
            f"{topic.name[:40]:40} {topic.questions:9} {right:>6} {tasks:>6} {rated:>6} {topic.ratings:7} "
            f"{topic.thumbs_up:4} {topic.thumbs_down:4}"
        )
    if domains:
        lines += ["", f"{'domain':40} {'documents':>9} {'bits/byte':>9} {'beside all':>10}"]
        lines += [f"{d.name[:40]:40} {d.documents:9,} {d.bits_per_byte:9.3f} {d.beside_all:9.2f}x" for d in domains]
    lines += [f"\n{place}. {p.why}\n   {p.shown}" for place, p in enumerate(found, start=1)]
    return "\n".join(lines if found else [*lines, "", "nothing to propose: no topic or domain is weak enough"])
