"""What a stage is handed and what it gives: the contract between the recipe above and the work below.

A stage's module has `run(context) -> dict` (a summary, small and JSON) and fills `context.output`, which the recipe
publishes when `run` returns. `context.output` survives a kill under the same key: what a stage published inside it
before is still there when it runs again. So does `context.work`, which lies beside it and is never published: what a
stage needs only to go on after a kill stands there, until the recipe has published the stage and removes it. Where the
summary says `TRY_AGAIN`, it stays, and `--again` begins there.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatwright.foundation.stopping import StopFlag

TRY_AGAIN = "try_again"  # of a summary: what another try may do, as numbers by name; missing where all was done


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """Everything a stage may depend on. Nothing else may influence its result."""

    config: Any  # the stage's own section, checked
    inputs: dict[str, Path]  # published directories by stage name
    output: Path  # scratch that becomes the published directory
    seed: int
    lineage: dict[str, Any] = field(default_factory=dict)  # this stage and its inputs back to the documents
    workers: int = 1  # processes for work that is spread over partitions
    engine: str = "local"  # or "ray": where partitions are worked on; no result depends on it
    stop: StopFlag = field(default_factory=StopFlag)

    @property
    def work(self) -> Path:
        """Directory for what is not published, made by whoever writes there first."""
        return self.output.with_name(f"{self.output.name}.work")
