"""The choice: of all shapes, the one that the loss law expects most of within the budget; half and double beside it."""

import math
from collections.abc import Callable
from typing import NamedTuple

from chatwright.foundation.console import say
from chatwright.foundation.devices import place
from chatwright.foundation.errors import UsageError
from chatwright.model.config import ModelConfig
from chatwright.recipe.plan import cost, shapes
from chatwright.recipe.plan.corpus import CorpusSize
from chatwright.recipe.plan.machine import Machine, time_step
from chatwright.recipe.plan.scaling import PUBLISHED, Law, effective_tokens
from chatwright.recipe.plan.sharded import in_shards
from chatwright.train.footprint import static_bytes
from chatwright.train.sharding import ParallelName

_FEWEST_STEPS = 50
_MICRO_TOKENS = {"cpu": 4096, "cuda": 65_536}  # at once; more gains nothing
_MEASUREMENTS = 6  # at most, after the one before the first step
_TIMED_PARTS = 2
_TIMED_STEPS = 5
_TRUSTED = 1.25  # a chosen step may differ from the probes' by this before they are corrected
_NOISE = 0.1  # of predicted time, either way: what a machine of one's own varies by


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
    def tokens(self) -> int:
        """Trained on."""
        return self.steps * self.batch_rows * self.shape.context_length


class Plan(NamedTuple):
    """What is proposed, why, and what is expected."""

    chosen: Candidate
    half: Candidate | None  # the same budget on half the parameters
    double: Candidate | None
    memory: cost.Memory
    machine: Machine
    corpus: CorpusSize
    law: Law
    loss: float | None  # in the law's unit; None where the law was not fitted to such sizes
    loss_interval: tuple[float, float] | None  # nine of ten; None where the law has no bands
    epochs: float
    repeats_worth: float  # effective over trained tokens; 1 where nothing repeats
    warnings: tuple[str, ...]

    @property
    def watts(self) -> float | None:
        """What the machine drew while it was measured; None where that cannot be read."""
        return self.machine.watts


StepTimer = Callable[[Candidate], float]


def choose(
    machine: Machine, corpus: CorpusSize, budget: Budget, *, law: Law = PUBLISHED, timer: StepTimer | None = None
) -> Plan:
    """Choose shape, batch and length for a budget.

    Args:
        machine: as measured.
        corpus: how much text there is.
        budget: time or tokens.
        law: ranks sizes; predicts the loss within the range it was fitted to.
        timer: measures a step of the chosen shape; without it, seconds are the probes' extrapolation.

    Raises:
        UsageError: nothing fits the budget or the memory.
    """
    found = affordable(machine, corpus, budget, law)
    chosen = _best_that_fits(found, machine)
    if timer is not None:
        step_seconds = timer(chosen)
        if (slower := times_slower(chosen, step_seconds)) is not None:
            machine = machine.slowed(slower)
            found = affordable(machine, corpus, budget, law)
            chosen = _best_that_fits(found, machine)
            step_seconds = timer(chosen)
        chosen = _corrected(chosen, step_seconds, machine, corpus, budget)
    needed = effective_tokens(chosen.tokens, corpus.tokens)
    expected = law.loss(chosen.parameters, needed) if law.covers(chosen.parameters, needed) else None
    return Plan(
        chosen=chosen,
        half=_nearest(found, chosen.parameters / 2, chosen),
        double=_nearest(found, chosen.parameters * 2, chosen),
        memory=_memory(chosen, machine),
        machine=machine,
        corpus=corpus,
        law=law,
        loss=expected,
        loss_interval=None if expected is None else law.interval(chosen.parameters, needed),
        epochs=chosen.tokens / max(1, corpus.tokens),
        repeats_worth=needed / chosen.tokens,
        warnings=tuple(_warnings(chosen, corpus, needed)),
    )


def times_slower(candidate: Candidate, step_seconds: float) -> float | None:
    """How much slower a measured step is than the probes said; None where they differ by no more than they may.

    Else the probes met another machine than this step did, and what they said of all sizes is moved alike.
    """
    slower = step_seconds / candidate.step_seconds
    return None if 1 / _TRUSTED < slower < _TRUSTED else slower


def at_pace(plan: Plan, step_seconds: float) -> Plan:
    """The same training, and the time it takes where its step takes so long."""
    return plan._replace(chosen=_paced(plan.chosen, step_seconds, _measured_tokens(plan.machine, plan.corpus)))


def affordable(machine: Machine, corpus: CorpusSize, budget: Budget, law: Law = PUBLISHED) -> list[Candidate]:
    """Every shape that learns long enough within the budget."""
    spent = (_spend(shape, machine, corpus, budget, law) for shape in _shapes(machine, corpus, budget))
    return [one for one in spent if one is not None]


