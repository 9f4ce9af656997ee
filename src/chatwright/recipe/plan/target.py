"""The other way round: not what a budget reaches, but what budget reaches a loss."""

import math
from collections.abc import Callable
from functools import partial

from chatwright.foundation.errors import UsageError
from chatwright.recipe.plan.choose import StepTimer, at_pace, choose_one, times_slower, with_alternatives
from chatwright.recipe.plan.corpus import CorpusSize
from chatwright.recipe.plan.machine import Machine
from chatwright.recipe.plan.proposal import Budget, Plan
from chatwright.recipe.plan.scaling import Law

_SHORTEST_S, _LONGEST_S = 30.0, 365 * 86_400.0
_STEP = 1.5  # from one budget tried to the next
_HALVINGS = 6  # between the last that was too short and the first that was not: to within a hundredth


def in_law_unit(target: float, law: Law, corpus: CorpusSize) -> float:
    """Bits per byte as the law counts: the published ones count nats a token."""
    if law.unit == "bits per byte":
        return target
    return target * math.log(2) * corpus.bytes_per_token


def plan_for(target: float, machine: Machine, corpus: CorpusSize, *, law: Law, timer: StepTimer | None = None) -> Plan:
    """The shortest plan whose expected loss is the target, in bits per byte.

    Args:
        target: bits per byte of held-out text.
        machine: as measured.
        corpus: how much text there is.
        law: what predicts.
        timer: measures a step of the plan that is found, whose time is then corrected by it; steps stay.

    Raises:
        UsageError: no budget that the law may speak of reaches it; the best it may promise is told.
    """
    plan = _search(target, law, corpus, partial(choose_one, machine, corpus, law=law))
    if timer is None:
        return _with_alternatives(plan)
    step_seconds = timer(plan.chosen)
    if (slower := times_slower(plan.chosen, step_seconds)) is not None:
        plan = _search(target, law, corpus, partial(choose_one, machine.slowed(slower), corpus, law=law))
        step_seconds = timer(plan.chosen)
    return at_pace(_with_alternatives(plan), step_seconds)


def _with_alternatives(plan: Plan) -> Plan:
    return with_alternatives(plan, Budget(seconds=plan.chosen.seconds))


def _search(target: float, law: Law, corpus: CorpusSize, plan_of: Callable[[Budget], Plan]) -> Plan:
    """Longer and longer budgets, until one reaches the target; nothing is measured anew."""
    wanted = in_law_unit(target, law, corpus)
    best, seconds = math.inf, _SHORTEST_S
    while seconds <= _LONGEST_S:
        plan = _attempt(plan_of, seconds)
        if plan is not None and plan.loss is not None:
            best = min(best, plan.loss)
            if plan.loss <= wanted:
                return _shortest(plan, seconds / _STEP, seconds, wanted, plan_of)
        seconds *= _STEP
    told = f"; the best that it may promise is {best:.3f} {law.unit}" if best < math.inf else ""
    raise UsageError(
        f"no budget reaches {target:g} bits per byte within what the law may predict{told}",
        hint="a higher target, more documents, or `--fit` with a larger `--budget`",
    )


def _shortest(plan: Plan, low: float, high: float, wanted: float, plan_of: Callable[[Budget], Plan]) -> Plan:
    """Halve what lies between a budget that is too short and one that suffices."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        shorter = _attempt(plan_of, middle)
        if shorter is not None and shorter.loss is not None and shorter.loss <= wanted:
            plan, high = shorter, middle
        else:
            low = middle
    return plan


def _attempt(plan_of: Callable[[Budget], Plan], seconds: float) -> Plan | None:
    try:
        return plan_of(Budget(seconds=seconds))
    except UsageError:  # too short for any model
        return None
