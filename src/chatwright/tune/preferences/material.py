"""What `align` learns from and is measured on, read, encoded and split by question; everything left out is counted."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.feedback.conversations import Conversation, Message, read_conversations
from chatwright.feedback.database import require_store
from chatwright.feedback.store import FeedbackStore
from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.foundation.errors import DataError
from chatwright.model.prompts import ChatEncoder
from chatwright.tune.preferences.card import data_card
from chatwright.tune.preferences.harvest import harvest, normalised, questions_of
from chatwright.tune.preferences.pairs import Preferences, read_preferences
from chatwright.tune.preferences.settings import AlignConfig
from chatwright.tune.preferences.source import EncodedPair, EncodedVerdict, encode_answer

CARD = "data_card.md"


class EncodedTask(NamedTuple):
    """A question as ids, and the answer that is expected."""

    prompt: list[int]
    expected: str


class Material(NamedTuple):
    """One kind is filled in train; pairs or tasks of the held-out part are measured."""

    pairs: list[EncodedPair]
    verdicts: list[EncodedVerdict]
    tasks: list[EncodedTask]
    heldout_pairs: list[EncodedPair]
    heldout_tasks: list[EncodedTask]
    heldout_prompts: list[list[int]]  # each question once, for the divergence from the reference
    dropped: dict[str, int]

    @property
    def size(self) -> int:
        """Rows to learn from."""
        return len(self.pairs) or len(self.verdicts) or len(self.tasks)


def prepare(config: AlignConfig, encoder: ChatEncoder, *, context_length: int, output: Path) -> Material:
    """Read and encode; a store's preferences are kept in `output` with their card.

    Raises:
        DataError: files are unsound, nothing is left to learn, or `kto` has one question alone.
    """
    dropped: Counter[str] = Counter()
    room = context_length - config.max_answer_tokens
    if config.objective == "grpo":
        material = _from_conversations(config, encoder, room, dropped)
    else:
        material = _from_preferences(config, encoder, context_length, dropped, output)
    if not material.size:
        raise DataError(
            f'no preference is left to learn with `objective = "{config.objective}"`',
            cause="; ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items())) or None,
            hint="give more data; `kto` learns from single thumbs, the others from pairs",
        )
    if config.objective == "kto" and len({tuple(verdict.answered.prompt) for verdict in material.verdicts}) < 2:
        raise DataError(
            "all thumbs that are left to learn are on one question",
            cause="`kto` measures gains against answers to other questions: against its own, nothing would gain",
            hint="collect thumbs on more questions, or learn from pairs with another `objective`",
        )
    prompts = list(dict.fromkeys(tuple(prompt) for prompt in material.heldout_prompts if len(prompt) <= room))
    return material._replace(
        heldout_prompts=[list(prompt) for prompt in prompts], dropped=dict(sorted(dropped.items()))
    )


def _from_preferences(
    config: AlignConfig, encoder: ChatEncoder, context_length: int, dropped: Counter[str], output: Path
) -> Material:
    train = _preferences(config, dropped, output)
    if config.test is not None:
        heldout = read_preferences(Path(config.test))
        asked = questions_of(heldout.conversations())
        train = _without(train, asked, dropped)
    else:
        train, heldout = split(train, config.heldout_share)
    if config.objective == "kto":
        verdicts = _encoded_verdicts(train, encoder, context_length, dropped)
        pairs: list[EncodedPair] = []
    else:
        dropped["verdicts without a pair"] += len(train.verdicts)
        verdicts, pairs = [], _encoded_pairs(train, encoder, context_length, dropped)
    prompts = [encoder.prompt(messages) for messages in heldout.conversations()]
    heldout_pairs = _encoded_pairs(heldout, encoder, context_length, Counter())
    return Material(pairs, verdicts, [], heldout_pairs, [], prompts, {})


def _preferences(config: AlignConfig, dropped: Counter[str], output: Path) -> Preferences:
    if config.data is not None:
        return read_preferences(Path(config.data))
    assert config.store is not None, "checked by the configuration"  # noqa: S101
    with contextlib.closing(FeedbackStore(config.store)) as store:
        found = harvest(store.export(), config.harvest, test_prompts=_test_questions(config))
    dropped.update(found.dropped)
    with storage.publish_file(output / CARD) as scratch:
        scratch.write_text(data_card(found, config.harvest), encoding="utf-8")
    return found.preferences


def store_digest(place: str) -> str:
    """Digest of everything that a feedback store would give, so that new feedback makes the stage be done again.

    Raises:
        UsageError: there is no such store.
    """
    require_store(place)
    with contextlib.closing(FeedbackStore(place)) as store:
        return storage.digest_json(list(store.export_lines()))


def _test_questions(config: AlignConfig) -> frozenset[str]:
    if config.test is None:
        return frozenset()
    heldout = read_preferences(Path(config.test))
    return questions_of(heldout.conversations())


def _without(train: Preferences, asked: frozenset[str], dropped: Counter[str]) -> Preferences:
    pairs = [pair for pair in train.pairs if normalised(pair.messages[-1].content) not in asked]
    verdicts = [verdict for verdict in train.verdicts if normalised(verdict.messages[-1].content) not in asked]
    dropped["a test prompt"] += len(train.pairs) + len(train.verdicts) - len(pairs) - len(verdicts)
    return Preferences(pairs, verdicts)


def split(whole: Preferences, share: float) -> tuple[Preferences, Preferences]:
    """What is learned and what is held out: by the first question, so that both stay so as data are added."""
    sides: tuple[Preferences, Preferences] = (Preferences([], []), Preferences([], []))
    for pair in whole.pairs:
        sides[is_held_out(pair.messages, share)].pairs.append(pair)
    for verdict in whole.verdicts:
        sides[is_held_out(verdict.messages, share)].verdicts.append(verdict)
    return sides


def is_held_out(messages: Sequence[Message], share: float) -> bool:
    """Whether a conversation is measured on instead of learned."""
    first = next(message.content for message in messages if message.role == "user")
    return int(storage.digest_bytes(normalised(first).encode())[:8], 16) < share * (1 << 32)


def _encoded_pairs(
    whole: Preferences, encoder: ChatEncoder, context_length: int, dropped: Counter[str]
) -> list[EncodedPair]:
    mean = sum(pair.weight for pair in whole.pairs) / max(1, len(whole.pairs))
    encoded = []
    for pair in whole.pairs:
        sides = [encode_answer(pair.messages, text, encoder) for text in (pair.chosen, pair.rejected)]
        if max(len(side.prompt) + len(side.answer) for side in sides) > context_length + 1:
            dropped["longer than the model's context"] += 1
        else:
            encoded.append(EncodedPair(sides[0], sides[1], pair.weight / mean))
    return encoded


def _encoded_verdicts(
    whole: Preferences, encoder: ChatEncoder, context_length: int, dropped: Counter[str]
) -> list[EncodedVerdict]:
    verdicts = whole.as_verdicts()
    mean = sum(verdict.weight for verdict in verdicts) / max(1, len(verdicts))
    encoded = []
    for verdict in verdicts:
        answered = encode_answer(verdict.messages, verdict.answer, encoder)
        if len(answered.prompt) + len(answered.answer) > context_length + 1:
            dropped["longer than the model's context"] += 1
        else:
            encoded.append(EncodedVerdict(answered, verdict.is_good, verdict.weight / mean))
    return encoded


def _from_conversations(config: AlignConfig, encoder: ChatEncoder, room: int, dropped: Counter[str]) -> Material:
    assert config.data is not None, "checked by the configuration"  # noqa: S101
    train = read_conversations(Path(config.data))
    if config.test is not None:
        heldout = read_conversations(Path(config.test))
    else:
        heldout = [item for item in train if is_held_out(item.messages, config.heldout_share)]
        train = [item for item in train if not is_held_out(item.messages, config.heldout_share)]
    tasks, heldout_tasks = (_tasks(part, encoder, room, dropped) for part in (train, heldout))
    return Material([], [], tasks, [], heldout_tasks, [task.prompt for task in heldout_tasks], {})


def _tasks(
    conversations: Sequence[Conversation], encoder: ChatEncoder, room: int, dropped: Counter[str]
) -> list[EncodedTask]:
    tasks = []
    for item in conversations:
        prompt = encoder.prompt(item.messages[:-1])
        if len(prompt) > room:
            dropped["no room for an answer in the model's context"] += 1
        else:
            tasks.append(EncodedTask(prompt, item.messages[-1].content))
    return tasks


def fingerprint_of(material: Material, config: AlignConfig, seed: int) -> str:
    """Digest of everything that the order of learning depends on."""
    rows: Any = [list(part) for part in (material.pairs, material.verdicts, material.tasks)]
    return storage.digest_json([rows, without_habits(config), seed])
