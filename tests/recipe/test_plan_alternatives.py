"""Half and double the size beside a plan's choice: at its measured pace, as memory holds them, told to be compared."""

import pytest
from test_plan import TWO_CORES, corpus

from chatwright.recipe.plan import PUBLISHED, Budget, affordable, as_json, as_recipe, choose, climb, cost, fit, plan_for

MANY = corpus(10**9)
HOUR = Budget(seconds=3600)


def probed_seconds(one):
    flops = cost.step_flops(one.shape, one.batch_rows * one.shape.context_length)
    return flops / TWO_CORES.flops_per_second(one.shape.width)


def law_of_a_ladder():
    """Fitted to rungs whose losses follow a rule."""

    def train(one, steps):
        tokens = steps * one.batch_rows * one.shape.context_length
        return 0.9 + 0.5 * (one.parameters / 1e6) ** -0.3 + (tokens / 1e6) ** -0.4

    found = affordable(TWO_CORES, MANY, Budget(seconds=600))
    return fit(climb(found, 600, train), corpus_tokens=10**9)


@pytest.mark.parametrize("times", [1.2, 0.85])
def test_a_measured_step_moves_the_sizes_beside_it_by_the_same_share(times):
    untimed = choose(TWO_CORES, MANY, HOUR)
    plan = choose(TWO_CORES, MANY, HOUR, timer=lambda one: times * probed_seconds(one))
    assert plan.chosen.step_seconds == pytest.approx(times * probed_seconds(plan.chosen))
    for one, before in ((plan.half, untimed.half), (plan.double, untimed.double)):
        assert one.shape == before.shape
        assert one.step_seconds == pytest.approx(times * before.step_seconds)
        assert one.steps == pytest.approx(before.steps / times, rel=0.01)
        assert 0.95 * 3600 < one.seconds <= 3600
    assert plan.chosen.score == pytest.approx(PUBLISHED.loss(plan.chosen.parameters, plan.chosen.tokens))


def test_the_plan_of_a_target_moves_them_too():
    law = law_of_a_ladder()
    goal = choose(TWO_CORES, MANY, Budget(seconds=120), law=law).loss
    plan = plan_for(goal, TWO_CORES, MANY, law=law, timer=lambda one: 1.2 * probed_seconds(one))
    for one in (plan.half, plan.double):
        assert one.step_seconds == pytest.approx(1.2 * probed_seconds(one))
        assert one.seconds == pytest.approx(plan.chosen.seconds, rel=0.05)


def test_a_size_that_no_memory_holds_is_not_proposed_and_said_to_be_too_large():
    double = choose(TWO_CORES, MANY, HOUR).double
    needed = cost.memory(double.shape, micro_rows=1, precision="float32", process=TWO_CORES.process_bytes).total
    tight = TWO_CORES._replace(memory_bytes=int((needed - 1) / cost.MEMORY_SHARE))
    plan = choose(tight, MANY, HOUR)
    assert plan.chosen.shape == choose(TWO_CORES, MANY, HOUR).chosen.shape
    assert (plan.double, plan.too_large) == (None, ("double",))
    assert plan.half is not None
    told = as_json(plan)
    assert set(told["alternatives"]) == {"half"}
    assert told["too_large"] == ["double"]
    assert "# double:    does not fit in" in told["recipe"]


def test_a_larger_size_beside_the_choice_takes_fewer_rows_at_once_where_memory_is_short():
    free = choose(TWO_CORES, MANY, HOUR).double
    needed = cost.memory(free.shape, micro_rows=1, precision="float32", process=TWO_CORES.process_bytes).total
    tight = choose(TWO_CORES._replace(memory_bytes=int(1.01 * needed / cost.MEMORY_SHARE)), MANY, HOUR)
    assert tight.double.shape == free.shape
    assert tight.double.micro_rows < free.micro_rows


def test_the_printed_lines_tell_what_each_size_takes_and_promises():
    law = law_of_a_ladder()
    plan = choose(TWO_CORES, MANY, Budget(seconds=600), law=law)
    told = as_recipe(plan)
    assert law.covers(plan.half.parameters, plan.half.tokens)
    assert law.covers(plan.double.parameters, plan.double.tokens)
    assert told.count(" min") >= 6  # two ends of a time for each of the three
    assert told.count("nine times of ten between") == 3
    beside = as_json(plan)["alternatives"]["half"]
    assert beside["loss_interval"][0] < beside["loss"] < beside["loss_interval"][1]
    assert beside["loss"] == pytest.approx(plan.law.loss(plan.half.parameters, plan.half.tokens), abs=1e-4)
    assert as_recipe(choose(TWO_CORES, MANY, Budget(seconds=600))).count("loss not predicted") == 3
