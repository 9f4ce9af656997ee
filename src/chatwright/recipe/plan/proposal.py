"""What a plan is made of: the budget, a way to spend it, and what is proposed of all ways. Nothing is chosen here."""

from typing import NamedTuple

from chatwright.model.config import ModelConfig
from chatwright.recipe.plan import cost
from chatwright.recipe.plan.corpus import CorpusSize
from chatwright.recipe.plan.machine import Machine
from chatwright.recipe.plan.scaling import Law, effective_tokens
from chatwright.train.sharding import ParallelName


class Budget(NamedTuple):
    """Exactly one of the two is what limits the training."""

    seconds: float | None = None
    tokens: int | None = None


class Candidate(NamedTuple):
    """One way to spend the budget."""

    shape: ModelConfig
    steps: int
    batch_rows: int
    micro_rows: int
    training_seconds: float
    measuring_seconds: float  # on held-out text
    score: float  # the law's, for ranking only
    step_seconds: float
    parallel: ParallelName = "ddp"  # what each device holds: everything, or a shard

    @property
    def seconds(self) -> float:
        """Of the stage, less what it takes to begin and to write."""
        return self.training_seconds + self.measuring_seconds

    @property
    def parameters(self) -> int:
        """Of the model."""
        return self.shape.num_parameters()

    @property
    def step_tokens(self) -> int:
        """Of one step."""
        return self.batch_rows * self.shape.context_length

    @property
    def tokens(self) -> int:
        """Trained on."""
        return self.steps * self.step_tokens


class Outlook(NamedTuple):
    """What the law expects of a training."""

    loss: float | None  # in the law's unit; None where the law was not fitted to such sizes
    interval: tuple[float, float] | None  # nine of ten; None where the law has no bands


class Plan(NamedTuple):
    """What is proposed, why, and what is expected."""

    chosen: Candidate
    half: Candidate | None  # the same budget on half the parameters
    double: Candidate | None
    too_large: tuple[str, ...]  # of these two, what no device holds
    memory: cost.Memory
    machine: Machine
    corpus: CorpusSize
    law: Law
    warnings: tuple[str, ...]

    def outlook(self, one: Candidate) -> Outlook:
        """What the law expects of the choice, or of another size beside it."""
        needed = effective_tokens(one.tokens, self.corpus.tokens)
        if not self.law.covers(one.parameters, needed):
            return Outlook(None, None)
        return Outlook(self.law.loss(one.parameters, needed), self.law.interval(one.parameters, needed))

    @property
    def loss(self) -> float | None:
        """Of the choice, in the law's unit; None where the law was not fitted to such sizes."""
        return self.outlook(self.chosen).loss

    @property
    def epochs(self) -> float:
        """How often the choice reads the documents."""
        return self.chosen.tokens / max(1, self.corpus.tokens)

    @property
    def repeats_worth(self) -> float:
        """Effective over trained tokens; 1 where nothing repeats."""
        return effective_tokens(self.chosen.tokens, self.corpus.tokens) / self.chosen.tokens

    @property
    def watts(self) -> float | None:
        """What the machine drew while it was measured; None where that cannot be read."""
        return self.machine.watts
