"""What a round learns from and is tested on: the new feedback of a store, divided by question, frozen as files.

The rules of conflicts see all feedback that still counts; a round learns what they give now and did not give before.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.feedback.conversations import Message
from chatwright.foundation import storage
from chatwright.recipe.improve.settings import ImproveConfig
from chatwright.recipe.weak import topics_of
from chatwright.tune.preferences.card import data_card
from chatwright.tune.preferences.harvest import Harvest, harvest
from chatwright.tune.preferences.material import split
from chatwright.tune.preferences.pairs import Pair, Preferences, Verdict, read_preferences, write_preferences

CARD, LEARNED = "data_card.md", "learned.json"
_KINDS = ("ratings", "scores", "choices")


class Gathered(NamedTuple):
    """The new feedback of a round."""

    train: Preferences
    heldout: Preferences
    earlier: Preferences  # held out of the rounds before
    facts: dict[str, Any]

    @property
    def size(self) -> int:
        """New pairs and thumbs."""
        return sum(len(part.pairs) + len(part.verdicts) for part in (self.train, self.heldout))


def opinion_ids(entry: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each opinion of an answer: its kind, itself, and a name that is the same in every database and for both sides."""
    for kind in _KINDS:
        for item in entry.get(kind, ()):
            sides = sorted([str(entry["id"]), str(item.get("against", ""))])
            told = [kind, sides, item.get("rater", ""), item["created"], item.get("thumb"), item.get("score")]
            yield kind, item, storage.digest_json(told)[:24]


