"""Planning from small runs: a ladder that keeps to its budget, a law that finds the truth, targets, measured power."""

import math

import numpy as np
import pytest
import torch
from test_plan import TWO_CORES, corpus

from chatwright.foundation.errors import UsageError
from chatwright.recipe.plan import Budget, affordable, as_json, as_recipe, choose, climb, cost, fit, plan_for
from chatwright.recipe.plan.energy import EnergyMeter

TRUTH = {"floor": 0.9, "size": 0.55, "alpha": 0.3, "data": 1.1, "beta": 0.45, "together": 0.5}  # at a million of each


def true_bits(parameters, tokens):
    size = TRUTH["size"] * (parameters / 1e6) ** -TRUTH["alpha"]
    data = TRUTH["data"] * (tokens / 1e6) ** -TRUTH["beta"]
    inside = size ** (1 / TRUTH["together"]) + data ** (1 / TRUTH["together"])
    return TRUTH["floor"] + inside ** TRUTH["together"]


def trainer(*, noise=0.0, seed=0):
    generator = np.random.Generator(np.random.PCG64(seed))

    def train(one, steps):
        tokens = steps * one.batch_rows * one.shape.context_length
        return true_bits(one.parameters, tokens) * (1 + noise * generator.standard_normal())

    return train


def ladder(seconds=600, **options):
    return climb(affordable(TWO_CORES, corpus(10**9), Budget(seconds=seconds)), seconds, trainer(**options))


def test_a_ladder_has_several_sizes_and_lengths_and_keeps_to_its_share_of_the_budget():
    rungs = ladder()
    assert len({rung.parameters for rung in rungs}) >= 3
    assert len({rung.steps for rung in rungs if rung.parameters == rungs[0].parameters}) >= 2
    found = affordable(TWO_CORES, corpus(10**9), Budget(seconds=600))
    row_seconds = {one.shape: one.step_seconds / one.batch_rows for one in found}
    assert sum(rung.steps * rung.batch_rows * row_seconds[rung.shape] for rung in rungs) < 1.7 * 600


def test_a_short_rung_has_the_batch_of_its_own_compute():
    rungs = ladder(3600)
    (batch,) = {one.batch_rows for one in affordable(TWO_CORES, corpus(10**9), Budget(seconds=3600))}
    assert rungs[0].batch_rows < rungs[-1].batch_rows < batch
    assert all(rung.steps >= 50 for rung in rungs)


def test_a_budget_too_short_for_two_sizes_is_told():
    with pytest.raises(UsageError, match="too short"):
        climb(affordable(TWO_CORES, corpus(10**9), Budget(seconds=60)), 1, trainer())


def test_a_fitted_law_predicts_what_three_times_the_longest_run_gives():
    law = fit(ladder(noise=0.003), corpus_tokens=10**9)
    parameters, tokens = law.parameters[1], 3 * law.tokens[1]
    assert law.covers(parameters, tokens)
    assert law.loss(parameters, tokens) == pytest.approx(true_bits(parameters, tokens), rel=0.03)


def test_a_text_easier_than_all_floors_of_the_grid_is_fitted_too():
    easy = [rung._replace(bits_per_byte=rung.bits_per_byte / 8) for rung in ladder()]
    law = fit(easy, corpus_tokens=10**9)
    for rung in easy:
        assert law.loss(rung.parameters, rung.tokens) == pytest.approx(rung.bits_per_byte, rel=0.05)


def test_nine_of_ten_bands_hold_the_truth():
    inside = 0
    for seed in range(40):
        law = fit(ladder(noise=0.01, seed=seed), corpus_tokens=10**9)
        parameters, tokens = law.parameters[1], 3 * law.tokens[1]
        low, high = law.interval(parameters, tokens)
        inside += low <= true_bits(parameters, tokens) <= high
    assert inside >= 34


def test_more_parameters_and_more_tokens_are_never_expected_to_do_worse():
    law = fit(ladder(noise=0.02, seed=3), corpus_tokens=10**9)
    sizes = [law.loss(10**power, 1e6) for power in np.linspace(5, 7, 9)]
    tokens = [law.loss(1e6, 10**power) for power in np.linspace(5, 7, 9)]
    assert sizes == sorted(sizes, reverse=True)
    assert tokens == sorted(tokens, reverse=True)


