"""What a run learned from beside documents, as its stages noted it: files, people's feedback, what models wrote.

Rounds of improvement count as stages here, see `cards_rounds`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from chatwright.feedback.conversations import read_conversations
from chatwright.foundation import storage
from chatwright.recipe.cards_rounds import LEARNED, is_round
from chatwright.recipe.cards_text import quoted, table
from chatwright.recipe.report.facts import RunFacts, StageFacts
from chatwright.recipe.report.improving import unit_of
from chatwright.recipe.report.markup import count, size
from chatwright.recipe.report.models import name_of, place_of

LEARNED_FROM = "learned from"
_FEEDBACK = "learned from, people's feedback"
_TESTED = "tested with, never learned"
_REPLAYED = "replayed, against forgetting"
# Files that a stage learns from or tests with, by their keys in its section.
_FILES = {
    "finetune": ("data", "test"),
    "reward": ("data", "test"),
    "align": ("data", "store", "test"),
    "distill": ("data",),
}
_USES = {"data": LEARNED_FROM, "store": _FEEDBACK, "test": _TESTED}
_OF_CONVERSATIONS = ("finetune", "distill")  # the others' files hold preferences
_TEACHING = {  # `distill.by` -> what the teacher wrote
    "scores": "scores of every token",
    "kept": "scores of its likeliest tokens",
    "own": "scores of answers that the student wrote itself",
    "text": "answers in place of the file's",
}
_FEEDBACK_CARD = "data_card.md"  # left by `align` and by rounds
_SHOWN_DIGITS = 12


class Material(NamedTuple):
    """Something that a stage of the run was given."""

    stage: str
    use: str
    name: str
    digest: str | None
    conversations: int | None = None  # None where the file is gone or is another one now, or holds none
    turns: int | None = None
    num_bytes: int | None = None
    rows: str | None = None  # what it came to, such as `31 pairs`, where the stage counted it

    @property
    def is_counted(self) -> bool:
        """Whether anything is known of its size."""
        return any(number is not None for number in (self.conversations, self.num_bytes, self.rows))


def read_material(run: RunFacts) -> list[Material]:
    """Everything that the stages of a run were given beside documents and models, in the stages' order."""
    found: list[Material] = []
    for stage in run.stages.values():
        found += [_material(run, stage, key) for key in _FILES.get(stage.name, ()) if stage.config.get(key)]
        if stage.config.get("replay_from"):
            found.append(_replayed(run, stage))
        if is_round(stage.name):
            found += _of_round(stage)
    return found


def _noted(run: RunFacts, stage: StageFacts, key: str) -> tuple[str, Path, str | None]:
    """Of a key that names something outside: what it names, as a path too, and the digest that was noted."""
    told = (stage.facts.get("outside") or {}).get(key) or {}
    place = str(told.get("path") or stage.config[key])
    return place, run.directory / place, told.get("digest")


def _material(run: RunFacts, stage: StageFacts, key: str) -> Material:
    place, path, digest = _noted(run, stage, key)
    learned = _rows(stage) if key != "test" and stage.name not in _OF_CONVERSATIONS else None
    unread = Material(stage.name, _USES[key], _name_of_store(place) if key == "store" else path.name, digest)
    unread = unread._replace(rows=learned)
    is_known = stage.name in _OF_CONVERSATIONS and digest is not None and path.is_file()
    if not is_known or storage.digest_file(path) != digest:
        return unread
    found = read_conversations(path)
    texts = [message.content for conversation in found for message in conversation.messages]
    return unread._replace(
        conversations=len(found), turns=len(texts), num_bytes=sum(len(text.encode()) for text in texts)
    )


def _name_of_store(place: str) -> str:
    """The last part of its path or address; nothing of the server that it stands on."""
    _, mark, address = place.partition("://")
    return PurePath(address.partition("?")[0].partition("/")[2] if mark else place).name or "a database"