def usable_opinions(entries: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    """Opinions, each with its answer, that people agree to being learned from.

    What its person does not agree to is not used up: it may be learned from once they do.
    """
    return {
        (str(entry["id"]), name)
        for entry in entries
        for _, item, name in opinion_ids(entry)
        if entry.get("consent", True) and item.get("consent", True)
    }


def only(entries: Iterable[dict[str, Any]], keep: Any) -> list[dict[str, Any]]:
    """The entries with only those opinions whose name `keep` accepts."""
    kept = []
    for entry in entries:
        opinions: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
        for kind, item, name in opinion_ids(entry):
            if keep(name):
                opinions[kind].append(item)
        kept.append({**entry, **opinions})
    return kept


def gather(
    entries: Sequence[dict[str, Any]],
    config: ImproveConfig,
    *,
    learned: frozenset[str],
    set_aside: frozenset[str],
    test_prompts: frozenset[str],
) -> tuple[Gathered, Harvest]:
    """Divide a store's feedback.

    Args:
        entries: a store's export.
        config: the rules.
        learned: names of opinions that the model in service learned from, or was tested on.
        set_aside: names of those of rounds that were refused or rolled back; they count no more.
        test_prompts: questions that must not be learned.
    """
    names = {name for _, name in usable_opinions(entries)}
    now = harvest(only(entries, lambda name: name not in set_aside), config.harvest, test_prompts=test_prompts)
    was = harvest(only(entries, lambda name: name in learned), config.harvest, test_prompts=test_prompts)
    fresh = _without(now.preferences, was.preferences)
    train, heldout = split(fresh, config.heldout_share)
    train, weak = _weighed(train, fresh, config)
    fresh_names = names - learned - set_aside
    facts = {
        "new_opinions": len(fresh_names),
        "set_aside": len(names & set_aside),
        "train": {"pairs": len(train.pairs), "thumbs": len(train.verdicts), "edits": len(edits_of(train))},
        "heldout": {"pairs": len(heldout.pairs), "thumbs": len(heldout.verdicts)},
        "dropped": now.dropped,
        "weak_topics": weak,
        "opinions": sorted(fresh_names),
        "answers": sorted(str(e["id"]) for e in entries if any(name in fresh_names for _, _, name in opinion_ids(e))),
    }
    return Gathered(train, heldout, split(was.preferences, config.heldout_share)[1], facts), now


def _without(whole: Preferences, known: Preferences) -> Preferences:
    """Pairs and verdicts that are new, or whose weight has changed."""
    pairs = {(pair.messages, pair.chosen, pair.rejected, pair.weight) for pair in known.pairs}
    verdicts = {(one.messages, one.answer, one.is_good, one.weight) for one in known.verdicts}
    return Preferences(
        [p for p in whole.pairs if (p.messages, p.chosen, p.rejected, p.weight) not in pairs],
        [v for v in whole.verdicts if (v.messages, v.answer, v.is_good, v.weight) not in verdicts],
    )


def _weighed(train: Preferences, fresh: Preferences, config: ImproveConfig) -> tuple[Preferences, list[dict[str, Any]]]:
    """The topics on which people reject more than on the whole, and `train` with those weighed up."""
    rows = [(_asked(one.messages), one.is_good) for one in fresh.verdicts]
    if not rows:
        return train, []
    questions = sorted({asked for asked, _ in rows} | {_asked(messages) for messages in train.conversations()})
    topic = dict(zip(questions, topics_of(questions, number=config.topics), strict=True))
    seen, bad = Counter(topic[asked] for asked, _ in rows), Counter(topic[asked] for asked, good in rows if not good)
    mean = sum(bad.values()) / len(rows)
    weak = {place for place, count in seen.items() if count >= 3 and bad[place] / count > mean}
    names = {topic[asked]: asked for asked in reversed(questions)}
    told = [
        {"like": " ".join(names[place].split())[:60], "thumbs": seen[place], "down": bad[place]}
        for place in sorted(weak, key=lambda place: -bad[place] / seen[place])
    ]

    def heavier(row: Any) -> Any:
        return replace(row, weight=row.weight * config.weak_weight) if topic[_asked(row.messages)] in weak else row

    return Preferences([heavier(pair) for pair in train.pairs], [heavier(one) for one in train.verdicts]), told


def _asked(messages: Sequence[Message]) -> str:
    return messages[-1].content


def objective_of(gathered: Gathered, config: ImproveConfig) -> str:
    """By which objective a round would learn from it."""
    if config.learn.objective != "auto":
        return config.learn.objective
    return "dpo" if len(gathered.train.pairs) >= config.least_pairs else "kto"


def missing_for(gathered: Gathered, config: ImproveConfig) -> dict[str, Any]:
    """What a round lacks to begin: new feedback at all, or such as its objective learns from; empty if nothing."""
    told: dict[str, Any] = {"has": gathered.size, "needs": config.least_new}
    if gathered.size < config.least_new:
        return told
    objective, train = objective_of(gathered, config), gathered.train
    learns_from = [*train.pairs, *train.verdicts] if objective == "kto" else train.pairs
    return {} if learns_from else {**told, "lacks": objective}


def edits_of(preferences: Preferences) -> list[Pair]:
    """Pairs whose preferred answer a person wrote."""
    return [pair for pair in preferences.pairs if pair.origin == "edit"]


def write(gathered: Gathered, found: Harvest, config: ImproveConfig, directory: Path) -> None:
    """Freeze it, so that a round that was killed goes on with the same."""
    for name in ("train", "heldout", "earlier"):
        part: Preferences = getattr(gathered, name)
        if part.pairs or part.verdicts:
            write_preferences(directory / f"{name}.jsonl", part)
    edits = [
        {"messages": [*(message._asdict() for message in pair.messages), _said(pair.chosen)]}
        for pair in edits_of(gathered.train)
    ]
    lines = "".join(json.dumps(edit, ensure_ascii=False) + "\n" for edit in edits)
    (directory / "edits.jsonl").write_text(lines, encoding="utf-8")
    (directory / CARD).write_text(data_card(found, config.harvest), encoding="utf-8")
    # What the weak topics are like is told by questions, and a round keeps no text that a person wrote.
    weak = [{name: topic[name] for name in ("thumbs", "down")} for topic in gathered.facts["weak_topics"]]
    storage.write_json(directory / LEARNED, {**gathered.facts, "weak_topics": weak})


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read_frozen(directory: Path) -> Gathered:
    """What `write` froze."""
    parts = [
        read_preferences(path) if (path := directory / f"{name}.jsonl").is_file() else Preferences([], [])
        for name in ("train", "heldout", "earlier")
    ]
    return Gathered(parts[0], parts[1], parts[2], storage.read_json(directory / LEARNED))


def verdict_couples(verdicts: Sequence[Verdict]) -> tuple[list[int], list[int]]:
    """The places of the good and of the bad ones."""
    good = [place for place, verdict in enumerate(verdicts) if verdict.is_good]
    return good, [place for place in range(len(verdicts)) if not verdicts[place].is_good]
