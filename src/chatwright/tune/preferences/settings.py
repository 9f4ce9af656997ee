"""The section `align` of a recipe: what is preferred, by which loss, how far the model may go."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from chatwright.model.adapter import LoraConfig
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.schedule import ScheduleConfig
from chatwright.train.settings import TrainingConfig
from chatwright.tune.preferences.harvest import HarvestConfig
from chatwright.tune.preferences.objectives import ObjectiveKind
from chatwright.tune.preferences.rewards import RewardConfig

# Keys that only some objectives read. Set for another one, a key would have no effect, and that is refused.
_READ_BY: dict[str, tuple[str, ...]] = {
    "margin": ("simpo",),
    "label_smoothing": ("dpo",),
    "anchor": ("dpo", "ipo", "simpo"),
    "good_weight": ("kto",),
    "bad_weight": ("kto",),
    "harvest": ("dpo", "ipo", "simpo", "orpo", "kto"),
    "rewards": ("grpo",),
    "answers_per_prompt": ("grpo",),
    "temperature": ("grpo",),
    "by_deviation": ("grpo",),
}
_BETAS: dict[str, float] = {"dpo": 0.1, "ipo": 0.1, "simpo": 2.0, "orpo": 0.1, "kto": 0.1, "grpo": 0.04}


class AlignOptimizerConfig(OptimizerConfig):
    """The same rules, with the small steps of preference learning."""

    kind: Literal["muon", "adamw"] = "adamw"
    learning_rate: float = Field(default=2e-4, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)


class AlignScheduleConfig(ScheduleConfig):
    """Warm up, then down in a line."""

    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    cooldown_share: float = Field(default=0.9, ge=0, le=1)


class AlignConfig(TrainingConfig):
    """What is preferred, and how it is learned."""

    objective: ObjectiveKind = "dpo"
    data: str | None = None  # preferences as JSON Lines; for `grpo` conversations, whose last answers are expected
    store: str | None = None  # a feedback database instead of `data`: a file or an SQLAlchemy URL
    test: str | None = None  # the same as `data`, never trained on; without it `heldout_share` is set aside
    heldout_share: float = Field(default=0.1, gt=0, lt=1)  # of the questions
    harvest: HarvestConfig = HarvestConfig()  # how opinions of `store` become preferences
    method: Literal["lora", "all"] = "lora"
    lora: LoraConfig = LoraConfig()
    beta: float | None = Field(default=None, gt=0)  # strength of the pull towards the reference; absent: the loss's own
    margin: float = Field(default=1.0, ge=0)  # `simpo`
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)  # `dpo`: share of labels that are taken to be wrong
    anchor: float = Field(default=0.0, ge=0)  # `dpo`, `ipo`, `simpo`: of the plain loss on the preferred answers
    good_weight: float = Field(default=1.0, gt=0)  # `kto`
    bad_weight: float = Field(default=1.0, gt=0)  # `kto`
    rewards: tuple[RewardConfig, ...] = ()  # `grpo`: rules that judge an answer
    answers_per_prompt: int = Field(default=8, ge=2)  # `grpo`
    temperature: float = Field(default=1.0, gt=0, le=2)  # `grpo`, of the answers that are learned from
    by_deviation: bool = True  # `grpo`: advantages are divided by their group's standard deviation
    max_answer_tokens: int = Field(default=64, ge=1)  # of answers that the model writes, in learning and measuring
    epochs: float = Field(default=1.0, gt=0)  # passes over the data
    batch_rows: int = Field(default=16, ge=1)  # pairs, verdicts or prompts a step
    micro_rows: int = Field(default=8, ge=1)  # pairs, verdicts or answers at once
    heldout_tokens: int = Field(default=16_384, ge=1)  # of each domain, to see what is forgotten
    optimizer: AlignOptimizerConfig = AlignOptimizerConfig()
    schedule: AlignScheduleConfig = AlignScheduleConfig()

    def problems(self) -> Iterator[str]:
        """What would have no effect, or miss something, is not accepted."""
        defaults = type(self).model_fields
        for key, readers in _READ_BY.items():
            if self.objective not in readers and getattr(self, key) != _default(defaults[key]):
                yield f'`{key}` has no effect with `objective = "{self.objective}"`'
        if (self.data is None) == (self.store is None):
            yield "give either `data` (a file) or `store` (a feedback database)"
        if self.objective == "grpo" and (self.store is not None or not self.rewards):
            yield '`objective = "grpo"` needs `data` with conversations and at least one of `rewards`'
        if self.store is None and self.harvest != HarvestConfig():
            yield "`harvest` has no effect without `store`"
        if self.method != "lora" and self.lora != LoraConfig():
            yield f'`lora` has no effect with `method = "{self.method}"`'
        if self.method == "lora" and self.optimizer.kind == "muon":
            yield '`optimizer.kind = "muon"` has no effect with `method = "lora"`: low-rank updates are AdamW\'s'
        if self.test is not None and self.heldout_share != _default(defaults["heldout_share"]):
            yield "`heldout_share` has no effect with `test`"

    @property
    def strength(self) -> float:
        """`beta`, or the one that the loss's authors take."""
        return _BETAS[self.objective] if self.beta is None else self.beta


def _default(field: Any) -> Any:
    return field.get_default(call_default_factory=True)