def _rows(stage: StageFacts) -> str | None:
    number, unit = stage.summary.get("rows"), unit_of(stage.summary) or "pairs"
    return None if number is None else f"{count(number)} {'questions' if unit == 'answers' else unit}"


def _replayed(run: RunFacts, stage: StageFacts) -> Material:
    """Token shards of documents that another run read."""
    _, path, digest = _noted(run, stage, "replay_from")
    use = _REPLAYED if stage.config.get("replay_share") != 0 else _TESTED
    index = path / "index.json"
    if digest is None or not index.is_file() or storage.digest_file(index) != digest:
        return Material(stage.name, use, path.name, digest)
    shards = [shard for name, split in storage.read_json(index)["splits"].items() if name == "train" for shard in split]
    numbers = [sum(int(shard[key]) for shard in shards) for key in ("bytes", "documents")]
    return Material(stage.name, use, path.name, digest, num_bytes=numbers[0], rows=f"{count(numbers[1])} documents")


def _of_round(stage: StageFacts) -> Iterator[Material]:
    feedback: dict[str, Any] = stage.summary.get("feedback") or {}
    store = stage.config.get("store")
    name = _name_of_store(str(store)) if store else "feedback store"
    learned = stage.directory / LEARNED
    digest = storage.digest_file(learned) if learned.is_file() else None
    for part, use in (("train", _FEEDBACK), ("heldout", _TESTED)):
        numbers = feedback.get(part) or {}
        told = ", ".join(f"{count(numbers[unit])} {unit}" for unit in ("pairs", "thumbs") if unit in numbers)
        if numbers.get("edits"):
            told += f"; {count(numbers['edits'])} of the pairs are corrected answers"
        yield Material(stage.name, use, name, digest, rows=told or None)


def material_sections(run: RunFacts, material: Sequence[Material]) -> list[str]:
    """Tables of what was given and of what models wrote, and the card of the feedback as its stage left it."""
    return [*_given(material), *_written(run), *_feedback(run)]


def _given(material: Sequence[Material]) -> list[str]:
    """By their names and digests."""
    rows = [
        (
            one.stage,
            one.use,
            one.name,
            count(one.conversations),
            count(one.turns),
            size(one.num_bytes),
            "not noted" if one.digest is None else one.digest[:_SHOWN_DIGITS],
            one.rows or "\N{EN DASH}",
        )
        for one in material
    ]
    if not rows:
        return []
    names = ("stage", "use", "file", "conversations", "turns", "text", "SHA-256", "rows")
    uncounted = not all(one.is_counted for one in material)
    how = "Not counted: preferences to test with, and files that are gone or have changed since." if uncounted else ""
    return ["## Conversations and preferences", table(names, rows), how]


def _written(run: RunFacts) -> list[str]:
    """What models wrote that others, or they themselves, learned from."""
    rows = []
    align, distill = run.stages.get("align"), run.stages.get("distill")
    if align is not None and align.config.get("objective") == "grpo":
        rows.append(("align", "answers, judged by rules or reward models", "the model itself"))
    if distill is not None:
        named = distill.config.get("teacher") or place_of(distill.inputs.get("teacher") or {})
        how = _TEACHING.get(str(distill.config.get("by")), "not noted")
        rows.append(("distill", how, name_of(str(named)) or "not noted"))
    return ["## Written by models", table(("stage", "what", "model"), rows)] if rows else []


def _feedback(run: RunFacts) -> list[str]:
    """Of several rounds the newest one's alone: it counts what still stands of the earlier ones."""
    rounds = [name for name in run.stages if is_round(name)]
    parts = []
    for name, stage in run.stages.items():
        path = stage.directory / _FEEDBACK_CARD
        if path.is_file() and (name not in rounds or name == rounds[-1]):
            parts += [f"## People's feedback, `{name}`", quoted(path.read_text(encoding="utf-8"))]
    return parts