def test_the_law_predicts_nothing_far_from_its_ladder_and_too_few_runs_are_refused():
    rungs = ladder()
    law = fit(rungs, corpus_tokens=10**9)
    assert not law.covers(100 * law.parameters[1], law.tokens[1])
    assert not law.covers(law.parameters[1], 100 * law.tokens[1])
    with pytest.raises(UsageError, match="decides nothing"):
        fit(rungs[:3], corpus_tokens=10**9)


def test_a_plan_by_a_fitted_law_tells_its_loss_with_a_band_in_the_recipe_too():
    law = fit(ladder(noise=0.003), corpus_tokens=10**9)
    plan = choose(TWO_CORES, corpus(10**9), Budget(seconds=600), law=law)
    predicted = as_json(plan)["predicted"]
    assert predicted["loss_interval"][0] < predicted["loss"] < predicted["loss_interval"][1]
    assert predicted["loss"] == pytest.approx(true_bits(plan.chosen.parameters, plan.chosen.tokens), rel=0.03)
    assert "nine times of ten between" in as_recipe(plan)
    assert plan.chosen.score <= min(one.score for one in (plan.half, plan.double) if one is not None)


def test_a_target_is_reached_by_the_shortest_budget_and_an_impossible_one_tells_the_best():
    law = fit(ladder(noise=0.003), corpus_tokens=10**9)
    goal = choose(TWO_CORES, corpus(10**9), Budget(seconds=600), law=law).loss
    plan = plan_for(goal, TWO_CORES, corpus(10**9), law=law)
    assert plan.loss <= goal
    assert plan.chosen.seconds < 700
    with pytest.raises(UsageError, match="the best that it may promise"):
        plan_for(0.2, TWO_CORES, corpus(10**9), law=law)


def test_the_plan_of_a_target_has_the_time_that_its_own_step_was_measured_to_take():
    law, timed = fit(ladder(noise=0.003), corpus_tokens=10**9), []
    goal = choose(TWO_CORES, corpus(10**9), Budget(seconds=60), law=law).loss

    def timer(candidate):  # a third of what the probes said
        timed.append(candidate.shape)
        pace = TWO_CORES.flops_per_second(candidate.shape.width) / 3
        return cost.step_flops(candidate.shape, candidate.batch_rows * candidate.shape.context_length) / pace

    plan = plan_for(goal, TWO_CORES, corpus(10**9), law=law, timer=timer)
    assert plan.loss <= goal
    assert plan.chosen.shape == timed[-1]
    assert plan.chosen.training_seconds == pytest.approx(plan.chosen.steps * timer(plan.chosen))
    assert 150 < plan.chosen.seconds < 200


def test_power_is_read_from_the_counters_of_whole_processors_and_is_unknown_without_them(tmp_path):
    zone = tmp_path / "intel-rapl:0"
    part = tmp_path / "intel-rapl:0:0"
    for place in (zone, part):
        place.mkdir()
        (place / "energy_uj").write_text("900")
        (place / "max_energy_range_uj").write_text("1000")
    meter = EnergyMeter(torch.device("cpu"), powercap=tmp_path)
    (zone / "energy_uj").write_text("100")  # began anew: 200 microjoules were spent
    watts = meter.watts()
    assert watts is not None
    assert 0 < watts < math.inf
    assert EnergyMeter(torch.device("cpu"), powercap=tmp_path / "none").watts() is None


def test_a_gpu_that_refuses_to_tell_its_power_ends_no_plan(monkeypatch, tmp_path):
    class NVMLError(Exception):  # as in `pynvml`, of no other base
        pass

    def refused(device):
        raise NVMLError("Not Supported")

    monkeypatch.setattr(torch.cuda, "power_draw", refused)
    assert EnergyMeter(torch.device("cuda"), powercap=tmp_path).watts() is None


def test_one_reading_of_power_is_not_told_as_the_whole_trainings():
    text = as_recipe(choose(TWO_CORES._replace(watts=60.0), corpus(), Budget(seconds=600)))
    assert "kWh if it draws throughout the 60 W read while small models were timed" in text
    assert "W measured" not in text
    plan = choose(TWO_CORES, corpus(), Budget(seconds=600))
    assert "no counters of RAPL" in as_recipe(plan)
    on_gpu = plan._replace(machine=TWO_CORES._replace(kind="cuda"))
    assert "the package `nvidia-ml-py` is not installed" in as_recipe(on_gpu)
