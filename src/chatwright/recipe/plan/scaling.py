"""How good a model gets: loss from parameters and tokens, and what repeated tokens are worth. Formulas only."""

import math
from typing import NamedTuple, Protocol

# Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", table of section 5: R*_D.
_REPEATS_WORTH = 15.387939


class Law(Protocol):
    """What ranks sizes and predicts a loss."""

    @property
    def source(self) -> str:
        """Where it is from."""
        ...

    @property
    def unit(self) -> str:
        """What its loss is counted in."""
        ...

    def loss(self, parameters: float, tokens: float) -> float:
        """After so many different tokens."""
        ...

    def covers(self, parameters: float, tokens: float) -> bool:
        """Whether it may predict there, and not only rank."""
        ...

    def interval(self, parameters: float, tokens: float) -> tuple[float, float] | None:
        """Between which nine of ten runs should end; None where that is not known."""
        ...


class LossLaw(NamedTuple):
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats a token (Hoffmann et al. 2022, approach 3).

    `low` and `high` bound the runs it was fitted to; outside, it ranks sizes but predicts no loss.
    """

    floor: float  # E
    size_factor: float  # A
    size_power: float  # alpha
    data_factor: float  # B
    data_power: float  # beta
    low_parameters: float
    high_parameters: float
    low_tokens: float
    source: str
    unit: str = "nats per token"

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats a token after training on so many different tokens."""
        by_size = self.size_factor * math.exp(-self.size_power * math.log(parameters))
        return self.floor + by_size + self.data_factor * math.exp(-self.data_power * math.log(tokens))

    def covers(self, parameters: float, tokens: float) -> bool:
        """Whether a model of this size lies within the runs that the law was fitted to."""
        return self.low_parameters <= parameters <= self.high_parameters and tokens >= self.low_tokens

    def interval(self, parameters: float, tokens: float) -> None:  # noqa: ARG002 - the protocol's
        """Not known: the errors of the published fit say nothing of another corpus."""
        return


# The refit of Besiroglu et al. 2024 ("Chinchilla Scaling: A replication attempt", equation 3), whose optimum agrees
# with the other two approaches of Hoffmann et al.; the constants printed in 2022 do not.
PUBLISHED = LossLaw(
    floor=1.8172,
    size_factor=482.01,
    size_power=0.3478,
    data_factor=2085.43,
    data_power=0.3658,
    low_parameters=44e6,
    high_parameters=16e9,
    low_tokens=2e8,
    source="Hoffmann et al. 2022, constants of Besiroglu et al. 2024; web text, vocabulary of 32,000",
)


def effective_tokens(trained: float, unique: float) -> float:
    """What `trained` tokens are worth in different ones, where only `unique` exist.

    D' = U + U R* (1 - exp(-R / R*)) with R = trained / unique - 1 repetitions (Muennighoff et al. 2023, equation 5).
    We leave out their like term for excess parameters: the sizes chosen here stay small beside the data.
    """
    if trained <= unique:
        return trained
    repeats = trained / unique - 1
    return unique + unique * _REPEATS_WORTH * (1 - math.exp(-repeats / _REPEATS_WORTH))
