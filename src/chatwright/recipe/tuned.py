"""A recipe for a fine-tune derived from a model and its conversations: every number has a rule, and says it.

Written beside the run as a commented file, so that the same call goes on with it, and a person can change it.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.feedback.conversations import MORE_REFERENCES, Conversation, read_conversations
from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.foundation.memory import available_bytes
from chatwright.model.config import ModelConfig
from chatwright.model.directory import digest_of, read_config
from chatwright.model.prompts import ChatEncoder
from chatwright.model.quantised import Numbers
from chatwright.tokens.shards import TokenData
from chatwright.tokens.tokenizer import load_tokenizer
from chatwright.tune.finetune import hold_back
from chatwright.tune.memory import foretold

RECIPE = "finetune.toml"
TEST_SHARE = 0.1
_FIRST_LINE = "# Derived by `chatwright finetune`, of "
_MEMORY_SHARE = 0.6  # of what is free: other programs want some
_MICRO_TOKENS = (8192, 4096, 2048, 1024, 512, 256)
_RANKS = (8, 16, 32, 64)
_YOUNG_RANK = (
    32  # of a base that was pretrained for minutes: at equal steps it learns the more the higher (docs/log.md)
)
_RECURRING = 8  # conversations for each different answer
_FEWEST_TO_SPLIT = 50  # conversations; of fewer, none is held back
_YOUNG_STEPS = 150  # of a base that was pretrained for minutes, to learn even few answers (docs/log.md)
_CHOOSING_STEPS = 1_500  # about as many as the demo takes
_WHOLE_READINGS = 32  # of each recurring answer, over the run; the other times its opening alone is learned
_TOLD_APART = 0.99  # of the answers, by their openings
_MOST_TELLING = 12  # tokens of an opening


class Setting(NamedTuple):
    """A key of the recipe, its value, and the rule that gave it."""

    key: str
    value: Any
    why: str


class _Lesson(NamedTuple):
    """How much there is to learn."""

    conversations: int
    answers: int  # different ones
    targets: int  # tokens of the different answers
    telling: int  # tokens of an answer's beginning that tell it from the others

    @property
    def recurs(self) -> bool:
        """Whether few answers come again and again, so that what is learned is which one to begin."""
        return self.conversations >= _RECURRING * self.answers


class _Sides(NamedTuple):
    """Files of conversations to learn and to test with."""

    train: Path
    test: Path | None


def derived_recipe(model: Path, data: Path, *, test: Path | None, name: str | None, runs: Path) -> Path:
    """The path of the recipe for this model and these conversations, written now unless it is there from before.

    Args:
        model: the base, a model directory.
        data: conversations in any of the usual shapes.
        test: conversations that are never trained on; None splits some off by question.
        name: of the run; None makes one of the model's and the data's.
        runs: the folder of runs.

    Raises:
        UsageError: the run of this name is of another model or other data.
    """
    read_config(model)  # what is no model, and what is no data, is told before anything is derived
    if not data.is_file():
        raise UsageError(
            f"there is no file `{data}`", hint="give conversations as JSON Lines, or CSV of question,answer"
        )
    if test is not None and not test.is_file():
        raise UsageError(f"there is no file `{test}`", hint="leave `--test` out, and some of the data is split off")
    named = name or _name(model, data)
    folder = runs / named
    identity = storage.digest_json([digest_of(model), storage.digest_file(data), test and storage.digest_file(test)])
    path = folder / RECIPE
    if path.is_file():
        if identity[:16] not in path.read_text(encoding="utf-8").splitlines()[0]:
            raise UsageError(
                f"`{path}` was derived of another model or of other conversations",
                hint="give this run another name with `--name`, or delete the file",
            )
        return path
    conversations = read_conversations(data)
    sides = _sides(data, conversations, test, folder)
    settings = _settings(model, read_conversations(sides.train), sides)
    with storage.publish_file(path) as scratch:
        scratch.write_text(_text(settings, name=named, runs=runs, model=model, identity=identity), encoding="utf-8")
    return path


def _name(model: Path, data: Path) -> str:
    place = model.resolve()
    known = place.parent.parent.name if place.name == "model" else place.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{known}-{data.stem}").strip("-.")[:60] or "finetune"


def _sides(data: Path, conversations: list[Conversation], test: Path | None, folder: Path) -> _Sides:
    """The files to learn and to test with; split by question where only one is given and it is large enough."""
    if test is not None:
        return _Sides(data.resolve(), test.resolve())
    if len(conversations) < _FEWEST_TO_SPLIT:
        return _Sides(data.resolve(), None)
    learned, held = hold_back(conversations, TEST_SHARE, salt="test")
    paths = _Sides((folder / "train.jsonl").resolve(), (folder / "test.jsonl").resolve())
    for path, side in ((paths.train, learned), (paths.test, held)):
        assert path is not None  # noqa: S101 - both were made above
        with storage.publish_file(path) as scratch:
            scratch.write_text("".join(_line(item) for item in side), encoding="utf-8")
    return paths


def _line(item: Conversation) -> str:
    value: dict[str, Any] = {"messages": [message._asdict() for message in item.messages]}
    if item.label is not None:
        value["label"] = item.label
    if item.more_references:
        value[MORE_REFERENCES] = item.more_references
    return json.dumps(value, ensure_ascii=False) + "\n"


def _settings(model: Path, conversations: list[Conversation], sides: _Sides) -> list[Setting]:
    config = read_config(model)
    lesson, is_young = _lesson(model, conversations), _is_young(model)
    rank = _rank(config, lesson, is_young=is_young)
    numbers, micro_tokens = _fitting(config, rank.value)
    found = [
        Setting("finetune.data", str(sides.train), "what is learned"),
        *_learning(config, lesson, rank, is_young=is_young),
        Setting("finetune.base_numbers", numbers, "as few bits as this machine's free memory asks for"),
        Setting("finetune.micro_tokens", micro_tokens, "as many at once as the memory takes; no result depends on it"),
        *_guards(model, lesson),
    ]
    if is_young:
        targets = ["all", "embed_tokens"]
        found.append(Setting("finetune.lora.targets", targets, "the embedding too: its words are hardly learned yet"))
    if sides.test is not None:
        found += [
            Setting("finetune.test", str(sides.test), "never trained on, split by question"),
            Setting("evaluate.answers", str(sides.test), "exact and token-level scores, BLEU, refusals"),
            Setting("evaluate.baselines", False, "there are no documents to compare on"),
        ]
    return found


def _learning(config: ModelConfig, lesson: _Lesson, rank: Setting, *, is_young: bool) -> list[Setting]:
    """Method, learning rate, batch and length.

    Low-rank updates want about ten times the rate of a full fine-tune, whatever their rank, and a wider network a lower
    one (Schulman et al. 2025, "LoRA without regret"; the power of the width is theirs for Llama). docs/log.md has our
    measurements.
    """
    count = lesson.conversations
    rate = float(f"{min(1e-2, 5e-4 * (2000 / config.width) ** 0.78):.1g}")
    rows = 8 if count < 200 else 16 if count < 2_000 else 32
    epochs = 12.0 if count < 200 else 6.0 if count < 2_000 else 4.0
    # Passes over openings are short, and choosing among answers takes many steps.
    least = _CHOOSING_STEPS if lesson.recurs else _YOUNG_STEPS if is_young else 1
    epochs = float(max(epochs, -(-least * rows // count)))
    per_epoch = max(1, count // rows)
    every = max(10, per_epoch if lesson.recurs else per_epoch // 2)  # measuring takes as long as many short steps
    return [
        Setting("finetune.method", "lora", "forgets less than a full fine-tune, and learns as much at these sizes"),
        rank,
        Setting("finetune.lora.alpha", 2.0 * rank.value, "twice the rank"),
        Setting(
            "finetune.optimizer.learning_rate", rate, f"5e-4 at a width of 2000, more for this one: {config.width}"
        ),
        Setting("finetune.batch_rows", rows, f"conversations a step, for {count} of them"),
        Setting("finetune.epochs", epochs, "at most, where answers are held back: it ends when they no longer gain"),
        Setting("finetune.evaluate_every", every, f"steps; {per_epoch} are a pass over the conversations"),
        Setting("finetune.checkpoint_every", every, "a kill loses no more than these steps"),
        *(_openings(lesson, epochs) if lesson.recurs else ()),
    ]


def _openings(lesson: _Lesson, epochs: float) -> list[Setting]:
    """Where answers recur, most samples are learned only so far that the right answer is chosen."""
    share = float(f"{min(1.0, _WHOLE_READINGS * lesson.answers / (epochs * lesson.conversations)):.1g}")
    if share == 1:
        return []
    return [
        Setting(
            "finetune.whole_share",
            share,
            f"{lesson.answers} answers recur: each is learned to its end about {_WHOLE_READINGS} times,",
        ),
        Setting("finetune.opening_tokens", lesson.telling, "else so far that it is told from the others"),
    ]


def _rank(config: ModelConfig, lesson: _Lesson, *, is_young: bool) -> Setting:
    """A number to train for each token to be learned: two bits are learned a number, a token carries about as much."""
    enough = (rank for rank in _RANKS if rank * _trained_by_rank(config) >= lesson.targets)
    rank = next(enough, _RANKS[-1])
    if is_young and rank < _YOUNG_RANK:
        return Setting("finetune.lora.rank", _YOUNG_RANK, "the least for a base that was pretrained here, for minutes")
    return Setting("finetune.lora.rank", rank, f"a trained number for each of {lesson.targets:,} tokens, 8 to 64")


def _lesson(model: Path, conversations: list[Conversation]) -> _Lesson:
    """Counts tokens of the last answers; one that recurs is counted once."""
    tokenizer = load_tokenizer(model)
    encoder = ChatEncoder(tokenizer)
    seen: dict[str, int] = {}
    for item in conversations:
        answer = item.messages[-1].content
        if answer not in seen:
            seen[answer] = sum(encoder.conversation(list(item.messages)).is_target)
    openings = [tokenizer.encode(answer)[:_MOST_TELLING] for answer in seen]
    telling = next(
        (
            length
            for length in range(1, _MOST_TELLING)
            if len({tuple(ids[:length]) for ids in openings}) >= _TOLD_APART * len(seen)
        ),
        _MOST_TELLING,
    )
    return _Lesson(len(conversations), len(seen), sum(seen.values()), telling)


def _trained_by_rank(config: ModelConfig) -> int:
    """Numbers that one rank more trains, over all matrices of the blocks: a row and a column of each."""
    inner, shared = config.heads * config.head_width, config.key_heads * config.head_width
    attention = 2 * (config.width + inner) + 2 * (config.width + shared)
    return config.layers * (attention + (2 if config.is_gpt2 else 3) * (config.width + config.mlp_width))


def _fitting(config: ModelConfig, rank: int) -> tuple[Numbers, int]:
    """The finest numbers and the largest micro-batch whose foretold memory is free.

    Raises:
        RefusedError: not even the smallest fits.
    """
    free = available_bytes()
    trained = rank * _trained_by_rank(config)
    kinds: tuple[Numbers, ...] = ("float32", "int8", "nf4")
    for numbers in kinds:
        for tokens in _MICRO_TOKENS:
            told = foretold(config, numbers=numbers, trained=trained, is_beside=True, tokens=tokens)
            if free is None or told.total <= _MEMORY_SHARE * free:
                return numbers, tokens
    raise RefusedError(
        f"this model needs more memory than there is even in 4 bits: {(free or 0) >> 20} MiB are free",
        hint="use a smaller model, or a machine with more memory",
    )


def _guards(model: Path, lesson: _Lesson) -> list[Setting]:
    share = 0.2 if lesson.conversations < 200 else 0.05
    found = []
    if lesson.conversations >= _FEWEST_TO_SPLIT:
        found += [
            Setting("finetune.validation_share", share, "held back by question: decides where it ends"),
            Setting("finetune.keeping.patience", 3, "measurements without a better two-sided score"),
        ]
    tokens = model.resolve().parent.parent / "tokens"
    if (tokens / "index.json").is_file() and TokenData(tokens).tokenizer_digest == load_tokenizer(model).digest:
        found += [
            Setting("finetune.replay_from", str(tokens), "the documents of the base's own run"),
            *_replay(lesson),
            Setting("finetune.keeping.forgetting_weight", 1.0, "a bit forgotten counts as a bit not learned"),
        ]
    return found


def _replay(lesson: _Lesson) -> list[Setting]:
    """Base text beside the answers; light beside openings, which it would outweigh many times."""
    if not lesson.recurs:
        return [Setting("finetune.replay_share", 0.1, "of a step's rows, held to the base's predictions")]
    return [
        Setting("finetune.replay_share", 0.06, "of a step's rows, held to the base's predictions:"),
        Setting("finetune.replay_length", 64, "short rows, and"),
        Setting("finetune.replay_weight", 0.3, "light ones, for the answers' openings are few tokens"),
    ]


def _is_young(model: Path) -> bool:
    """Whether the base was pretrained by this system, for minutes or hours rather than months."""
    path = model / "chatwright.json"
    value = storage.read_json(path) if path.is_file() else {}
    told = value.get("lineage") if isinstance(value, dict) else None
    return isinstance(told, dict) and told.get("stage") == "pretrain"


def _text(settings: list[Setting], *, name: str, runs: Path, model: Path, identity: str) -> str:
    lines = [
        f"{_FIRST_LINE}{identity[:16]}. The same call goes on with this file; change what you like.",
        f"name = {_toml(name)}",
        f"runs = {_toml(str(runs.resolve()))}",
        "",
        "[base]",
        f"model = {_toml(str(model.resolve()))}",
    ]
    tables: dict[str, list[str]] = {}
    for setting in settings:
        table, _, key = setting.key.rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {_toml(setting.value)}  # {setting.why}")
    for table in sorted(tables):
        lines += ["", f"[{table}]", *tables[table]]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Strings, numbers, truths and lists of strings: JSON's form of them is TOML's too."""
    return json.dumps(value, ensure_ascii=False)
