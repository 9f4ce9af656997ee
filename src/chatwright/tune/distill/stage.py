"""The stage `distill`: a student learns from a teacher, by its scores or its texts, and both are measured.

Leaves `model/`, `metrics.jsonl`, `report.json`, and `teacher/` (kept shares) or `texts.jsonl` where they were made.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from chatwright.feedback.conversations import Conversation, Message, read_conversations
from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.foundation.console import say
from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import DataError, RefusedError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.streams import seed_for
from chatwright.model.directory import LoadedModel, load_model, save_model
from chatwright.model.network import Network
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.shards import TokenData
from chatwright.tokens.tokenizer import Tokenizer
from chatwright.train.batches import BatchSource
from chatwright.train.heldout import HeldoutCheck, sample_documents
from chatwright.train.loop import Trainer
from chatwright.train.objectives import Objective, next_token
from chatwright.train.ranks import Ranks
from chatwright.tune.chats import encode_samples
from chatwright.tune.distill.objective import KeptTeacher, OnlineTeacher
from chatwright.tune.distill.settings import DistillConfig, shape_of
from chatwright.tune.distill.source import LessonSource, OwnSource, Plan, Windows
from chatwright.tune.distill.teacher import SampleRows, keep_shares, require_same_tokens
from chatwright.tune.forgetting import heldout_bits, kept
from chatwright.tune.reference import Learner
from chatwright.tune.rollouts import WritingRules, write_answers

REPORT = "report.json"
TEXTS = "texts.jsonl"
_WRITTEN_AT_ONCE = 64


class _Pupil(NamedTuple):
    """Who learns, in which tokens."""

    learner: Learner
    tokenizer: Tokenizer
    base_digest: str | None  # of the model that it begins from


class _Lesson(NamedTuple):
    source: BatchSource
    objective: Objective


def run(context: StageContext) -> dict[str, Any]:
    """Distil `distill.teacher`, or the model of `context.inputs["teacher"]`."""
    config: DistillConfig = context.config
    place = Path(config.teacher) if config.teacher is not None else context.inputs["teacher"]
    teacher = load_model(place)
    pupil = _pupil(config, teacher, seed=context.seed)
    if config.by != "text":
        require_same_tokens(teacher, pupil.tokenizer, name=str(place))
    student = pupil.learner.network
    placement = config.settle(context.output, width=student.config.width)
    student.to(placement.device)
    teacher.network.to(placement.device).requires_grad_(False).eval()
    data = _tokens(context, pupil.tokenizer)

    def bits(network: Network) -> Callable[[], dict[str, Any]]:
        begin, tokens = pupil.tokenizer.begin_of_text, config.heldout_tokens
        return lambda: heldout_bits(network, data, begin=begin, tokens_per_domain=tokens)

    began = time.monotonic()
    with Ranks().first_ahead():
        taught = kept(context.output / "before.json", bits(teacher.network)) if config.by != "text" else {}
        lesson = _lesson(context, teacher, pupil, data)
    prepared = time.monotonic() - began
    _introduce(teacher, student, config)
    trainer = _trainer(context, placement, pupil, lesson, _check(config, pupil, data))
    summary = trainer.run(context.stop, label="distill")
    pupil.learner.finish()
    report = {
        **pupil.learner.facts(),
        **summary,
        "by": config.by,
        "teacher_parameters": teacher.network.config.num_parameters(),
        "teacher_seconds": round(prepared, 3),  # before the first step: writing, or keeping shares
        "teacher_bits_per_byte": taught,
        "student_bits_per_byte": bits(student)(),
    }
    if Ranks().is_first:
        _save(context, pupil, teacher, report)
    return report


def _pupil(config: DistillConfig, teacher: LoadedModel, *, seed: int) -> _Pupil:
    if config.begin is not None:
        begun = load_model(Path(config.begin))
        network, tokenizer, digest = begun.network, begun.tokenizer, begun.digest
    else:
        length = teacher.network.config.context_length
        size = teacher.tokenizer.size
        if config.student is not None:
            shape = config.student.model_copy(update={"vocabulary_size": size})
        else:
            assert config.parameters is not None, "checked by the configuration"  # noqa: S101
            shape = shape_of(config.parameters, vocabulary_size=size, context_length=length)
        network, tokenizer, digest = Network(shape), teacher.tokenizer, None
        network.initialise(torch.Generator().manual_seed(seed_for(seed, "student")))
    learner = Learner(network, method=config.method, lora=config.lora, seed=seed, keeps_reference=False)
    return _Pupil(learner, tokenizer, digest)


def _tokens(context: StageContext, tokenizer: Tokenizer) -> TokenData | None:
    if "tokens" not in context.inputs:
        return None
    data = TokenData(context.inputs["tokens"])
    if data.tokenizer_digest != tokenizer.digest:
        raise RefusedError(
            "the token shards were made with another tokenizer than the student's",
            hint="begin the recipe with the teacher as `[base]`: then the documents are encoded in its tokens",
        )
    return data


def _lesson(context: StageContext, teacher: LoadedModel, pupil: _Pupil, data: TokenData | None) -> _Lesson:
    """Source and objective of the way that the recipe asks for."""
    config: DistillConfig = context.config
    student = pupil.learner.network
    if config.by == "own":
        prompts = [ChatEncoder(pupil.tokenizer).prompt(item.messages[:-1]) for item in _conversations(config)]
        lengths = [network.config.context_length for network in (student, teacher.network)]  # both read the answers
        _require_room(prompts, min(lengths), config)
        rules = _writing(config, pupil.tokenizer)
        plan = _plan(context, teacher, storage.digest_json(prompts))
        return _Lesson(
            OwnSource(prompts, plan, learner=pupil.learner, writing=rules), OnlineTeacher(teacher.network, config.loss)
        )
    samples = _samples(context, teacher, pupil, data)
    digest = storage.digest_json([samples[number] for number in range(len(samples))])
    plan = _plan(context, teacher, digest)
    if config.by == "text":
        return _Lesson(LessonSource(samples, plan), next_token)
    if config.by == "scores":
        return _Lesson(LessonSource(samples, plan), OnlineTeacher(teacher.network, config.loss))
    kept_tokens = min(config.kept_tokens, teacher.tokenizer.size)
    temperature = config.loss.temperature
    facts: dict[str, object] = {
        "teacher": teacher.digest,
        "samples": digest,
        "kept": kept_tokens,
        "temperature": temperature,
    }
    shares = keep_shares(
        context.output / "teacher",
        teacher.network,
        samples,
        kept=kept_tokens,
        temperature=temperature,
        facts=facts,
        rows=config.micro_rows,
        stop=context.stop,
    )
    return _Lesson(LessonSource(samples, plan, shares=shares), KeptTeacher(config.loss))


def _plan(context: StageContext, teacher: LoadedModel, digest: str) -> Plan:
    config: DistillConfig = context.config
    fingerprint = storage.digest_json([digest, teacher.digest, without_habits(config), context.seed])
    return Plan(config.batch_rows, config.micro_rows, context.seed, fingerprint)


def _samples(context: StageContext, teacher: LoadedModel, pupil: _Pupil, data: TokenData | None) -> SampleRows:
    config: DistillConfig = context.config
    length = min(teacher.network.config.context_length, pupil.learner.network.config.context_length)
    if config.data is not None:
        conversations = _conversations(config)
        if config.by == "text":
            conversations = _written(context, teacher, conversations)
        return encode_samples(conversations, ChatEncoder(pupil.tokenizer), context_length=length)
    if data is None:
        raise DataError("there is nothing to learn from", hint="add `[[collect.sources]]`, or `distill.data`")
    return Windows(data.split("train"), length=length)


def _conversations(config: DistillConfig) -> list[Conversation]:
    assert config.data is not None, "checked by the configuration"  # noqa: S101
    return read_conversations(Path(config.data))


def _written(context: StageContext, teacher: LoadedModel, asked: Sequence[Conversation]) -> list[Conversation]:
    """Sequence-level distillation (Kim and Rush 2016): the teacher's answers in place of the file's, written once.

    An answer that was cut off is left out: learned, it would teach to end there.
    """
    config: DistillConfig = context.config
    path = context.output / TEXTS
    if not path.is_file():
        encoder = ChatEncoder(teacher.tokenizer)
        answers: list[str | None] = []  # None: cut off
        prompts = [encoder.prompt(item.messages[:-1]) for item in asked]
        _require_room(prompts, teacher.network.config.context_length, config)
        rules = _writing(config, teacher.tokenizer)
        for start in range(0, len(prompts), _WRITTEN_AT_ONCE):
            context.stop.check("nothing of the teacher's texts")
            part = prompts[start : start + _WRITTEN_AT_ONCE]
            found = write_answers(teacher.network, part, rules, seed=seed_for(context.seed, "teacher", start))
            for row in found:
                is_whole = row.answer[-1] in rules.stop_ids
                answers.append(teacher.tokenizer.decode(row.answer).strip() if is_whole else None)
        _tell_of(answers, config)
        with storage.publish_file(path) as scratch:
            scratch.write_text("".join(_line(item, text) for item, text in zip(asked, answers, strict=True) if text))
    return read_conversations(path)


def _tell_of(answers: Sequence[str | None], config: DistillConfig) -> None:
    """Say how many are left out, and why; none that is left is an error."""
    empty, cut_off = answers.count(""), answers.count(None)
    left_out = f"{empty:,} were empty and {cut_off:,} cut off at {config.max_answer_tokens} tokens"
    if empty + cut_off == len(answers):
        raise DataError(
            f"none of the teacher's {len(answers):,} answers can be learned: {left_out}",
            hint="raise `distill.max_answer_tokens`, or take a teacher that ends its answers",
        )
    say(f"  the teacher wrote {len(answers):,} answers; {left_out}: they are left out")


def _line(item: Conversation, answer: str) -> str:
    messages = [*item.messages[:-1], Message("assistant", answer)]
    return json.dumps({"messages": [message._asdict() for message in messages]}, ensure_ascii=True) + "\n"


def _writing(config: DistillConfig, tokenizer: Tokenizer) -> WritingRules:
    stops = ChatEncoder(tokenizer).stop_ids()
    return WritingRules(config.max_answer_tokens, config.answer_temperature, stops)


def _require_room(prompts: Sequence[Sequence[int]], context_length: int, config: DistillConfig) -> None:
    room = context_length - config.max_answer_tokens
    long = sum(len(prompt) > room for prompt in prompts)
    if long:
        raise DataError(
            f"{long} of {len(prompts)} questions leave no room for an answer of {config.max_answer_tokens} tokens",
            hint="shorten them, or lower `distill.max_answer_tokens`",
        )


def _check(config: DistillConfig, pupil: _Pupil, data: TokenData | None) -> HeldoutCheck | None:
    sample = [] if data is None else sample_documents(data.split("heldout"), tokens_per_domain=config.heldout_tokens)
    return HeldoutCheck(pupil.learner.network, sample, begin=pupil.tokenizer.begin_of_text) if sample else None


def _trainer(
    context: StageContext, placement: Placement, pupil: _Pupil, lesson: _Lesson, check: HeldoutCheck | None
) -> Trainer:
    config: DistillConfig = context.config
    return Trainer(
        network=pupil.learner.network,
        trained=pupil.learner.trained,
        objective=lesson.objective,
        source=lesson.source,
        config=config.loop(steps=config.steps, seed=context.seed),
        optimizer=config.optimizer,
        schedule=config.schedule,
        placement=placement,
        directory=context.output,
        evaluate=check,
    )


def _introduce(teacher: LoadedModel, student: Network, config: DistillConfig) -> None:
    if Ranks().is_first:
        sizes = [network.config.num_parameters() for network in (teacher.network, student)]
        say(f"  a teacher of {sizes[0]:,} parameters, a student of {sizes[1]:,}, by {config.by}, {config.steps} steps")


def _save(context: StageContext, pupil: _Pupil, teacher: LoadedModel, report: dict[str, Any]) -> None:
    lineage = {**context.lineage, "teacher": teacher.digest}
    if pupil.base_digest is not None:
        lineage["base"] = pupil.base_digest
    network = pupil.learner.network
    report["model_digest"] = save_model(context.output / "model", network, pupil.tokenizer, lineage=lineage)
    storage.write_json(context.output / REPORT, report)
    bits = [report[f"{who}_bits_per_byte"].get("all", math.nan) for who in ("teacher", "student")]
    if not math.isnan(bits[1]):
        say(f"  held-out bits per byte: teacher {bits[0]:.3f}, student {bits[1]:.3f}")