def vocabulary_for(machine: Machine, budget: Budget) -> int:
    """A vocabulary for what the budget buys on this machine."""
    return shapes.vocabulary_for(_compute(machine, budget))


def step_timer(machine: Machine) -> StepTimer:
    """Measures a chosen step on this machine. A step of many micro-batches is timed by two of them."""

    def seconds(candidate: Candidate) -> float:
        parts = candidate.batch_rows // candidate.micro_rows
        timed = min(parts, _TIMED_PARTS)
        say("timing steps of the size chosen")
        placement = place(device=machine.kind, precision=machine.precision, threads=machine.threads)
        measured = time_step(
            candidate.shape,
            rows=timed * candidate.micro_rows,
            micro_rows=candidate.micro_rows,
            placement=placement,
            steps=_TIMED_STEPS,
        )
        update = cost.muon_flops(candidate.shape) / machine.flops_per_second(candidate.shape.width)
        return measured if timed == parts else max(0.0, measured - update) * parts / timed + update

    return seconds


def _best_that_fits(found: list[Candidate], machine: Machine) -> Candidate:
    """The law's best of those that a device holds: whole, or in shards over all devices where there are several."""
    room = cost.MEMORY_SHARE * machine.memory_bytes
    ways: tuple[tuple[ParallelName, int], ...] = (("ddp", 1), ("fsdp", machine.num_devices))
    for one in sorted(found, key=lambda one: one.score):
        for parallel, shards in ways[: 1 if machine.num_devices == 1 else 2]:
            if machine.process_bytes + static_bytes(one.shape) / shards > room:
                continue
            fewer = _within_room(one._replace(parallel=parallel), machine, room)
            if fewer is not None:
                return fewer
    raise UsageError(
        f"no model fits the budget and {room / 1e9:.1f} GB of memory",
        hint=f"allow more time: at least {_FEWEST_STEPS} steps of the smallest model must fit",
    )


