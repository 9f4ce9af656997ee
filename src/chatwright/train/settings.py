"""What every stage that trains lets a recipe set: where it computes, and how often it logs, measures and saves.

A `Habit` changes no result: a training that is done is not done again for it, one that was stopped goes on with it.
"""

from pathlib import Path

from pydantic import Field

from chatwright.foundation.config import Config, Habit
from chatwright.foundation.devices import Placement, PrecisionName, settled_placement
from chatwright.train.average import AverageConfig
from chatwright.train.compiling import CompileSetting
from chatwright.train.curves import CurveName
from chatwright.train.faults import FaultConfig
from chatwright.train.habits import LoopConfig
from chatwright.train.ranks import TIMEOUT_S, Ranks
from chatwright.train.reduction import ReductionName
from chatwright.train.sharding import ParallelName


class TrainingConfig(Config):
    """Place and habits of a training; a stage adds what it learns from."""

    device: str = "auto"
    precision: PrecisionName = "auto"
    threads: int = Field(default=0, ge=0)  # 0: all usable cores, divided among the ranks of a machine
    compile: CompileSetting = False  # the blocks; "auto" where a long run is measured to be faster with it
    recompute: Habit[bool] = False  # activation checkpointing: less memory, a third more arithmetic, the same bits
    evaluate_every: int = Field(default=100, ge=1)  # steps
    heldout_tokens: int = Field(default=8192, ge=1)  # of each domain, for measurements within the stage
    checkpoint_every: Habit[int] = Field(default=100, ge=1)  # steps
    keep_checkpoints: Habit[int] = Field(default=2, ge=1)  # of the newest
    keep_every: Habit[int] = Field(default=0, ge=0)  # checkpoints of steps that this divides stay for good; 0: none
    save_in_background: Habit[bool] = True  # training goes on while a copy of the state is written
    maximum_failed_saves: Habit[int] = Field(default=3, ge=0)  # in a row
    log_every: Habit[int] = Field(default=10, ge=1)  # steps
    curves: Habit[list[CurveName]] = []  # programs that draw what `metrics.jsonl` says, each an extra
    faults: FaultConfig = FaultConfig()
    reduction: ReductionName = "fast"  # "exact": the same bits on any number of ranks
    collective_timeout_s: Habit[int] = Field(default=TIMEOUT_S, ge=1)  # a rank that is silent so long is lost

    @property
    def is_fitted(self) -> bool:
        """Whether how much is computed at once is searched."""
        return False

    def settle(self, directory: Path, *, width: int) -> Placement:
        """The place for a network of this width, settled once for a run in `directory` and for all ranks."""
        with Ranks().first_ahead():  # one probe decides for all
            return settled_placement(
                directory, device=self.device, precision=self.precision, threads=self.threads, width=width
            )

    def loop(
        self, *, steps: int, seed: int, parallel: ParallelName = "ddp", average: AverageConfig | None = None
    ) -> LoopConfig:
        """The loop's habits over so many steps; `parallel` and `average` are for stages that train whole networks."""
        own = ("steps", "seed", "parallel", "average")
        shared = (name for name in LoopConfig.model_fields if name not in own and hasattr(self, name))
        habits = {name: getattr(self, name) for name in shared}
        return LoopConfig(steps=steps, seed=seed, parallel=parallel, average=average, **habits)


class HeldoutTrainingConfig(TrainingConfig):
    """The same for a training that measures bits per byte on held-out documents, and may be led by them."""

    patience: int = Field(default=0, ge=0)  # measurements without a lower held-out loss that end the run; 0: none
    keep_best: Habit[bool] = False  # the one with the lowest held-out loss stays, and is what an early end leaves
