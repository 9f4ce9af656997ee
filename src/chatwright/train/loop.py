"""The one training loop: accumulation, precision, clipping, faults, checkpoints, progress, whatever is learned.

A step's loss has one denominator: all target tokens of all micro-batches and ranks. Parameters change only if loss
and gradient are finite. What is learned comes in as an objective, what is read as a source, what is measured as a
callback; the loop knows nothing of them.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.console import ProgressLine, say
from chatwright.foundation.devices import Placement, trim_memory
from chatwright.foundation.errors import DivergedError, RefusedError
from chatwright.foundation.stopping import StopFlag
from chatwright.model.network import Network
from chatwright.train.batches import BatchSource, MicroBatch, sample_seed
from chatwright.train.checkpoints import Checkpoint, Checkpoints
from chatwright.train.objectives import Objective
from chatwright.train.optimizers import Optimizer, OptimizerConfig
from chatwright.train.ranks import Ranks
from chatwright.train.schedule import ScheduleConfig

METRICS = "metrics.jsonl"


class LoopConfig(Config):
    """How long, how often, how careful."""

    steps: int = Field(ge=1)
    checkpoint_every: int = Field(default=100, ge=1)  # steps
    keep_checkpoints: int = Field(default=2, ge=1)
    evaluate_every: int = Field(default=100, ge=1)  # steps
    log_every: int = Field(default=10, ge=1)  # steps
    maximum_skips: int = Field(default=10, ge=0)  # non-finite steps in a row before the run stops
    seed: int = 0


class StepReport(NamedTuple):
    """What one step did."""

    loss: float  # nats per target token
    norm: float  # of the gradient, before clipping
    targets: int
    applied: bool


class Trainer:
    """One run of training, resumable at every checkpoint.

    Args:
        network: what computes; may be frozen in part.
        trained: the module whose parameters are trained and saved: the network itself, or an adapter on it.
        objective: a micro-batch's summed loss.
        source: the micro-batches of each step.
        config: length and habits of the loop.
        optimizer: rules and learning rates.
        schedule: their course over the run.
        placement: device and precision.
        directory: where `checkpoints/` and `metrics.jsonl` are.
        evaluate: measures on held-out data; called between steps, must not draw random numbers. Training ends early
            where its figures say `finished`.
    """

    def __init__(
        self,
        *,
        network: Network,
        trained: nn.Module,
        objective: Objective,
        source: BatchSource,
        config: LoopConfig,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        placement: Placement,
        directory: Path,
        evaluate: Callable[[], dict[str, Any]] | None = None,
        ranks: Ranks | None = None,
    ):
        self._network = network.to(placement.device)
        self._trained = trained.to(placement.device)
        self._objective = objective
        self._source = source
        self._config = config
        self._optimizer_config = optimizer
        self._schedule = schedule
        self._placement = placement
        self._directory = directory
        self._evaluate = evaluate
        self._ranks = ranks or Ranks()
        self._ranks.join(placement.device)
        named = [(name, parameter) for name, parameter in trained.named_parameters() if parameter.requires_grad]
        self._optimizer = Optimizer(named, optimizer)
        self._scaler = torch.amp.GradScaler(placement.device.type, enabled=placement.precision == "float16")
        self._checkpoints = Checkpoints(directory / "checkpoints", keep=config.keep_checkpoints)
        self._step = 0
        self._targets_seen = 0
        self._skips = 0
        self._seconds = 0.0
        self._window = _Window()
        self._evaluation: dict[str, Any] = {}

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self._step

    def run(self, stop: StopFlag | None = None, *, label: str = "train") -> dict[str, Any]:
        """Train to the last step, from the newest sound checkpoint if there is one.

        Returns:
            Steps, target tokens, seconds of training and the last evaluation.

        Raises:
            StoppedError: a stop was asked for; the state is saved.
            DivergedError: too many non-finite steps in a row; the last checkpoint is sound.
            RefusedError: the checkpoint belongs to other data or settings.
        """
        self._resume()
        progress = ProgressLine(label, self._config.steps, start=self._step)
        if self._step == 0:
            self._measure()
        while self._step < self._config.steps and not self._evaluation.get("finished"):
            began = time.monotonic()
            report = self._train_step()
            elapsed = time.monotonic() - began
            self._seconds += elapsed
            self._window.add(report, elapsed)
            self._after_step(report)
            if self._ranks.is_first:
                progress.update(self._step, self._window.text())
            self._keep_habits(stop)
        progress.close()
        self._ranks.wait()  # the first rank publishes what the others may still be reading
        return {
            "steps": self._step,
            "target_tokens": self._targets_seen,
            "seconds": round(self._seconds, 3),
            "tokens_per_second": round(self._targets_seen / max(self._seconds, 1e-9), 1),
            "evaluation": self._evaluation,
        }

    def _keep_habits(self, stop: StopFlag | None) -> None:
        """Log, measure and save where the step asks for it, or where a stop does."""
        config, is_last = self._config, self._step == self._config.steps
        asked = self._ranks.any(stop is not None and stop.requested, self._placement.device)
        if self._step % config.log_every == 0 or is_last:
            self._log({"event": "step", "step": self._step, "seconds": round(self._seconds, 3), **self._window.take()})
        if self._step % config.evaluate_every == 0 or is_last:
            self._measure()
        if self._step % config.checkpoint_every == 0 or is_last or asked:
            self._save()
        if stop is not None and asked and not is_last:
            stop.requested = True  # of this rank, too, where another one was asked
            stop.check(f"step {self._step} of {config.steps}")

    def _train_step(self) -> StepReport:
        """One update over all micro-batches of this rank."""
        micro_batches = self._source.step(self._step)
        targets = sum(batch.num_targets for batch in micro_batches)
        total = sum(batch.num_targets * batch.weight for batch in micro_batches)
        if targets == 0:
            raise RefusedError(f"step {self._step} has no target token: every position is masked")
        self._network.train()
        self._trained.train()
        loss = torch.zeros((), device=self._placement.device)
        for index, batch in enumerate(micro_batches):
            if index % self._ranks.size == self._ranks.rank:
                torch.manual_seed(sample_seed(self._config.seed, self._step, index))
                loss += self._micro_gradient(batch, total)
        mean = self._ranks.sum(float(loss), self._placement.device)
        self._ranks.sum_gradients(self._optimizer.parameters)
        return self._update(mean, targets)

    def _micro_gradient(self, batch: MicroBatch, total: float) -> Tensor:
        with self._autocast():
            share = self._objective(self._network, batch.to(self._placement.device)) * (batch.weight / total)
        self._scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        return share.detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = self._placement.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self._placement.device.type, dtype=dtype)

    def _update(self, loss: float, targets: int) -> StepReport:
        scale = self._scaler.get_scale() if self._scaler.is_enabled() else 1.0
        if scale != 1.0:
            for parameter in self._optimizer.parameters:
                if parameter.grad is not None:
                    parameter.grad /= scale
        norm = float(nn.utils.clip_grad_norm_(self._optimizer.parameters, self._optimizer_config.maximum_norm))
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        if is_finite:
            self._optimizer.step(self._schedule.factor(self._step, self._config.steps))
        if self._scaler.is_enabled():
            self._scaler.update(scale * (2.0 if is_finite and self._step % 2000 == 1999 else 1.0 if is_finite else 0.5))
        self._optimizer.zero_grad()
        return StepReport(loss, norm, targets, is_finite)

    def _after_step(self, report: StepReport) -> None:
        self._step += 1
        if report.applied:
            self._skips = 0
            self._targets_seen += report.targets
            return
        self._skips += 1
        self._log({"event": "skipped", "step": self._step, "reason": "loss or gradient is not finite"})
        if self._skips > self._config.maximum_skips:
            raise DivergedError(
                f"training diverged: {self._skips} steps in a row up to step {self._step} had a loss or gradient that "
                "is not finite",
                kept="the newest checkpoint, from before",
                hint="lower the learning rates, or look at the data of these steps, and run again",
            )

    def _measure(self) -> None:
        if self._evaluate is None:
            return
        self._network.eval()
        self._trained.eval()
        with self._autocast(), torch.inference_mode():
            values = self._evaluate()
        self._log({"event": "evaluation", "step": self._step, "seconds": round(self._seconds, 3), **values})
        if self._ranks.is_first and "summary" in values:
            say(f"  step {self._step}: {values['summary']}")
        self._evaluation = values
        trim_memory()

    def _state(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "targets_seen": self._targets_seen,
            "skips": self._skips,
            "seconds": self._seconds,
            "window": self._window.sums(),
            "evaluation": self._evaluation,
            "scale": self._scaler.get_scale() if self._scaler.is_enabled() else None,
            "source": self._source.fingerprint,
            "steps": self._config.steps,
            "threads": self._placement.threads,
            "precision": self._placement.precision,
            "device": self._placement.device.type,
            "torch": torch.__version__,
        }

    def _save(self) -> None:
        if self._ranks.is_first:
            weights: dict[str, Tensor] = dict(self._trained.named_parameters())
            self._checkpoints.save(self._step, Checkpoint(weights, self._optimizer.tensors(), self._state()))
        trim_memory()
        self._ranks.wait()

    def _resume(self) -> None:
        checkpoint = self._checkpoints.newest()
        if checkpoint is None:
            (self._directory / METRICS).unlink(missing_ok=True)
            return
        state = checkpoint.state
        if state["source"] != self._source.fingerprint or state["steps"] != self._config.steps:
            raise RefusedError(
                f"the checkpoint at step {state['step']} belongs to other data or another length of run",
                hint=f"delete `{self._directory}` to begin anew",
            )
        for key, now in (("threads", self._placement.threads), ("precision", self._placement.precision)):
            if state[key] != now:
                say(f"  note: {key} was {state[key]} and is now {now}: the result will not be the same to the bit")
        if state["torch"] != torch.__version__:
            say(f"  note: PyTorch was {state['torch']} and is now {torch.__version__}: bits may differ")
        named = dict(self._trained.named_parameters())
        with torch.no_grad():
            for name, tensor in checkpoint.weights.items():
                named[name].copy_(tensor)
        self._optimizer.load(checkpoint.optimizer)
        if state["scale"] is not None:
            self._scaler = torch.amp.GradScaler(self._placement.device.type, init_scale=state["scale"])
        self._step, self._targets_seen = state["step"], state["targets_seen"]
        self._skips, self._seconds = state["skips"], state["seconds"]
        self._window, self._evaluation = _Window(**state["window"]), state["evaluation"]
        self._forget_metrics_after(self._step)
        if self._ranks.is_first:
            say(f"  goes on at step {self._step} of {self._config.steps}")

    def _forget_metrics_after(self, step: int) -> None:
        if not self._ranks.is_first:
            return
        path = self._directory / METRICS
        lines = [line for line in storage.read_lines(path) if line.get("step", 0) <= step]
        with storage.publish_file(path) as scratch:
            scratch.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")

    def _log(self, event: dict[str, Any]) -> None:
        if self._ranks.is_first:
            storage.append_line(self._directory / METRICS, event)


class _Window:
    """Accepted steps since the last line of metrics, as sums: a checkpoint between two lines keeps them."""

    def __init__(
        self, *, steps: int = 0, targets: int = 0, nats: float = 0.0, norms: float = 0.0, seconds: float = 0.0
    ) -> None:
        self._steps, self._targets = steps, targets
        self._nats, self._norms, self._seconds = nats, norms, seconds
        self._text = ""

    def add(self, report: StepReport, seconds: float) -> None:
        """Count a step, if it was applied."""
        if report.applied:
            self._steps += 1
            self._targets += report.targets
            self._nats += report.loss * report.targets
            self._norms += report.norm
            self._seconds += seconds
            self._text = f"loss {report.loss:.3f} | {self._rate():,.0f} tokens/s"

    def text(self) -> str:
        """The newest step, for the progress line."""
        return self._text

    def sums(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {
            "steps": self._steps,
            "targets": self._targets,
            "nats": self._nats,
            "norms": self._norms,
            "seconds": self._seconds,
        }

    def take(self) -> dict[str, Any]:
        """Mean loss over the window's targets, and its rate; then begin a new window."""
        if not self._steps:
            return {"loss": None, "norm": None, "tokens_per_second": 0.0}
        values = {
            "loss": round(self._nats / self._targets, 6),
            "norm": round(self._norms / self._steps, 6),
            "tokens_per_second": round(self._rate(), 1),
        }
        self._steps = self._targets = 0
        self._nats = self._norms = self._seconds = 0.0
        return values

    def _rate(self) -> float:
        return self._targets / max(self._seconds, 1e-9)