def _within_room(one: Candidate, machine: Machine, room: float) -> Candidate | None:
    """With as many rows at once as fit; those that a row's activations rule out are not counted one by one."""
    least = _whole(one._replace(micro_rows=1), machine)
    if one.parallel != "ddp":  # counting shards takes seconds
        least = least._replace(weights=static_bytes(one.shape) // machine.num_devices, gradients=0, moments=0)
    if least.total > room:
        return None
    single = _memory(one._replace(micro_rows=1), machine)
    if single.total > room:
        return None
    base = single.process + single.weights + single.moments
    held = {name: getattr(single, name) for name in ("weights", "gradients", "moments", "gathered")}
    for rows in _divisors_down(one.micro_rows):
        fewer = one._replace(micro_rows=rows)
        if base + rows * single.activations <= room and _whole(fewer, machine)._replace(**held).total <= room:
            return fewer
    return one._replace(micro_rows=1)


def _divisors_down(rows: int) -> list[int]:
    """Rows at once and fewer, the batch always a multiple: gradients are accumulated, the result stays."""
    return [fewer for fewer in range(rows, 0, -1) if rows % fewer == 0]


def _dividing(rows: int, most: int) -> int:
    """The largest divisor of `rows` up to `most`."""
    return next(fewer for fewer in range(min(rows, most), 0, -1) if rows % fewer == 0)


def _compute(machine: Machine, budget: Budget) -> float:
    """Operations that the budget buys, roughly; the rules for vocabulary, context and batch begin from it."""
    if budget.seconds is not None:
        return budget.seconds * machine.rates[-1].flops_per_second
    return 6.0 * (budget.tokens or 0) ** 2 / 20  # a parameter for 20 tokens


def _shapes(machine: Machine, corpus: CorpusSize, budget: Budget) -> list[ModelConfig]:
    flops = _compute(machine, budget)
    context = min(shapes.context_for(flops), max(16, corpus.tokens // 4))
    listed = list(shapes.candidates(vocabulary_size=corpus.vocabulary_size, context_length=context))
    if budget.tokens is not None:  # nothing else would bound the size: a parameter for 20 tokens (Hoffmann et al. 2022)
        return [shape for shape in listed if shape.num_parameters() <= budget.tokens / 16] or listed[:1]
    return [shape for shape in listed if shape.num_parameters() ** 2 < 100 * flops]


def _spend(shape: ModelConfig, machine: Machine, corpus: CorpusSize, budget: Budget, law: Law) -> Candidate | None:
    """As many steps as the budget has for this shape; None where they are too few to learn by."""
    wanted = shapes.batch_tokens_for(_compute(machine, budget)) / shape.context_length
    batch_rows = max(1, 2 ** round(math.log2(max(1.0, wanted))))
    batch_rows = -(-batch_rows // machine.num_devices) * machine.num_devices  # every device has its micro-batches
    share = batch_rows // machine.num_devices
    micro_rows = _dividing(share, max(1, _MICRO_TOKENS[machine.kind] // shape.context_length))
    made = Candidate(shape, 0, batch_rows, micro_rows, 0.0, 0.0, 0.0, 0.0)
    step_seconds = cost.step_flops(shape, batch_rows * shape.context_length) / machine.flops_per_second(shape.width)
    made = _timed(made, step_seconds, _measured_tokens(machine, corpus), budget)
    if made.steps < _FEWEST_STEPS:
        return None
    return made._replace(score=law.loss(made.parameters, effective_tokens(made.tokens, corpus.tokens)))


def _measured_tokens(machine: Machine, corpus: CorpusSize) -> int:
    """Held-out tokens of one measurement: each device reads all of them."""
    return machine.num_devices * corpus.heldout_tokens


def _timed(candidate: Candidate, step_seconds: float, measured: int, budget: Budget) -> Candidate:
    """Steps for the budget, time for measurements on held-out text left aside."""
    if budget.seconds is None:
        steps = math.ceil((budget.tokens or 0) / _step_tokens(candidate))
    else:
        measuring = (1 + _MEASUREMENTS) * _measurement_seconds(candidate, step_seconds, measured)
        steps = int((budget.seconds - measuring) / step_seconds)
    return _paced(candidate._replace(steps=max(0, steps)), step_seconds, measured)


def _paced(candidate: Candidate, step_seconds: float, measured: int) -> Candidate:
    """The same steps with what they and the measurements take where a step takes so long."""
    measuring = num_measurements(candidate.steps) * _measurement_seconds(candidate, step_seconds, measured)
    training = candidate.steps * step_seconds
    return candidate._replace(step_seconds=step_seconds, training_seconds=training, measuring_seconds=measuring)


def _step_tokens(candidate: Candidate) -> int:
    return candidate.batch_rows * candidate.shape.context_length


def _measurement_seconds(candidate: Candidate, step_seconds: float, measured: int) -> float:
    """Of one measurement over so many tokens: forward only, a third of the network's part of a step."""
    forward = measured * candidate.shape.flops_per_token() / 3
    return forward / cost.step_flops(candidate.shape, _step_tokens(candidate)) * step_seconds


def measure_every(steps: int) -> int:
    """Steps between two measurements of a planned training, and between two checkpoints."""
    return max(1, -(-steps // _MEASUREMENTS))


def num_measurements(steps: int) -> int:
    """How often the loop measures in so many steps: before the first, at every so many, and at the last."""
    return 1 + -(-steps // measure_every(steps))


def _corrected(
    candidate: Candidate, step_seconds: float, machine: Machine, corpus: CorpusSize, budget: Budget
) -> Candidate:
    """The same shape with the steps that its own measured pace allows."""
    corrected = _timed(candidate, step_seconds, _measured_tokens(machine, corpus), budget)
    if corrected.steps < 1:
        raise UsageError(
            f"a step takes {step_seconds:.1f} s on {machine.device}, longer than the budget", hint="allow more time"
        )
    return corrected


def _memory(candidate: Candidate, machine: Machine) -> cost.Memory:
    """Of one device."""
    whole = _whole(candidate, machine)
    if candidate.parallel == "ddp":
        return whole
    return in_shards(whole, candidate.shape, num_devices=machine.num_devices, precision=machine.precision)


def _whole(candidate: Candidate, machine: Machine) -> cost.Memory:
    """Of a device that holds the whole model."""
    return cost.memory(
        candidate.shape,
        micro_rows=candidate.micro_rows,
        precision=machine.precision,
        process=machine.process_bytes,
    )


def _nearest(found: list[Candidate], parameters: float, chosen: Candidate) -> Candidate | None:
    """The candidate of about so many parameters, within a quarter; the law's best of those."""
    near = [one for one in found if 0.75 <= one.parameters / parameters <= 1.33 and one.shape != chosen.shape]
    return min(near, key=lambda one: abs(math.log(one.parameters / parameters)), default=None)


def _warnings(chosen: Candidate, corpus: CorpusSize, needed: float) -> list[str]:
    warnings = []
    epochs = chosen.tokens / max(1, corpus.tokens)
    lost = 1 - needed / chosen.tokens
    if epochs > 4:
        warnings.append(
            f"the corpus is read {epochs:.1f} times: {lost:.0%} of the training is worth nothing "
            "(Muennighoff et al. 2023); more documents would help more than more time"
        )
    elif epochs > 1.05:
        warnings.append(f"the corpus is read {epochs:.1f} times; up to 4 cost little ({lost:.1%} of the training)")
    if chosen.steps < 300:
        warnings.append(f"only {chosen.steps} steps: more time would help more than anything else")
    return warnings


def time_interval(seconds: float) -> tuple[float, float]:
    """Between which the time will lie on a machine that does nothing else."""
    return (seconds * (1 - _NOISE), seconds * (1 + _NOISE))
