"""The stage `align`: a model learns which of its answers people prefer, and is measured for it and for what it forgot.

Leaves `model/`, `adapter/` (for LoRA), `metrics.jsonl`, `report.json` and, from a feedback store, `data_card.md`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.devices import Placement
from chatwright.foundation.stage import StageContext
from chatwright.foundation.streams import seed_for
from chatwright.model.directory import LoadedModel, load_model, save_model
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.shards import TokenData
from chatwright.train.batches import BatchSource
from chatwright.train.loop import Trainer
from chatwright.train.objectives import Objective
from chatwright.train.ranks import Ranks
from chatwright.tune.forgetting import BEFORE, forgotten, heldout_bits, kept
from chatwright.tune.preferences.material import Material, fingerprint_of, prepare
from chatwright.tune.preferences.objectives import PairObjective, PolicyObjective, Strengths, VerdictObjective
from chatwright.tune.preferences.policy import GroupRules, RolloutSource
from chatwright.tune.preferences.rewards import Scorer
from chatwright.tune.preferences.settings import AlignConfig
from chatwright.tune.preferences.source import EncodedPair, PairSource, StepOrder, VerdictSource, sums_of
from chatwright.tune.reference import Learner
from chatwright.tune.rollouts import WritingRules, write_answers

REPORT = "report.json"
_MEASURED_PROMPTS = 64  # for reward and divergence, which need answers written


class _Lesson(NamedTuple):
    """What is learned, from what, and how it is measured."""

    source: BatchSource
    objective: Objective
    measure: Callable[[], dict[str, Any]]


def run(context: StageContext) -> dict[str, Any]:
    """Align the model of `context.inputs["base"]`."""
    config: AlignConfig = context.config
    base = load_model(context.inputs["base"])
    network, begin = base.network, base.tokenizer.begin_of_text
    placement = config.settle(context.output, width=network.config.width)
    encoder = ChatEncoder(base.tokenizer)
    length = network.config.context_length
    with Ranks().first_ahead():
        material = prepare(config, encoder, context_length=length, output=context.output)
    network.to(placement.device)
    data = TokenData(context.inputs["tokens"]) if "tokens" in context.inputs else None

    def bits() -> dict[str, Any]:
        return heldout_bits(network, data, begin=begin, tokens_per_domain=config.heldout_tokens)

    with Ranks().first_ahead():
        before = kept(context.output / BEFORE, bits)
    learner = Learner(
        network,
        method=config.method,
        lora=config.lora,
        seed=context.seed,
        keeps_reference=True,
        placement=placement,
    )
    _introduce(material, learner, config)
    lesson = _lesson(config, material, learner, base, encoder, seed=context.seed)
    trainer = _trainer(context, placement, learner, lesson, material.size)
    summary = trainer.run(context.stop, label="align")
    divergence = _divergence(learner, material.heldout_prompts, _writing(config, encoder), seed=context.seed)
    learner.finish()
    report = {
        **learner.facts(),
        **summary,
        "objective": config.objective,
        "rows": material.size,
        "dropped": material.dropped,
        "divergence_nats": divergence,
        "forgetting": forgotten(before, bits()),
    }
    if Ranks().is_first:
        _save(context, learner, base, report)
    return report


def _trainer(context: StageContext, placement: Placement, learner: Learner, lesson: _Lesson, size: int) -> Trainer:
    config: AlignConfig = context.config
    return Trainer(
        network=learner.network,
        trained=learner.trained,
        objective=lesson.objective,
        source=lesson.source,
        config=config.loop(steps=max(1, math.ceil(config.epochs * size / config.batch_rows)), seed=context.seed),
        optimizer=config.optimizer,
        schedule=config.schedule,
        placement=placement,
        directory=context.output,
        evaluate=lesson.measure,
        unit={"kto": "verdicts", "grpo": "answers"}.get(config.objective, "pairs"),
    )


def _writing(config: AlignConfig, encoder: ChatEncoder) -> WritingRules:
    return WritingRules(config.max_answer_tokens, config.temperature, encoder.stop_ids())


def _lesson(
    config: AlignConfig, material: Material, learner: Learner, base: LoadedModel, encoder: ChatEncoder, *, seed: int
) -> _Lesson:
    """The source, the objective and the measurement of an objective's kind."""
    strengths = Strengths(
        config.strength, config.margin, config.label_smoothing, config.anchor, config.good_weight, config.bad_weight
    )
    fingerprint = fingerprint_of(material, config, seed)
    if config.objective == "grpo":
        return _policy_lesson(config, material, learner, base, encoder, seed=seed, fingerprint=fingerprint)
    order = StepOrder(config.batch_rows, config.micro_rows, seed, fingerprint)
    measure = _pair_measure(material.heldout_pairs, learner, config)
    if config.objective == "kto":
        with learner.reference() as network:
            answers = [verdict.answered for verdict in material.verdicts]
            sums_N = sums_of(network, answers, rows=config.micro_rows)
        verdicts = VerdictSource(material.verdicts, reference_sums=sums_N, learner=learner, order=order)
        return _Lesson(verdicts, VerdictObjective(strengths), measure)
    pairs = PairSource(material.pairs, reference_sums=_reference_sums(material.pairs, learner, config), order=order)
    return _Lesson(pairs, PairObjective(config.objective, strengths), measure)


