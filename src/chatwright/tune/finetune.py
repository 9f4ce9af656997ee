"""The stage `finetune`: a base model learns from conversations, and is measured for what it gained and forgot."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.feedback.conversations import Conversation, read_conversations
from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.streams import seed_for
from chatwright.model.adapter_exchange import adapter_digest
from chatwright.model.directory import LoadedModel, load_model, save_model
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.order import WindowOrder
from chatwright.tokens.shards import TokenData
from chatwright.train.heldout import sample_documents
from chatwright.train.loop import Trainer
from chatwright.train.ranks import Ranks
from chatwright.tune.chats import ChatSource, Sample, Variation, encode_samples
from chatwright.tune.finetune_settings import FinetuneConfig
from chatwright.tune.forgetting import BEFORE, kept
from chatwright.tune.keeping import KeepingBase
from chatwright.tune.keeping_best import Watch, curve
from chatwright.tune.learned import Learned
from chatwright.tune.measuring import Task, answers_of, forgotten

REPORT = "report.json"


class _Material(NamedTuple):
    """What is learned, what is measured, and the base's documents."""

    samples: list[Sample]
    task: Task
    data: TokenData | None


def run(context: StageContext) -> dict[str, Any]:
    """Fine-tune; leaves `adapter/` (for LoRA and adapters), `model/` (merged), `metrics.jsonl` and `report.json`."""
    config: FinetuneConfig = context.config
    base = load_model(context.inputs["base"], numbers=config.base_numbers)
    material = _material(config, base, context.inputs.get("tokens"))
    placement = config.settle(context.output, width=base.network.config.width)
    base.network.to(placement.device)
    learned = Learned(base, config, seed=context.seed)
    _introduce(material.samples, learned)
    with Ranks().first_ahead():
        before = kept(context.output / BEFORE, lambda: material.task.figures(base.network))
    learned.attach()
    steps = _num_steps(config, len(material.samples))
    watch = Watch(
        learned=learned,
        network=base.network,
        task=material.task,
        before=before,
        config=config.keeping,
        directory=context.output,
        first_averaged=math.ceil(steps * (1 - config.keeping.average_share)),
    )
    has_answers = bool(material.task.test.samples or material.task.validation.samples)
    trainer = Trainer(
        network=base.network,
        trained=learned.module,
        objective=KeepingBase(
            base.network, learned.module, is_wanted=material.data is not None and config.replay_share > 0
        ),
        source=_source(config, material, length=base.network.config.context_length, seed=context.seed),
        config=config.loop(steps=steps, seed=context.seed),
        optimizer=config.optimizer,
        schedule=config.schedule,
        placement=placement,
        directory=context.output,
        evaluate=(lambda: watch(trainer.step)) if has_answers else None,
    )
    summary = trainer.run(context.stop, label="finetune") | watch.settle()
    learned.finish()
    return _finish(context, base, learned, material.task, {**learned.size().facts(), **summary, "before": before})


def _finish(
    context: StageContext, base: LoadedModel, learned: Learned, task: Task, report: dict[str, Any]
) -> dict[str, Any]:
    """Choose the point, measure, and write model, adapter and report."""
    config: FinetuneConfig = context.config
    share = 1.0
    if config.keeping.interpolate:
        points = curve(learned, task, report["before"], config.keeping)
        best = min(points, key=lambda point: point.score)
        share = best.share
        report["interpolation"] = {"points": [point._asdict() for point in points], "chosen": share}
    if learned.adapter is not None and share != 1.0:
        learned.adapter.shrink(share)  # what is saved beside the model is what is in it
        share = 1.0
    learned.merge(share)
    after = task.figures(base.network)
    report |= {"after": after, "forgetting": forgotten(report["before"], after)}
    if Ranks().is_first:
        report |= _write(context, base, learned)
        storage.write_json(context.output / REPORT, report)
        _tell(report)
    return report


def _write(context: StageContext, base: LoadedModel, learned: Learned) -> dict[str, Any]:
    """Write the model, and the adapter if it is one; returns the model's digest and the sizes of the files."""
    lineage: dict[str, Any] = {**context.lineage, "base": base.digest}
    sizes = {}
    if learned.adapter is not None:
        place = context.output / "adapter"
        learned.adapter.save(place, base_digest=base.digest)
        sizes["adapter"] = _size(place)
        told = {"name": place.name, "digest": adapter_digest(place), "weight": 1.0, "kind": learned.adapter.kind}
        lineage["adapters"] = [told]  # so that no other one is taken out of the model
    digest = save_model(context.output / "model", base.network, base.tokenizer, lineage=lineage)
    return {"model_digest": digest, "file_bytes": {"model": _size(context.output / "model"), **sizes}}


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def _num_steps(config: FinetuneConfig, samples: int) -> int:
    return max(1, math.ceil(config.epochs * samples / config.batch_rows))


