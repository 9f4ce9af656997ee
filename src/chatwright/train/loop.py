"""The one training loop: steps, faults, checkpoints, progress, whatever is learned.

A step's loss has one denominator: all target tokens of all micro-batches and ranks. Parameters change only if loss,
gradient, weights and optimizer state are finite on every rank. What is learned comes in as an objective, what is read
as a source, what is measured as a callback; the loop knows nothing of them. How a step is computed stands in
`step.py`, what follows an unsound one in `faults.py`, how a state is written in `saving.py`.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from chatwright.foundation import storage
from chatwright.foundation.console import ProgressLine, say
from chatwright.foundation.devices import Placement, trim_memory
from chatwright.foundation.errors import UsageError
from chatwright.foundation.memory import memory_named
from chatwright.foundation.stopping import StopFlag
from chatwright.model.float8 import multiply_in_float8
from chatwright.model.network import Network
from chatwright.train.average import TailAverage
from chatwright.train.batches import BatchSource
from chatwright.train.checkpoints import Checkpoints, Retention
from chatwright.train.faults import FaultGuard, Judgement, Verdict, diverged
from chatwright.train.fitted import FittedStepper, Preparation
from chatwright.train.habits import LoopConfig
from chatwright.train.heldout import heldout_loss
from chatwright.train.measuring import Measuring, agreed, tell
from chatwright.train.metrics import MetricsLog, StepReport
from chatwright.train.objectives import Objective
from chatwright.train.optimizers import Optimizer, OptimizerConfig
from chatwright.train.patience import Patience
from chatwright.train.progress import Progress
from chatwright.train.ranks import DiskWork, Ranks
from chatwright.train.resume import SCARCE, Belonging, circumstances, tell_differences
from chatwright.train.saving import Saver
from chatwright.train.schedule import Schedule
from chatwright.train.sharding import shard
from chatwright.train.state import RunState
from chatwright.train.step import Learned, Stepper
from chatwright.train.utilisation import measured_meter


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
        flops_per_token: the model's arithmetic, where the machine's use is to be logged.
        evaluate: measures on held-out data between steps, drawing nothing; ends the run by the figure `finished`.
        identity: what the source's fingerprint is made of, by name, so that a difference can be told.
        unit: what the loss is a mean over, for people.
        values: the network's first weights, each whole, where it has no memory before it lies in shards.
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
        schedule: Schedule,
        placement: Placement,
        directory: Path,
        flops_per_token: float | None = None,
        evaluate: Callable[[], dict[str, Any]] | None = None,
        ranks: Ranks | None = None,
        identity: dict[str, Any] | None = None,
        unit: str = "tokens",
        values: Iterable[tuple[str, Tensor]] | None = None,
    ):
        self._network, self._trained = network, trained
        if config.parallel == "ddp":  # else each block is moved when it is sharded: the whole may be too large for one
            network.to(placement.device)
            trained.to(placement.device)
        if placement.precision == "float8":
            multiply_in_float8(network)
        network.recompute_blocks(is_on=config.recompute)
        self._source = source
        self._config = config
        self._schedule = schedule
        self._placement = placement
        self._directory = directory
        self._ranks = ranks or Ranks()
        self._ranks.join(placement.device, timeout_s=config.collective_timeout_s)
        if config.parallel != "ddp":
            self._shard(values)
        named = [(name, parameter) for name, parameter in trained.named_parameters() if parameter.requires_grad]
        self._optimizer = Optimizer(named, optimizer, in_bfloat16=placement.autocast_dtype is not None)
        self._average = TailAverage(config.average, named, steps=config.steps, is_measured=evaluate is not None)
        self._stepper = self._make_stepper(objective, optimizer.maximum_norm)
        modules = (self._network, self._trained)
        self._measuring = Measuring(evaluate, modules, self._stepper.autocast, config.parallel != "ddp")
        self._keep_in(directory)
        self._fitted = FittedStepper(self._stepper, placement=placement, ranks=self._ranks, log=self._log)
        self._guard = FaultGuard(config.faults)
        self._patience = Patience(config.patience)
        self._done = Progress(unit=unit)
        self._meter = measured_meter(flops_per_token, placement, num_ranks=self._ranks.size)
        self._state = self._all_that_is_saved(Belonging(source.fingerprint, config.steps, identity or {}))
        self._disk = DiskWork(self._ranks, placement.device, self._state.num_bytes)

    def _make_stepper(self, objective: Objective, maximum_norm: float) -> Stepper:
        """What turns micro-batches into one update."""
        config = self._config
        return Stepper(
            Learned(self._network, self._trained, objective, self._optimizer, maximum_norm),
            placement=self._placement,
            ranks=self._ranks,
            reduction=config.reduction,
            seed=config.seed,
            audit_every=config.faults.audit_every,
        )

    def _all_that_is_saved(self, belongs: Belonging) -> RunState:
        """What a checkpoint is taken of and goes back into."""
        config = self._config
        return RunState(
            trained=self._trained,
            optimizer=self._optimizer,
            average=self._average,
            stepper=self._stepper,
            fitted=self._fitted,
            guard=self._guard,
            patience=self._patience,
            done=self._done,
            belongs=belongs,
            circumstances=circumstances(self._placement, reduction=config.reduction, num_ranks=self._ranks.size),
            directory=self._directory,
        )

    def _keep_in(self, directory: Path) -> None:
        """Where the run's checkpoints and its log are kept."""
        config = self._config
        retention = Retention(config.keep_checkpoints, config.keep_every, config.keep_best)
        self._checkpoints = Checkpoints(directory / "checkpoints", retention=retention)
        self._log = MetricsLog(directory, is_writer=self._ranks.is_first, curves=config.curves)
        self._saver = Saver(
            self._checkpoints,
            self._log,
            in_background=config.save_in_background,
            maximum_failures=config.maximum_failed_saves,
        )

    def _shard(self, values: Iterable[tuple[str, Tensor]] | None) -> None:
        if self._trained is not self._network:
            raise UsageError(f'`parallel = "{self._config.parallel}"` trains whole networks, not adapters or heads')
        parallel, placement, ranks = self._config.parallel, self._placement, self._ranks
        shard(self._network, parallel=parallel, placement=placement, ranks=ranks, values=values)

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self._done.step

    def run(self, stop: StopFlag | None = None, *, label: str = "train") -> dict[str, Any]:
        """Train to the last step, from the newest sound checkpoint if there is one.

        Returns:
            Steps, target tokens, seconds of training and the last evaluation.

        Raises:
            StoppedError: a stop was asked for; the state is saved.
            DivergedError: more unsound steps than the policy allows; a sound checkpoint is kept.
            RefusedError: the checkpoint belongs to other data or settings, or there are some and none is sound.
            BusyError: another process trains in this directory.
            RankLostError: another process of this training ended or hangs.
            OutOfMemoryError: memory ran out where a step cannot be made smaller.
            StorageFailedError: the disk takes no checkpoint, or at the end the log.
        """
        with self._held_alone():
            self._begin()
            to_come = self._state.bytes_to_come(is_copied=self._placement.device.type == "cpu")
            habits = Preparation(self._config.steps, self._config.is_fitted, self._config.compile, to_come)
            self._fitted.prepare(self._network, self._source, self._directory, habits)
            progress = ProgressLine(label, self._config.steps, start=self._done.step)
            while self._done.step < self._config.steps and not self._is_over():
                began = time.monotonic()
                report = self._train_step()
                elapsed = time.monotonic() - began
                self._done.seconds += elapsed
                if report is None:
                    continue  # rolled back
                self._done.window.add(report, elapsed, self._meter)
                if self._ranks.is_first:
                    progress.update(self._done.step, self._done.window.text())
                self._keep_habits(stop)
            progress.close()
            if self._ends_early:
                self._end_early()
            self._average.leave()
            self._log.flush()
            self._ranks.wait()  # the first rank publishes what the others may still be reading
        return self._done.summary(self._meter)

    def _is_over(self) -> bool:
        """Whether training ends early: held-out loss no longer falls, or the measurement says that it has enough."""
        return self._patience.is_over or bool(self._done.evaluation.get("finished"))

    @contextmanager
    def _held_alone(self) -> Iterator[None]:
        """No other process trains in this directory meanwhile; lost ranks and a lack of memory are named."""
        held = storage.exclusive(self._checkpoints.directory) if self._ranks.is_first else nullcontext()
        with memory_named(**SCARCE), self._ranks.losses_told(), held, closing(self._saver), closing(self._log):
            yield

    @property
    def _ends_early(self) -> bool:
        """Whether patience is at its end before the last step."""
        return self._patience.is_over and self._done.step < self._config.steps

    def _begin(self) -> None:
        """From the newest sound checkpoint, or from the first step."""
        step = self._disk.step(self._checkpoints.newest_step)
        if step is None:
            if self._ranks.of_first(self._checkpoints.count, self._placement.device):
                raise self._checkpoints.refusal()  # to begin anew would take what may still be saved
            self._log.begin_anew(steps=self._config.steps)
            self._measure()
            if self._config.faults.policy == "rollback":
                self._save(must_hold=True)  # somewhere to go back to
            return
        state = self._restore(step)
        self._log.forget_after(self._done.step)
        if self._ranks.is_first:
            tell_differences(state["circumstances"], self._state.circumstances)
            say(f"  goes on at step {self._done.step} of {self._config.steps}")

    def _restore(self, step: int) -> dict[str, Any]:
        """Go back or on to a checkpoint; returns its numbers."""
        with self._disk.patience():
            state = self._state.restore(self._checkpoints.load(step))
            self._ranks.wait()  # each reads all of it, at the pace of its own disk
        return state

    def _train_step(self) -> StepReport | None:
        """One step, applied or left out; None where the run went back instead."""
        number = self._done.data_number
        micro_batches = self._source.step(number)
        candidate = self._fitted.gradient(micro_batches, number=number, step=self._done.step)
        judgement = self._guard.judge(candidate)
        if judgement.verdict is Verdict.ACCEPT:
            self._stepper.apply(self._schedule.factor(self._done.step, self._config.steps, number=number))
            self._done.targets += candidate.targets
            self._average.see(self._done.step + 1)
        else:
            self._stepper.discard(is_overflow=candidate.is_overflow)
            if judgement.verdict is Verdict.ROLL_BACK:
                self._roll_back(judgement)
                return None
            if judgement.verdict is Verdict.STOP:
                self._give_up(judgement, can_save=candidate.damage is None)
        self._done.step += 1
        is_accepted = judgement.verdict is Verdict.ACCEPT
        if not is_accepted:
            self._log.write({"event": "skipped", "step": self._done.step, "reason": judgement.reason})
        return StepReport(candidate.loss, candidate.norm, candidate.targets, is_accepted)

    def _roll_back(self, judgement: Judgement) -> None:
        """To the newest sound checkpoint; the data of the steps from there to this one is passed over."""
        failed, number = self._done.step + 1, self._done.data_number
        rollbacks = self._guard.rollbacks
        self._disk.alone(self._saver.settle)
        step = self._disk.step(self._checkpoints.newest_step)
        if step is None:
            self._give_up(judgement, can_save=False)
        self._restore(step or 0)
        self._guard.rolled_back(rollbacks=rollbacks)
        self._done.passed_over = number + 1 - self._done.step
        self._log.forget_after(self._done.step, but="rolled_back")  # one that went to the same step, or beyond
        told = {"to_step": self._done.step, "failed_step": failed, "reason": judgement.reason}
        self._log.write(
            {"event": "rolled_back", "step": self._done.step + 1, **told, "passed_over": self._done.passed_over}
        )
        if self._ranks.is_first:
            say(f"  step {failed}: {judgement.reason}; back to step {self._done.step}, the data between is passed over")

    def _give_up(self, judgement: Judgement, *, can_save: bool) -> NoReturn:
        """End here in a way that can go on."""
        failed, policy = self._done.step + 1, self._config.faults.policy
        if policy == "stop" and can_save:
            self._save(must_hold=True)
        self._disk.alone(self._saver.wait)
        newest = self._disk.step(self._checkpoints.newest_step)
        self._log.write({"event": "diverged", "step": failed, "reason": judgement.reason})
        raise diverged(judgement, step=failed, skips=self._guard.skips, newest=newest)

    def _keep_habits(self, stop: StopFlag | None) -> None:
        """Log, measure and save where the step asks for it, or where a stop does."""
        config, is_last = self._config, self._done.step == self._config.steps
        asked = self._ranks.any(stop is not None and stop.requested, self._placement.device)
        measures = self._done.step % config.evaluate_every == 0 or is_last
        saves = self._done.step % config.checkpoint_every == 0 or is_last or asked
        if (measures or saves) and self._is_damaged():
            return  # rolled back
        if self._done.step % config.log_every == 0 or is_last:
            self._log_at_step("step", self._done.window.take(self._meter))
        self._done.score = None
        if measures:
            self._measure()
        if self._ends_early:
            self._log_at_step("ended_early", {"best": self._patience.best})
        ends = is_last or self._ends_early
        if ends:
            self._weigh_average()
        if saves or ends:
            self._save(must_hold=ends or asked)
        if stop is not None and asked and not ends:
            stop.requested = True  # of this rank, too, where another one was asked
            self._log.flush()
            stop.check(f"step {self._done.step} of {config.steps}")

    def _is_damaged(self) -> bool:
        """Whether the state holds what must be neither measured nor saved. The run has then gone back, or ends."""
        damage = self._stepper.damage()
        if damage is None:
            return False
        self._done.step -= 1  # it is this step's update that came out unsound
        judgement = self._guard.judge_damage(f"after the update {damage}")
        if judgement.verdict is Verdict.STOP:
            self._give_up(judgement, can_save=False)
        self._roll_back(judgement)
        return True

    def _end_early(self) -> None:
        """Patience is at its end, and the state is saved: where the best one is kept, its weights are what is left."""
        if self._ranks.is_first:
            say(f"  ends at step {self._done.step}: {self._config.patience} measurements brought no lower loss")
        if not self._config.keep_best or self._average.is_used:
            return
        step = self._disk.step(self._checkpoints.best_step)
        if step is None:
            return
        best = self._checkpoints.load(step)
        self._state.take_weights(best.weights)
        self._done.evaluation = best.state["evaluation"]
        if self._ranks.is_first:
            say(f"  leaves the weights of step {step}, the best that was kept")

    def _measure(self) -> None:
        values = self._measuring.values()
        if not values:
            return
        if (self._config.keep_best or self._config.patience) and "bits_per_byte" not in values:
            raise UsageError("`keep_best` and `patience` need a training that measures held-out `bits_per_byte`")
        self._log_at_step("evaluation", values)
        if self._ranks.is_first:
            tell(values, where=f"step {self._done.step}")
        self._done.evaluation, self._done.score = agreed(values, self._ranks, self._placement.device)
        self._patience.see(self._done.score)
        trim_memory()

    def _weigh_average(self) -> None:
        """At the end: whether the run leaves the average over its tail in place of its last weights."""
        if not self._average.num_steps:
            return
        with self._average.installed():
            values = self._measuring.values()
        rival = self._patience.best if self._config.keep_best and self._ends_early else self._done.score
        is_wanted = self._average.is_wanted(heldout_loss(values), rival)
        is_used = bool(self._ranks.of_first(int(is_wanted), self._placement.device))
        self._average.is_used, self._done.evaluation = is_used, values if is_used and values else self._done.evaluation
        self._log_at_step("averaged", {"steps": self._average.num_steps, "is_used": is_used, **values})
        if self._ranks.is_first:
            tell(values, where=f"the average of {self._average.num_steps} steps, {'' if is_used else 'not '}used")

    def _log_at_step(self, event: str, values: dict[str, Any]) -> None:
        self._log.write({"event": event, "step": self._done.step, "seconds": round(self._done.seconds, 3), **values})

    def _save(self, *, must_hold: bool) -> None:
        """Save this step, beside the training or, where it must hold, before anything else."""
        self._disk.alone(self._saver.wait)  # the copy before is let go first: there is memory for one
        # What is sharded is gathered by all ranks; what is whole is copied by the first one alone.
        gathered = None if self._config.parallel == "ddp" else self._state.snapshot(is_kept=self._ranks.is_first)

        def save() -> None:
            if self._saver.last_step != self._done.step:
                self._saver.save(self._done.step, gathered or self._state.snapshot(is_kept=True))
            if must_hold:
                self._saver.wait(must_hold=True)

        self._disk.alone(save)
        trim_memory()