def _reference_sums(pairs: Sequence[EncodedPair], learner: Learner, config: AlignConfig) -> torch.Tensor:
    with learner.reference() as network:
        sides = [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
        return torch.stack([sums_of(network, side, rows=config.micro_rows) for side in sides], dim=1)


def _pair_measure(pairs: Sequence[EncodedPair], learner: Learner, config: AlignConfig) -> Callable[[], dict[str, Any]]:
    """Share of held-out pairs whose preferred answer has gained more than the other one."""
    if not pairs:
        say("  no pair is held out: what is learned is not measured")
        return dict
    reference_P2 = _reference_sums(pairs, learner, config)

    def measure() -> dict[str, Any]:
        with learner.policy() as network:
            sides = [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
            now_P2 = torch.stack([sums_of(network, side, rows=config.micro_rows) for side in sides], dim=1)
        gained_P2 = now_P2 - reference_P2
        margin_P = gained_P2[:, 0] - gained_P2[:, 1]
        accuracy = float(((margin_P > 0) + 0.5 * (margin_P == 0)).mean())
        return {
            "heldout_pairs": len(pairs),
            "accuracy": round(accuracy, 5),
            "chosen_gain_nats": round(float(gained_P2[:, 0].mean()), 5),
            "rejected_gain_nats": round(float(gained_P2[:, 1].mean()), 5),
            "summary": f"held-out pairs told apart: {accuracy:.1%}",
        }

    return measure


def _policy_lesson(
    config: AlignConfig,
    material: Material,
    learner: Learner,
    base: LoadedModel,
    encoder: ChatEncoder,
    *,
    seed: int,
    fingerprint: str,
) -> _Lesson:
    writing = _writing(config, encoder)

    scorer = Scorer(config.rewards, base.tokenizer, device=learner.network.lm_head.weight.device)
    source = RolloutSource(
        [task.prompt for task in material.tasks],
        judge=lambda tasks, written: scorer(written, [material.tasks[task].expected for task in tasks]),
        learner=learner,
        writing=writing,
        group=GroupRules(config.batch_rows, config.answers_per_prompt, config.micro_rows, config.by_deviation),
        seed=seed,
        fingerprint=fingerprint,
    )
    heldout = material.heldout_tasks[:_MEASURED_PROMPTS]

    def measure() -> dict[str, Any]:
        if not heldout:
            return {}
        with learner.writer() as network:
            written = write_answers(network, [task.prompt for task in heldout], writing, seed=seed_for(seed, "measure"))
        rewards = scorer(written, [task.expected for task in heldout])
        mean = sum(rewards) / len(rewards)
        return {"heldout_prompts": len(heldout), "reward": round(mean, 5), "summary": f"held-out reward: {mean:.3f}"}

    return _Lesson(source, PolicyObjective(Strengths(config.strength), temperature=config.temperature), measure)


def _divergence(
    learner: Learner, prompts: Sequence[Sequence[int]], writing: WritingRules, *, seed: int
) -> float | None:
    """Nats by which answers of the new model are likelier under it than under the old one, per answer: KL(new || old).

    Estimated on answers that it writes to held-out questions at temperature one.
    """
    if not prompts:
        return None
    rules = writing._replace(temperature=1.0)
    with learner.writer() as network:
        written = write_answers(network, prompts[:_MEASURED_PROMPTS], rules, seed=seed_for(seed, "divergence"))
    with learner.policy() as network:
        now_N = sums_of(network, written, rows=len(written))
    with learner.reference() as network:
        before_N = sums_of(network, written, rows=len(written))
    return round(float((now_N - before_N).mean()), 5)


def _introduce(material: Material, learner: Learner, config: AlignConfig) -> None:
    if not Ranks().is_first:
        return
    facts = learner.facts()
    kinds = (("pairs", material.pairs), ("verdicts", material.verdicts), ("prompts", material.tasks))
    what = ", ".join(f"{len(rows):,} {name}" for name, rows in kinds if rows)
    say(f"  {config.objective} on {what}; {facts['trained']:,} of {facts['total']:,} parameters are trained")
    for reason, count in material.dropped.items():
        if count:
            say(f"  left out: {count:,}, {reason}")


def _save(context: StageContext, learner: Learner, base: LoadedModel, report: dict[str, Any]) -> None:
    if learner.adapter is not None:
        learner.adapter.save(context.output / "adapter", base_digest=base.digest)
    lineage = {**context.lineage, "base": base.digest}
    report["model_digest"] = save_model(context.output / "model", learner.network, base.tokenizer, lineage=lineage)
    storage.write_json(context.output / REPORT, report)
    if report["divergence_nats"] is not None:
        say(f"  went {report['divergence_nats']:.2f} nats an answer from the model it began as")
    if report["forgetting"]:
        say(f"  forgot: {report['forgetting']['all']:+.3f} bits per byte on the base's held-out documents")
