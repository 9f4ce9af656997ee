"""The loop's settings: how long, how often it logs, measures and saves, how careful it is, and on how many machines.

A stage fills them from its recipe section (settings.py); what is learned and from what is not said here.
"""

from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.train.average import AverageConfig
from chatwright.train.compiling import CompileSetting
from chatwright.train.curves import CurveName
from chatwright.train.faults import FaultConfig
from chatwright.train.ranks import TIMEOUT_S
from chatwright.train.reduction import ReductionName
from chatwright.train.sharding import ParallelName


class LoopConfig(Config):
    """How long, how often, how careful."""

    steps: int = Field(ge=1)
    checkpoint_every: int = Field(default=100, ge=1)  # steps
    keep_checkpoints: int = Field(default=2, ge=1)  # of the newest
    keep_every: int = Field(default=0, ge=0)  # checkpoints of steps that this divides stay for good; 0: none
    keep_best: bool = False  # the one with the lowest held-out loss stays, and is what an early end leaves
    save_in_background: bool = True  # training goes on while a copy of the state is written
    maximum_failed_saves: int = Field(default=3, ge=0)  # in a row
    evaluate_every: int = Field(default=100, ge=1)  # steps
    patience: int = Field(default=0, ge=0)  # measurements without a lower held-out loss that end the run; 0: none
    log_every: int = Field(default=10, ge=1)  # steps
    curves: list[CurveName] = []  # programs that draw what `metrics.jsonl` says
    recompute: bool = False  # a block's insides are computed again in the backward pass, not kept
    compile: CompileSetting = False  # the blocks; "auto" where measured to be faster
    is_fitted: bool = False  # how much is computed at once is searched, not taken as the source gives it
    faults: FaultConfig = FaultConfig()
    parallel: ParallelName = "ddp"  # what each rank holds: everything, or a shard ("fsdp", "hsdp")
    reduction: ReductionName = "fast"  # "exact": the same bits on any number of ranks
    collective_timeout_s: int = Field(default=TIMEOUT_S, ge=1)  # a rank that is silent so long is lost
    average: AverageConfig | None = None  # of the last steps' weights, left in place of the last ones
    seed: int = 0
