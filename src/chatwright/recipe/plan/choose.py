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
from chatwright.train.footprint import static_bytes

_MEMORY_SHARE = 0.7  # of what is free: the rest is the system's and our error's
_FEWEST_STEPS = 50
_MICRO_TOKENS = {"cpu": 4096, "cuda": 65_536}  # at once; more gains nothing
EVALUATIONS = 6  # during a run
_HELDOUT_TOKENS = 8192
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
    seconds: float  # measurements on held-out text included
    score: float  # the law's, for ranking only
    step_seconds: float

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
        slower = step_seconds / chosen.step_seconds
        if not 1 / _TRUSTED < slower < _TRUSTED:
            # The probes met another machine than this step did; what they said of all sizes is moved alike.
            machine = machine.slowed(slower)
            found = affordable(machine, corpus, budget, law)
            chosen = _best_that_fits(found, machine)
            step_seconds = timer(chosen)
        chosen = _corrected(chosen, step_seconds, machine, budget)
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
    room = _MEMORY_SHARE * machine.memory_bytes
    small = (one for one in found if machine.process_bytes + static_bytes(one.shape) <= room)
    for one in sorted(small, key=lambda one: one.score):
        fewer = _within_room(one, machine, room)
        if fewer is not None:
            return fewer
    raise UsageError(
        f"no model fits the budget and {room / 1e9:.1f} GB of memory",
        hint=f"allow more time: at least {_FEWEST_STEPS} steps of the smallest model must fit",
    )


def _within_room(one: Candidate, machine: Machine, room: float) -> Candidate | None:
    """With as many rows at once as fit; those that a row's activations rule out are not counted one by one."""
    single = _memory(one._replace(micro_rows=1), machine)
    if single.total > room:
        return None
    base = single.process + single.weights + single.moments
    for rows in _divisors_down(one.micro_rows):
        fewer = one._replace(micro_rows=rows)
        if base + rows * single.activations <= room and _memory(fewer, machine).total <= room:
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
    made = Candidate(shape, 0, batch_rows, micro_rows, 0.0, 0.0, 0.0)
    step_seconds = cost.step_flops(shape, batch_rows * shape.context_length) / machine.flops_per_second(shape.width)
    made = _timed(made, step_seconds, budget)
    if made.steps < _FEWEST_STEPS:
        return None
    return made._replace(score=law.loss(made.parameters, effective_tokens(made.tokens, corpus.tokens)))


def _timed(candidate: Candidate, step_seconds: float, budget: Budget) -> Candidate:
    """Steps for the budget, time for measurements on held-out text left aside."""
    tokens = candidate.batch_rows * candidate.shape.context_length
    measuring = EVALUATIONS * _HELDOUT_TOKENS / tokens * step_seconds / 3  # forward only: a third of a step
    if budget.seconds is None:
        steps = math.ceil((budget.tokens or 0) / tokens)
    else:
        steps = int((budget.seconds - measuring) / step_seconds)
    return candidate._replace(
        step_seconds=step_seconds, steps=max(0, steps), seconds=max(0, steps) * step_seconds + measuring
    )


def _corrected(candidate: Candidate, step_seconds: float, machine: Machine, budget: Budget) -> Candidate:
    """The same shape with the steps that its own measured pace allows."""
    corrected = _timed(candidate, step_seconds, budget)
    if corrected.steps < 1:
        raise UsageError(
            f"a step takes {step_seconds:.1f} s on {machine.device}, longer than the budget", hint="allow more time"
        )
    return corrected


def _memory(candidate: Candidate, machine: Machine) -> cost.Memory:
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
