"""One step: the gradient over all micro-batches of all ranks, looked at as a whole, then applied or thrown away.

The loop decides between the two; nothing here knows checkpoints, policies or logs.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import OutOfMemoryError, RefusedError
from chatwright.foundation.memory import is_out_of_memory
from chatwright.model.network import Network
from chatwright.train.audit import Ailment, Audit, computes_alike, odd_ones
from chatwright.train.batches import MicroBatch, sample_seed
from chatwright.train.faults import Candidate
from chatwright.train.objectives import Objective
from chatwright.train.optimizers import Optimizer
from chatwright.train.ranks import Ranks
from chatwright.train.reduction import Reduction, ReductionName, ShardedReduction, make_reduction, share_of
from chatwright.train.sharding import is_sharded, whole

_SCALE_DOUBLES_EVERY = 2000  # accepted steps in a row, as PyTorch's own scaler has it


class Learned(NamedTuple):
    """What a step computes with and changes."""

    network: Network
    trained: nn.Module  # the network itself, or an adapter on it
    objective: Objective
    optimizer: Optimizer
    maximum_norm: float  # the gradient is clipped to this


class Stepper:
    """Computes steps.

    Args:
        learned: network, objective and optimizer.
        placement: device and precision.
        ranks: the processes that share each step.
        reduction: how their gradients become one.
        seed: of everything random within a micro-batch.
        audit_every: steps between searches for silent damage; 0: none.
    """

    def __init__(
        self,
        learned: Learned,
        *,
        placement: Placement,
        ranks: Ranks,
        reduction: ReductionName = "fast",
        seed: int = 0,
        audit_every: int = 0,
    ):
        self._learned = learned
        self._placement = placement
        self._ranks = ranks
        self._reduction: Reduction = make_reduction(reduction, learned.optimizer.parameters, ranks)
        self._seed = seed
        self._is_sharded = any(map(is_sharded, learned.optimizer.parameters))
        if self._is_sharded:
            self._reduction = ShardedReduction()
        self._audit = Audit(learned.optimizer.held, every=audit_every)
        self._scaler = self._new_scaler()
        self._steps_at_scale = 0  # accepted ones since the loss scale last changed

    def _new_scaler(self, **options: float) -> torch.amp.GradScaler:
        device = self._placement.device
        scaler = torch.amp.GradScaler(device.type, enabled=self._placement.precision == "float16", **options)  # type: ignore[arg-type]
        scaler.scale(torch.zeros((), device=device))  # takes its state now: this rank may have no share of a step
        return scaler

    @property
    def scale(self) -> float | None:
        """The loss scale of float16, or None where there is none."""
        return self._scaler.get_scale() if self._scaler.is_enabled() else None

    @scale.setter
    def scale(self, value: float | None) -> None:
        if value is not None:
            self._scaler = self._new_scaler(init_scale=value)

    def state(self) -> dict[str, Any]:
        """What `load` takes; JSON."""
        return {"scale": self.scale, "scale_steps": self._steps_at_scale}

    def load(self, state: dict[str, Any]) -> None:
        """Go on with the loss scale of a checkpoint; older ones did not count its steps."""
        self.scale = state["scale"]
        self._steps_at_scale = state.get("scale_steps", state["step"] % _SCALE_DOUBLES_EVERY)

    def autocast(self) -> AbstractContextManager[Any]:
        """The placement's precision for a forward pass."""
        return self._placement.autocast()

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Everything that is trained."""
        return self._learned.optimizer.parameters

    def tried(self, batch: MicroBatch) -> None:
        """One micro-batch forward and backward, to see what that takes."""
        self._learned.network.train()
        self._learned.trained.train()
        self._micro_gradient(batch, batch.num_targets * batch.weight)

    def gradient(self, micro_batches: Sequence[MicroBatch], *, number: int) -> Candidate | None:
        """Leave the step's gradient in the parameters, clipped, and say what it is like.

        None where memory ran out on a rank: then nothing has changed, and the step can be begun anew in smaller parts.

        Args:
            micro_batches: of all ranks; this one computes its share.
            number: of the step's data; what is random in a micro-batch depends on it.

        Raises:
            RefusedError: no position has a target.
        """
        targets = sum(batch.num_targets for batch in micro_batches)
        total = sum(batch.num_targets * batch.weight for batch in micro_batches)
        if targets == 0:
            raise RefusedError(f"step {number} has no target token: every position is masked")
        self._learned.network.train()
        self._learned.trained.train()
        ailment = self.ailment() or self._computing(micro_batches, total, number=number)
        digest = self._audit.digest() if self._audit.is_due(number) else 0.0
        shares = self._shares(micro_batches, total, number=number)
        told = self._agreed(shares, count=len(micro_batches), ailment=ailment, digest=digest)
        if told.is_out_of_memory:
            self._reduction.forget()
            self._learned.optimizer.zero_grad()
            return None
        self._reduction.finish(len(micro_batches))
        return self._looked_at(told, targets)

    def ailment(self) -> Ailment:
        """What is wrong with the weights and the optimizer's state that this rank holds, if anything."""
        if not self._learned.optimizer.is_finite():
            return Ailment.NOT_FINITE
        return Ailment.CHANGED if self._audit.is_changed() else Ailment.NONE

    def damage(self) -> str | None:
        """What is wrong with which ranks, in words that all of them agree on."""
        ailments = [0.0] * self._ranks.size
        ailments[self._ranks.rank] = float(self.ailment())
        values = self._ranks.sums(ailments, self._placement.device)
        return _Told([], [Ailment(round(value)) for value in values], [], False).damage()

    def trust(self) -> None:
        """Weights and state were given anew, as from a checkpoint."""
        self._audit.forget()

    def apply(self, factor: float) -> None:
        """Update the parameters; `factor` is the schedule's share of the peak learning rates."""
        self._learned.optimizer.step(factor)
        self._audit.note()
        self._steps_at_scale += 1
        if self._steps_at_scale >= _SCALE_DOUBLES_EVERY:
            self._change_scale(2.0)
        self._learned.optimizer.zero_grad()

    def discard(self, *, is_overflow: bool) -> None:
        """Forget the gradient; the parameters stay as they are, and the loss scale, too, where it was not to blame."""
        if is_overflow:
            self._change_scale(0.5)
        self._learned.optimizer.zero_grad()

    def _change_scale(self, factor: float) -> None:
        self._steps_at_scale = 0
        if self._scaler.is_enabled():
            self._scaler.update(self._scaler.get_scale() * factor)

    def _micro_gradient(self, batch: MicroBatch, total: float) -> Tensor:
        with self.autocast():
            moved = batch.to(self._placement.device)
            share = self._learned.objective(self._learned.network, moved) * (batch.weight / total)
        # Shards' gradients are averaged over the ranks where they are reduced; the step's gradient is their sum.
        weight = self._ranks.size if self._is_sharded else 1
        self._scaler.scale(share * weight).backward()  # type: ignore[no-untyped-call]
        return share.detach()

    def _shares(self, micro_batches: Sequence[MicroBatch], total: float, *, number: int) -> dict[int, float] | None:
        """This rank's micro-batches' shares of the loss, their gradients accumulated; None where memory ran out."""
        shares: dict[int, Tensor] = {}
        mine = share_of(len(micro_batches), rank=self._ranks.rank, size=self._ranks.size)
        try:
            for index in mine:
                torch.manual_seed(sample_seed(self._seed, number, index))
                shares[index] = self._micro_gradient(micro_batches[index], total)
                self._reduction.add(index)
            if self._is_sharded:
                self._keep_pace(micro_batches, len(mine))
            own = torch.stack(list(shares.values())).tolist() if shares else []
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._is_sharded:
                raise _lost_between_shards(error) from error
            return None
        return dict(zip(shares, own, strict=True))

    def _computing(self, micro_batches: Sequence[MicroBatch], total: float, *, number: int) -> Ailment:
        """At a step that is audited: this rank's first micro-batch, twice. Memory that runs out is found later."""
        mine = share_of(len(micro_batches), rank=self._ranks.rank, size=self._ranks.size)
        if not mine or not self._audit.is_due(number) or self._placement.device.type == "cuda":
            return Ailment.NONE

        def compute() -> None:
            torch.manual_seed(sample_seed(self._seed, number, mine[0]))
            self._micro_gradient(micro_batches[mine[0]], total)

        try:
            is_alike = computes_alike(compute, self.parameters)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._learned.optimizer.zero_grad()
            is_alike = True
        return Ailment.NONE if is_alike else Ailment.COMPUTES_DIFFERENTLY

    def _keep_pace(self, micro_batches: Sequence[MicroBatch], count: int) -> None:
        """With shards each micro-batch is an exchange: who has fewer joins in with one that counts nothing."""
        for _ in range(count, -(-len(micro_batches) // self._ranks.size)):
            self._micro_gradient(micro_batches[0]._replace(weight=0.0), 1.0)

    def _agreed(self, shares: dict[int, float] | None, *, count: int, ailment: Ailment, digest: float) -> "_Told":
        """Every micro-batch's loss and every rank's health, on all ranks, in one message."""
        size, rank = self._ranks.size, self._ranks.rank
        losses, ailments, digests = [0.0] * count, [0.0] * size, [0.0] * size
        for index, loss in (shares or {}).items():
            losses[index] = loss
        ailments[rank], digests[rank] = float(ailment), digest
        values = self._ranks.sums([*losses, *ailments, *digests, float(shares is None)], self._placement.device)
        ailing = [Ailment(round(value)) for value in values[count : count + size]]
        return _Told(values[:count], ailing, values[count + size : -1], values[-1] > 0)

    def _looked_at(self, told: "_Told", targets: int) -> Candidate:
        scale = self.scale or 1.0
        parameters = self._learned.optimizer.parameters
        if scale != 1.0:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= scale
        norm = float(whole(nn.utils.clip_grad_norm_(parameters, self._learned.maximum_norm)))
        if self._ranks.any(not math.isfinite(norm), self._placement.device):
            norm = math.nan  # on any rank, so on all
        return Candidate(
            loss=told.loss,
            norm=norm,
            targets=targets,
            damage=told.damage(),
            where=told.where(norm),
            is_overflow=scale > 1.0 and math.isfinite(told.loss) and not math.isfinite(norm),
        )


def _lost_between_shards(error: BaseException) -> OutOfMemoryError:
    return OutOfMemoryError(
        "memory ran out on a rank that holds a shard of the model: a step in shards cannot be begun again in its midst",
        cause=str(error).splitlines()[0][:300],
        kept="the newest checkpoint",
        hint="set `recompute = true` or lower `micro_rows`: either goes on from the checkpoint",
    )


class _Told(NamedTuple):
    """What all ranks know of a step's losses."""

    losses: list[float]  # each micro-batch's share of the mean, in its order
    ailments: list[Ailment]  # of each rank
    digests: list[float]  # of what each rank holds, where ranks are compared; else zeros
    is_out_of_memory: bool  # on some rank

    @property
    def loss(self) -> float:
        """The mean over all targets; exact, so that it depends on no order."""
        return math.fsum(self.losses) if all(map(math.isfinite, self.losses)) else math.nan

    def damage(self) -> str | None:
        """What is wrong with which ranks, in words."""
        whose = {kind: [rank for rank, found in enumerate(self.ailments) if found is kind] for kind in Ailment}
        parts = [kind.told(_of(ranks, len(self.ailments))) for kind, ranks in whose.items() if kind and ranks]
        odd = odd_ones(self.digests)
        if odd and not parts:
            parts.append(f"the weights or optimizer state{_of(odd, len(self.digests))} are not those of the others")
        return "; ".join(parts) or None

    def where(self, norm: float) -> str | None:
        bad = [index for index, loss in enumerate(self.losses) if not math.isfinite(loss)]
        if bad:
            return f"the loss of micro-batch {', '.join(map(str, bad[:8]))} is not finite"
        return None if math.isfinite(norm) else "the gradient is not finite"


def _of(ranks: Sequence[int], size: int) -> str:
    """Whose, where there are several."""
    if size == 1:
        return ""
    return f" of rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