def _material(config: FinetuneConfig, base: LoadedModel, tokens: Path | None) -> _Material:
    length, encoder = base.network.config.context_length, ChatEncoder(base.tokenizer)
    train, validation = hold_back(read_conversations(Path(config.data)), config.validation_share)
    test = read_conversations(Path(config.test)) if config.test else []
    data = _base_text(config, base, tokens)
    heldout = [] if data is None else sample_documents(data.split("heldout"), tokens_per_domain=config.heldout_tokens)
    task = Task(
        answers_of(test, encoder, context_length=length),
        answers_of(validation, encoder, context_length=length),
        heldout,
        base.tokenizer.begin_of_text,
    )
    return _Material(encode_samples(train, encoder, context_length=length), task, data)


def _base_text(config: FinetuneConfig, base: LoadedModel, tokens: Path | None) -> TokenData | None:
    if tokens is None and config.replay_from is None:
        return None
    data = TokenData(tokens or Path(str(config.replay_from)))
    if data.tokenizer_digest != base.tokenizer.digest:
        raise RefusedError(
            "the token shards were made with another tokenizer than the base's",
            hint="leave `replay_from` out, or tokenize the documents with the base's tokenizer",
        )
    return data


def hold_back(
    conversations: Sequence[Conversation], share: float, *, salt: str = ""
) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations to learn and to choose by. The same question is on one side only, whatever else is in the file.

    Raises:
        UsageError: too few conversations for both sides.
    """
    if not share:
        return list(conversations), []
    questions = [_question(item) for item in conversations]
    ranked = sorted(set(questions), key=lambda question: hashlib.sha256((salt + question).encode()).digest())
    if len(ranked) < 2:
        raise UsageError(
            f"{len(conversations)} conversations ask one question alone: none can be held back",
            hint="give more conversations, or set `validation_share = 0`",
        )
    chosen = set(ranked[: max(1, round(share * len(ranked)))])
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for item, question in zip(conversations, questions, strict=True):
        sides[question in chosen].append(item)
    return sides


def _question(item: Conversation) -> str:
    """What is asked first, however it is spaced and whatever its case."""
    asked = next(message.content for message in item.messages if message.role == "user")
    return " ".join(asked.lower().split())


def _source(config: FinetuneConfig, material: _Material, *, length: int, seed: int) -> ChatSource:
    samples, data = material.samples, material.data
    replay, replay_rows, digest = None, 0.0, None
    if data is not None and config.replay_share > 0:
        train = data.split("train")
        replay = WindowOrder(train, length=min(length, config.replay_length), seed=seed_for(seed, "replay"))
        replay_rows = config.batch_rows * config.replay_share / (1 - config.replay_share)
        digest = train.digest
    variation = Variation(config.whole_share, config.opening_tokens, config.word_dropout)
    fingerprint = storage.digest_json(
        [list(samples), seed, config.batch_rows, config.epochs, replay_rows, digest, variation, config.replay_weight]
        + [config.replay_target]
    )
    return ChatSource(
        samples,
        rows=config.batch_rows,
        micro_tokens=config.micro_tokens,
        context_length=length,
        seed=seed,
        fingerprint=fingerprint,
        replay=replay,
        replay_rows=replay_rows,
        replay_weight=config.replay_weight,
        keeps_base=config.replay_target == "base",
        variation=variation,
    )


def _introduce(samples: Sequence[Sample], learned: Learned) -> None:
    if not Ranks().is_first:
        return
    size = learned.size()
    say(
        f"  {len(samples):,} conversations; {size.trained:,} of {size.total:,} parameters are "
        f"trained ({size.trained / size.total:.1%})"
    )
    told = size.foretold
    say(
        f"  memory, about: {told.total / 1e9:.1f} GB ({told.weights / 1e9:.2f} of frozen weights, "
        f"{told.trained / 1e9:.2f} of trained numbers with gradients and moments, {told.activations / 1e9:.2f} of "
        f"activations, {told.scores / 1e9:.2f} of scores)"
    )
    dropped = [sample.dropped_turns for sample in samples if sample.dropped_turns]
    if dropped:
        say(f"  {len(dropped):,} of them exceed the context: their oldest {sum(dropped):,} turns are left out")


def _tell(report: dict[str, Any]) -> None:
    before, after = report["before"], report["after"]
    held = report.get("kept", {})
    if held.get("which") == "best":
        say(f"  kept: the weights of step {held['step']}, the best by the two-sided score")
    if "interpolation" in report:
        say(f"  kept: {report['interpolation']['chosen']:.0%} of the way from the base")
    for name, said in (("test", "test answers"), ("validation", "held-back answers")):
        key = f"{name}_bits_per_byte"
        if key in before:
            say(f"  gained: {said} from {before[key]:.3f} to {after[key]:.3f} bits per byte")
    if report["forgetting"]:
        say(f"  forgot: {report['forgetting']['all']:+.3f} bits per byte on the base's held-out documents")
    else:
        say("  forgot: not measured, there are no documents of the base's (`replay_from`)")
    files = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in report["file_bytes"].items())
    say(f"  files: {files}")
