"""The section `improve` of a recipe: what a round learns from, how, and by which test its model is promoted."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from chatwright.foundation import config as configuration
from chatwright.foundation.config import Config
from chatwright.model.adapter import LoraConfig
from chatwright.train.settings import TrainingConfig
from chatwright.tune.finetune_settings import FinetuneConfig
from chatwright.tune.preferences.harvest import HarvestConfig
from chatwright.tune.preferences.settings import AlignConfig, AlignOptimizerConfig, AlignScheduleConfig

# What `align` reads for pairs alone; a round that turns out to have thumbs only leaves it out.
_OF_PAIRS = ("margin", "label_smoothing", "anchor")
_OF_THUMBS = ("good_weight", "bad_weight")
# With the losses' own 0.1 a small model learned what people like and lost its tasks (docs/log.md): at 0.3 it kept them.
_STRONG_PULL = {"dpo": 0.3, "kto": 0.3}
_PLACE = ("device", "precision", "threads", "checkpoint_every", "keep_checkpoints", "log_every")


class LearningConfig(TrainingConfig):
    """How a round learns; as `[align]`, with the defaults of small, repeated steps."""

    objective: Literal["auto", "dpo", "ipo", "simpo", "orpo", "kto"] = "auto"  # auto: `dpo`, without enough pairs `kto`
    method: Literal["lora", "all"] = "all"
    lora: LoraConfig = LoraConfig()
    beta: float | None = Field(default=None, gt=0)  # absent: `_STRONG_PULL`, or the loss's own
    margin: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    anchor: float = Field(default=0.0, ge=0)
    good_weight: float = Field(default=1.0, gt=0)
    bad_weight: float = Field(default=1.0, gt=0)
    max_answer_tokens: int = Field(default=64, ge=1)
    epochs: float = Field(default=3.0, gt=0)
    batch_rows: int = Field(default=16, ge=1)
    micro_rows: int = Field(default=8, ge=1)
    heldout_tokens: int = Field(default=16_384, ge=1)  # of each domain, to see what is forgotten
    optimizer: AlignOptimizerConfig = AlignOptimizerConfig(learning_rate=1e-4)
    schedule: AlignScheduleConfig = AlignScheduleConfig()

    def as_align(self, objective: str, *, data: str, test: str | None) -> AlignConfig:
        """The section `align` that does this."""
        left_out = {"objective", *(_OF_PAIRS if objective == "kto" else _OF_THUMBS)}
        fields = {name: value for name, value in self.model_dump(mode="json").items() if name not in left_out}
        if self.beta is None and objective in _STRONG_PULL:
            fields["beta"] = _STRONG_PULL[objective]
        settings: dict[str, Any] = {**fields, "objective": objective, "data": data, "test": test}
        return configuration.validate(AlignConfig, settings, where="`improve.learn`")

    def problems(self) -> Iterator[str]:
        """What `align` would refuse."""
        objective: Any = "dpo" if self.objective == "auto" else self.objective
        own: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields if name != "objective"}
        if self.objective == "auto":  # both kinds may come about
            own = {name: value for name, value in own.items() if name not in _OF_THUMBS}
        yield from AlignConfig(**own, objective=objective, data="feedback").problems()


class EditsConfig(Config):
    """Fine-tuning on answers that people corrected, before preferences are learned."""

    least: int = Field(default=20, ge=1)  # corrected answers below which there is none
    epochs: float = Field(default=2.0, gt=0)
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    replay_share: float = Field(default=0.1, ge=0, lt=1)  # of base text among the rows, against forgetting

    def as_finetune(self, learning: LearningConfig, *, data: str) -> FinetuneConfig:
        """The section `finetune` that does this."""
        settings: dict[str, Any] = {name: getattr(learning, name) for name in _PLACE}
        settings |= {"data": data, "method": "all", "epochs": self.epochs, "replay_share": self.replay_share}
        settings |= {"batch_rows": learning.batch_rows, "optimizer": {"learning_rate": self.learning_rate}}
        return configuration.validate(FinetuneConfig, settings, where="`improve.edits`")


class PromotionConfig(Config):
    """The test that a new model must pass to take the place of the one in service."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)  # of the interval of the share of held-out feedback won
    draws: int = Field(default=10_000, ge=100)  # of the bootstrap over questions
    least_heldout: int = Field(default=20, ge=2)  # held-out comparisons below which nothing is promoted
    keeps_earlier: bool = (
        True  # new feedback must not contradict that of earlier rounds; false: people changed their mind
    )
    earlier_loss: float = Field(
        default=0.1, ge=0, lt=0.5
    )  # share below half that may be won of earlier rounds' feedback
    taught_kept: float = Field(
        default=0.5, ge=0, le=1
    )  # of the preferred answers that earlier rounds made likelier: the share that may still be so must reach this
    forgetting: float = Field(default=0.05, ge=0)  # bits per byte that a round may lose on held-out documents
    forgetting_ever: float = Field(default=0.1, ge=0)  # the same since the model that the loop began with
    task_loss: float = Field(default=0.03, ge=0)  # share of test questions answered right that a round may lose
    task_loss_ever: float = Field(default=0.05, ge=0)  # the same since the model that the loop began with
    task_questions: int = Field(default=500, ge=1)  # of `evaluate.answers`, spread over the file


class ImproveConfig(Config):
    """What a round is made of."""

    store: str | None = None  # the feedback database: a file or an SQLAlchemy URL; absent: as the command says
    harvest: HarvestConfig = HarvestConfig()  # how opinions become preferences
    heldout_share: float = Field(default=0.2, gt=0, lt=1)  # of the questions; never trained on, the same in all rounds
    least_new: int = Field(default=40, ge=1)  # new pairs and thumbs below which no round begins
    least_pairs: int = Field(default=30, ge=1)  # to learn from, below which `auto` learns from thumbs
    weak_weight: float = Field(default=1.0, ge=1)  # of feedback on topics that people find worse than the others
    topics: int = Field(default=12, ge=1)  # into which questions are put to find the weak ones
    learn: LearningConfig = LearningConfig()
    edits: EditsConfig = EditsConfig()
    promote: PromotionConfig = PromotionConfig()

    def problems(self) -> Iterator[str]:
        """Rules between keys."""
        if self.learn.batch_rows % self.learn.micro_rows:
            yield "`learn.batch_rows` must be a multiple of `learn.micro_rows`"
