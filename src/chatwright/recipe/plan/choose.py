"""The choice: of all shapes, the one that the loss law expects most of within the budget; half and double beside it."""

import math
from collections.abc import Callable

from chatwright.foundation.console import say
from chatwright.foundation.devices import place
from chatwright.foundation.errors import UsageError
from chatwright.model.config import ModelConfig
from chatwright.recipe.plan import cost, shapes
from chatwright.recipe.plan.corpus import CorpusSize
from chatwright.recipe.plan.machine import Machine, time_step
from chatwright.recipe.plan.proposal import Budget, Candidate, Plan
from chatwright.recipe.plan.room import fitted, memory_of, room_of
from chatwright.recipe.plan.scaling import PUBLISHED, Law, effective_tokens

_FEWEST_STEPS = 50
_MICRO_TOKENS = {"cpu": 4096, "cuda": 65_536}  # at once; more gains nothing
_MEASUREMENTS = 6  # at most, after the one before the first step
_MOST_LOST_S = 600.0  # of training, by a crash
_TIMED_PARTS = 2
_TIMED_STEPS = 5
_TRUSTED = 1.25  # a chosen step may differ from the probes' by this before they are corrected
_NOISE = 0.1  # of predicted time, either way: what a machine of one's own varies by

StepTimer = Callable[[Candidate], float]


def choose(
    machine: Machine, corpus: CorpusSize, budget: Budget, *, law: Law = PUBLISHED, timer: StepTimer | None = None
) -> Plan:
    """Choose shape, batch and length for a budget, and set half and double the size beside them.

    Args:
        machine: as measured.
        corpus: how much text there is.
        budget: time or tokens.
        law: ranks sizes; predicts the loss within the range it was fitted to.
        timer: measures a step of the chosen shape; without it, seconds are the probes' extrapolation.

    Raises:
        UsageError: nothing fits the budget or the memory.
    """
    return with_alternatives(choose_one(machine, corpus, budget, law=law, timer=timer), budget)


def choose_one(
    machine: Machine, corpus: CorpusSize, budget: Budget, *, law: Law = PUBLISHED, timer: StepTimer | None = None
) -> Plan:
    """The same with nothing beside the choice, for whoever tries many budgets."""
    chosen = _best_that_fits(affordable(machine, corpus, budget, law), machine)
    if timer is not None:
        step_seconds = timer(chosen)
        if (slower := times_slower(chosen, step_seconds)) is not None:
            machine = machine.slowed(slower)
            chosen = _best_that_fits(affordable(machine, corpus, budget, law), machine)
            step_seconds = timer(chosen)
        chosen = _scored(_corrected(chosen, step_seconds, machine, corpus, budget), corpus, law)
    return Plan(
        chosen=chosen,
        half=None,
        double=None,
        too_large=(),
        memory=memory_of(chosen, machine),
        machine=machine,
        corpus=corpus,
        law=law,
        warnings=tuple(_warnings(chosen, corpus)),
    )


def with_alternatives(plan: Plan, budget: Budget) -> Plan:
    """The plan with half and double the size of its choice beside it, in the same budget and as memory holds them.

    Their steps were not timed: they take what the probes said, times what the chosen step took of that.
    """
    machine, chosen = plan.machine, plan.chosen
    found = affordable(machine, plan.corpus, budget, plan.law)
    sizes = {"half": chosen.parameters / 2, "double": chosen.parameters * 2}
    near = {name: _nearest(found, size, chosen) for name, size in sizes.items()}
    held = {name: None if one is None else fitted(one, machine) for name, one in near.items()}
    times = chosen.step_seconds / _probed_seconds(chosen, machine)

    def paced(one: Candidate | None) -> Candidate | None:
        if one is None:
            return None
        made = _timed(one, times * one.step_seconds, _measured_tokens(machine, plan.corpus), budget)
        return _scored(made, plan.corpus, plan.law) if made.steps >= _FEWEST_STEPS else None

    too_large = tuple(name for name, one in near.items() if one is not None and held[name] is None)
    return plan._replace(half=paced(held["half"]), double=paced(held["double"]), too_large=too_large)


def times_slower(candidate: Candidate, step_seconds: float) -> float | None:
    """How much slower a measured step is than the probes said; None where they differ by no more than they may.

    Else the probes met another machine than this step did, and what they said of all sizes is moved alike.
    """
    slower = step_seconds / candidate.step_seconds
    return None if 1 / _TRUSTED < slower < _TRUSTED else slower


