"""The section `distill` of a recipe: who teaches whom and in which way; a student's shape follows from its size."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from chatwright.foundation.errors import UsageError
from chatwright.model.adapter import LoraConfig
from chatwright.model.config import ModelConfig
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.schedule import ScheduleConfig
from chatwright.train.settings import HeldoutTrainingConfig
from chatwright.tune.distill.losses import DistilSettings

By = Literal["scores", "kept", "own", "text"]
_HEAD_WIDTH = 32


class DistillConfig(HeldoutTrainingConfig):
    """How a student learns from a teacher."""

    teacher: str | None = None  # a model directory; absent: the model that the run has made so far
    begin: str | None = None  # a model directory that the student begins from; absent: fresh weights
    parameters: int | None = Field(default=None, ge=1000)  # of a fresh student; its shape follows
    student: ModelConfig | None = None  # or the shape itself
    # scores: the teacher reads beside the student. kept: its likeliest tokens are put on disk once. own: the student
    # writes, the teacher scores. text: the teacher writes, the student learns it as text, in tokens of its own.
    by: By = "scores"
    kept_tokens: int = Field(default=32, ge=1)  # `kept`: of each target
    data: str | None = None  # conversations; absent: the run's documents
    loss: DistilSettings = DistilSettings()
    max_answer_tokens: int = Field(default=64, ge=1)  # `own`, `text`: of what is written
    answer_temperature: float = Field(default=1.0, gt=0, le=2)  # `own`, `text`
    method: Literal["all", "lora"] = "all"  # `lora` needs `begin`
    lora: LoraConfig = LoraConfig()
    steps: int = Field(default=500, ge=1)
    batch_rows: int = Field(default=16, ge=1)  # windows or conversations a step
    micro_rows: int = Field(default=16, ge=1)  # rows at once
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    def problems(self) -> Iterator[str]:
        """One student, and no setting without effect."""
        if sum(value is not None for value in (self.begin, self.parameters, self.student)) != 1:
            yield "give one of `begin`, `parameters` and `student`: which model learns"
        if self.by != "kept" and self.kept_tokens != 32:
            yield f'`kept_tokens` has no effect with `by = "{self.by}"`'
        if self.by not in ("own", "text") and (self.max_answer_tokens != 64 or self.answer_temperature != 1.0):
            yield f'`max_answer_tokens` and `answer_temperature` have no effect with `by = "{self.by}"`'
        if self.by == "text" and (self.data is None or self.loss != DistilSettings()):
            yield '`by = "text"` needs `data`, whose questions the teacher answers, and reads nothing of `loss`'
        if self.by == "own" and (self.data is None or self.loss.soft_share != 1.0):
            yield '`by = "own"` needs `data` and `loss.soft_share = 1.0`: what the student writes is no truth to learn'
        if self.method == "lora" and self.begin is None:
            yield '`method = "lora"` needs `begin`: updates of low rank on fresh weights learn nothing'
        if self.method != "lora" and self.lora != LoraConfig():
            yield f'`lora` has no effect with `method = "{self.method}"`'
        if self.method == "lora" and self.optimizer.kind == "muon":
            yield '`optimizer.kind = "muon"` has no effect with `method = "lora"`: low-rank updates are AdamW\'s'


def shape_of(parameters: int, *, vocabulary_size: int, context_length: int) -> ModelConfig:
    """The shape whose size comes nearest: heads of 32, an MLP of 8/3 of the width, about a layer for 48 of width.

    Few layers at small widths is what learned fastest here on small budgets (docs/log.md); the ratio of width to
    depth follows Kaplan et al. 2020, figure 5, where anything between 30 and 100 does nearly as well.

    Raises:
        UsageError: the embedding alone would be larger.
    """
    found = []
    for heads in range(1, 65):
        width = heads * _HEAD_WIDTH
        for layers in {max(1, round(width / 48)), max(1, round(width / 48) - 1), round(width / 48) + 1}:
            shape = ModelConfig(
                width=width,
                layers=layers,
                heads=heads,
                key_heads=heads,
                head_width=_HEAD_WIDTH,
                mlp_width=max(32, round(width * 8 / 3 / 32) * 32),
                context_length=context_length,
                vocabulary_size=vocabulary_size,
            )
            found.append((abs(shape.num_parameters() - parameters), width, shape))
    shape = min(found, key=lambda item: item[:2])[2]
    if abs(shape.num_parameters() - parameters) > parameters / 3:
        raise UsageError(
            f"no student of {parameters:,} parameters has a vocabulary of {vocabulary_size:,}: "
            f"the nearest has {shape.num_parameters():,}",
            hint="give more parameters, a teacher with a smaller vocabulary, or the shape itself as `student`",
        )
    return shape
