"""What a recipe says of a fine-tune: what is learned, by how few parameters, and what guards the rest."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.model.adapter import LoraConfig
from chatwright.model.bottleneck import BottleneckConfig
from chatwright.model.quantised import Numbers
from chatwright.model.selection import SELECTIONS
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.schedule import ScheduleConfig
from chatwright.train.settings import TrainingConfig


class TuneOptimizerConfig(OptimizerConfig):
    """The same rules with the defaults of a fine-tune, which a recipe that sets one key keeps for the others."""

    kind: Literal["muon", "adamw"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)  # a fine-tune's few targets a step are noisy


class TuneScheduleConfig(ScheduleConfig):
    """The same course with the defaults of a fine-tune: no plateau."""

    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    cooldown_share: float = Field(default=0.95, ge=0, le=1)


class KeepingConfig(Config):
    """Which of the models on a fine-tune's way is kept, by a score with two sides.

    The score is the bits per byte on answers that were held back, plus the weighted rise of bits per byte on the base's
    own documents. Least is best.
    """

    forgetting_weight: float = Field(default=1.0, ge=0)  # of a bit forgotten beside one not learned
    patience: int = Field(default=0, ge=0)  # measurements without a better score before it ends; 0: all steps are done
    average_share: float = Field(default=0.0, ge=0, le=1)  # of the measurements, the last: their weights are averaged
    # Shares of the way from the base to the result that are tried as well (Wortsman et al. 2022, WiSE-FT).
    interpolate: tuple[float, ...] = ()

    def problems(self) -> Iterator[str]:
        """Ends and means that contradict each other."""
        if any(not 0 <= share <= 1 for share in self.interpolate):
            yield f"`interpolate` must be shares between 0 and 1: {', '.join(map(str, self.interpolate))}"
        if self.patience and self.average_share:
            yield "`patience` keeps the best model and `average_share` the mean of the last: set one of them"

    @property
    def chooses(self) -> bool:
        """Whether anything is decided by the score."""
        return bool(self.patience or self.interpolate)


class FinetuneConfig(TrainingConfig):
    """What is learned, by how few parameters, and what guards the rest."""

    data: str  # conversations: JSON Lines or CSV
    test: str | None = None  # conversations for the measurement before and after; never trained on
    validation_share: float = Field(default=0.0, ge=0, le=0.5)  # of `data`, by question: held back, for what is chosen
    # Low-rank updates or bottleneck adapters on a frozen base, every parameter, or some: "last-2" (layers), "biases",
    # "embeddings-and-norms", "pattern:REGEX" (over the parameters' names).
    method: str = Field(default="lora", pattern=f"^(lora|adapters|all|{SELECTIONS})$")
    lora: LoraConfig = LoraConfig()
    adapters: BottleneckConfig = BottleneckConfig()
    base_numbers: Numbers = "float32"  # of the frozen base's matrices: "int8" and "nf4" (4 bits) take less memory
    epochs: float = Field(default=4.0, gt=0)  # passes over the conversations
    batch_rows: int = Field(default=16, ge=1)  # conversations a step
    micro_tokens: int = Field(default=4096, ge=1)  # at once; the result does not depend on it, the memory does
    whole_share: float = Field(default=1.0, gt=0, le=1)  # of samples learned to the end; for answers that recur: less
    opening_tokens: int = Field(default=12, ge=1)  # of the answer, that the other samples are learned to
    word_dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the user's tokens left out, anew in each pass
    replay_from: str | None = None  # token shards of the base's documents, where the recipe collects none itself
    replay_share: float = Field(default=0.1, ge=0, lt=1)  # of a step's rows: base text, against forgetting
    replay_target: Literal["base", "text"] = "base"  # what it is held to: the base's predictions (KL), or the text
    replay_weight: float = Field(default=1.0, gt=0)  # of a token of base text beside one of an answer
    replay_length: int = Field(default=128, ge=2)  # tokens of a row of base text
    keeping: KeepingConfig = KeepingConfig()
    optimizer: TuneOptimizerConfig = TuneOptimizerConfig()
    schedule: TuneScheduleConfig = TuneScheduleConfig()
    evaluate_every: int = Field(default=200, ge=1)  # steps
    heldout_tokens: int = Field(default=16_384, ge=1)  # of each domain, to see what is forgotten

    @property
    def is_beside(self) -> bool:
        """Whether what is trained stands beside a frozen base."""
        return self.method in ("lora", "adapters")

    def problems(self) -> Iterator[str]:
        """What would have no effect is not accepted."""
        sections = (("lora", self.lora != LoraConfig()), ("adapters", self.adapters != BottleneckConfig()))
        yield from (
            f'`{name}` has no effect with `method = "{self.method}"`'
            for name, is_set in sections
            if is_set and self.method != name
        )
        if self.is_beside and self.optimizer.kind == "muon":
            yield f'`optimizer.kind = "muon"` has no effect with `method = "{self.method}"`: adapters are AdamW\'s'
        if self.base_numbers != "float32" and not self.is_beside:
            yield f'`base_numbers = "{self.base_numbers}"` is for a frozen base, not for `method = "{self.method}"`'
        if self.base_numbers != "float32" and self.lora.magnitudes:
            yield "`lora.magnitudes` needs the base in float32"
        if self.whole_share == 1 and self.opening_tokens != type(self).model_fields["opening_tokens"].default:
            yield "`opening_tokens` has no effect with `whole_share = 1`: every answer is learned to its end"
        if self.lora.magnitudes and self.keeping.interpolate:
            yield "`keeping.interpolate` has no points between for `lora.magnitudes`"
        if self.keeping.average_share and not (self.test or self.validation_share):
            yield "`keeping.average_share` averages at measurements: give `test` or `validation_share`"
        if self.keeping.chooses and not self.validation_share:
            yield "`keeping` chooses by answers that were held back: set `validation_share`, for example to 0.1"