def at_pace(plan: Plan, step_seconds: float) -> Plan:
    """The same trainings, and the time they take where the chosen one's step takes so long."""
    times = step_seconds / plan.chosen.step_seconds
    measured = _measured_tokens(plan.machine, plan.corpus)

    def paced(one: Candidate | None) -> Candidate | None:
        return None if one is None else _paced(one, times * one.step_seconds, measured)

    chosen = _paced(plan.chosen, step_seconds, measured)
    return plan._replace(chosen=chosen, half=paced(plan.half), double=paced(plan.double))


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
    if not found:
        raise UsageError(
            "the budget is too short to train any model",
            hint=f"allow more: {_FEWEST_STEPS} steps of the smallest model must fit",
        )
    for one in sorted(found, key=lambda one: one.score):
        held = fitted(one, machine)
        if held is not None:
            return held
    raise UsageError(
        f"no model fits in {room_of(machine) / 1e9:.1f} GB, all that a plan takes of the memory",
        hint="free memory, or plan for other machines by `--on`",
    )


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
    made = _timed(made, _probed_seconds(made, machine), _measured_tokens(machine, corpus), budget)
    return _scored(made, corpus, law) if made.steps >= _FEWEST_STEPS else None


def _probed_seconds(candidate: Candidate, machine: Machine) -> float:
    """Of a step, as the probes of other sizes say."""
    flops = cost.step_flops(candidate.shape, candidate.step_tokens)
    return flops / machine.flops_per_second(candidate.shape.width)


def _scored(candidate: Candidate, corpus: CorpusSize, law: Law) -> Candidate:
    """Ranked by the law, for the steps that it has."""
    return candidate._replace(score=law.loss(candidate.parameters, effective_tokens(candidate.tokens, corpus.tokens)))


def _measured_tokens(machine: Machine, corpus: CorpusSize) -> int:
    """Held-out tokens of one measurement: each device reads all of them."""
    return machine.num_devices * corpus.heldout_tokens


def _timed(candidate: Candidate, step_seconds: float, measured: int, budget: Budget) -> Candidate:
    """Steps for the budget, time for measurements on held-out text left aside."""
    if budget.seconds is None:
        steps = math.ceil((budget.tokens or 0) / candidate.step_tokens)
    else:
        measuring = (1 + _MEASUREMENTS) * _measurement_seconds(candidate, step_seconds, measured)
        steps = int((budget.seconds - measuring) / step_seconds)
    return _paced(candidate._replace(steps=max(0, steps)), step_seconds, measured)


def _paced(candidate: Candidate, step_seconds: float, measured: int) -> Candidate:
    """The same steps with what they and the measurements take where a step takes so long."""
    measuring = num_measurements(candidate.steps) * _measurement_seconds(candidate, step_seconds, measured)
    training = candidate.steps * step_seconds
    return candidate._replace(step_seconds=step_seconds, training_seconds=training, measuring_seconds=measuring)


def _measurement_seconds(candidate: Candidate, step_seconds: float, measured: int) -> float:
    """Of one measurement over so many tokens: forward only, a third of the network's part of a step."""
    forward = measured * candidate.shape.flops_per_token() / 3
    return forward / cost.step_flops(candidate.shape, candidate.step_tokens) * step_seconds


def measure_every(steps: int) -> int:
    """Steps between two measurements of a planned training."""
    return max(1, -(-steps // _MEASUREMENTS))


def save_every(candidate: Candidate) -> int:
    """Steps between two checkpoints: at each measurement, or sooner where that would lose more than a crash may."""
    return max(1, min(measure_every(candidate.steps), int(_MOST_LOST_S / candidate.step_seconds)))


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


def _nearest(found: list[Candidate], parameters: float, chosen: Candidate) -> Candidate | None:
    """The candidate nearest to so many parameters, within a quarter of them."""
    near = [one for one in found if 0.75 <= one.parameters / parameters <= 1.33 and one.shape != chosen.shape]
    return min(near, key=lambda one: abs(math.log(one.parameters / parameters)), default=None)


def _warnings(chosen: Candidate, corpus: CorpusSize) -> list[str]:
    warnings = []
    epochs = chosen.tokens / max(1, corpus.tokens)
    lost = 1 - effective_tokens(chosen.tokens, corpus.tokens) / chosen.tokens
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
