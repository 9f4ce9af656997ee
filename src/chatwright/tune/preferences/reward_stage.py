"""The stage `reward`: a model learns to tell which of two answers people prefer, and how far it can be believed.

Leaves `model/` (a sequence classifier of one label), `metrics.jsonl`, and `report.json` with its calibration.
"""

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.foundation.console import say
from chatwright.foundation.stage import StageContext
from chatwright.model.directory import load_model
from chatwright.model.prompts import ChatEncoder
from chatwright.train.batches import MicroBatch
from chatwright.train.loop import Trainer
from chatwright.train.ranks import Ranks
from chatwright.train.settings import TrainingConfig
from chatwright.tune.preferences.align import REPORT
from chatwright.tune.preferences.calibration import calibrate
from chatwright.tune.preferences.material import fingerprint_of, prepare
from chatwright.tune.preferences.reward_model import RewardModel, RewardObjective, pair_batch, save_reward_model
from chatwright.tune.preferences.settings import AlignConfig, AlignOptimizerConfig, AlignScheduleConfig
from chatwright.tune.preferences.source import EncodedPair, StepOrder, rows_of_step


class RewardTrainingConfig(TrainingConfig):
    """What the reward model learns from."""

    data: str  # preferences as JSON Lines; single verdicts in it are counted and left out
    test: str | None = None  # the same, never trained on; without it `heldout_share` of the questions is set aside
    heldout_share: float = Field(default=0.1, gt=0, lt=1)
    label_smoothing: float = Field(default=0.05, ge=0, lt=0.5)  # share of labels that are taken to be wrong
    epochs: float = Field(default=1.0, gt=0)  # more than one soon learns the pairs by heart
    batch_rows: int = Field(default=16, ge=1)  # pairs a step
    micro_rows: int = Field(default=8, ge=1)  # pairs at once
    optimizer: AlignOptimizerConfig = AlignOptimizerConfig()
    schedule: AlignScheduleConfig = AlignScheduleConfig()

    def as_pairs(self) -> AlignConfig:
        """The keys that decide which pairs there are."""
        return AlignConfig(data=self.data, test=self.test, max_answer_tokens=1, heldout_share=self.heldout_share)


class _Source:
    """Whole pairs in an order that is a pure function of the step. Counts pairs."""

    def __init__(self, pairs: Sequence[EncodedPair], order: StepOrder):
        self._pairs = pairs
        self._order = order
        self.fingerprint = order.fingerprint

    def step(self, number: int) -> list[MicroBatch]:
        """The pairs of a step."""
        chosen = [self._pairs[index] for index in rows_of_step(len(self._pairs), number, self._order)]
        starts = range(0, len(chosen), self._order.micro_rows)
        return [self._batch(chosen[start : start + self._order.micro_rows]) for start in starts]

    @staticmethod
    def _batch(pairs: Sequence[EncodedPair]) -> MicroBatch:
        sides = ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
        return pair_batch(*sides, [pair.weight for pair in pairs])


def run(context: StageContext) -> dict[str, Any]:
    """Train a reward model on the network of `context.inputs["base"]`."""
    config: RewardTrainingConfig = context.config
    base = load_model(context.inputs["base"])
    placement = config.settle(context.output, width=base.network.config.width)
    encoder, length = ChatEncoder(base.tokenizer), base.network.config.context_length
    wanted = config.as_pairs()
    # An answer is judged at its last token, so that it is read whole, unlike one whose last token is only predicted.
    material = prepare(wanted, encoder, context_length=length - 1, output=context.output)
    model = RewardModel(base.network).to(placement.device)
    base.network.lm_head.requires_grad_(base.network.config.tied)  # its own scores are not used
    fingerprint = storage.digest_json([fingerprint_of(material, wanted, context.seed), without_habits(config)])
    if Ranks().is_first:
        say(f"  {len(material.pairs):,} pairs, {len(material.heldout_pairs):,} held out")
    trainer = Trainer(
        network=base.network,
        trained=model,
        objective=RewardObjective(model, label_smoothing=config.label_smoothing),
        source=_Source(material.pairs, StepOrder(config.batch_rows, config.micro_rows, context.seed, fingerprint)),
        config=config.loop(
            steps=max(1, math.ceil(config.epochs * len(material.pairs) / config.batch_rows)), seed=context.seed
        ),
        optimizer=config.optimizer,
        schedule=config.schedule,
        placement=placement,
        directory=context.output,
        evaluate=lambda: _figures(model, material.heldout_pairs, rows=config.micro_rows),
        unit="pairs",
    )
    summary = trainer.run(context.stop, label="reward")
    model.eval()
    report = {**summary, "rows": len(material.pairs), "dropped": material.dropped}
    report |= {"calibration": _figures(model, material.heldout_pairs, rows=config.micro_rows)}
    if Ranks().is_first:
        lineage = {**context.lineage, "base": base.digest}
        report["model_digest"] = save_reward_model(context.output / "model", model, base.tokenizer, lineage=lineage)
        storage.write_json(context.output / REPORT, report)
    return report


def _figures(model: RewardModel, pairs: Sequence[EncodedPair], *, rows: int) -> dict[str, Any]:
    """Accuracy and calibration on held-out pairs."""
    if not pairs:
        return {}
    chosen = model.judge([pair.chosen for pair in pairs], rows=rows)
    rejected = model.judge([pair.rejected for pair in pairs], rows=rows)
    found = calibrate([mine - other for mine, other in zip(chosen, rejected, strict=True)])
    values = {name: round(value, 5) for name, value in found._asdict().items()}
    return {
        **values,
        "summary": f"held-out pairs told apart: {found.accuracy:.1%}, calibration error {found.error:.3f} "
        f"({found.error_after:.3f} at temperature {found.temperature:.2f})",
    }
