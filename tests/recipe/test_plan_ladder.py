"""A ladder keeps what its finished rungs reached: a call that was interrupted goes on, other tokens begin anew."""

from functools import partial

import pytest
from test_plan import TWO_CORES, corpus
from tiny_recipe import write_recipe

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.recipe.plan import Budget, Rung, affordable, climb, cost, kept_rungs, ladder_seconds, trainer_on
from chatwright.recipe.plan.proposal import Candidate
from chatwright.recipe.plan.room import fitted
from chatwright.recipe.plan.shapes import shape_of
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe


def found(*, slower=1.0):
    return affordable(TWO_CORES.slowed(slower), corpus(10**9), Budget(seconds=600))


def counting_trainer():
    trained = []

    def train(one, steps):
        trained.append((one.shape, steps))
        return 2.0 - one.parameters / 1e9 - steps / 1e9

    return train, trained


def test_a_ladder_that_was_interrupted_goes_on_though_the_machine_is_measured_anew():
    whole = climb(found(), 600, counting_trainer()[0])
    train, trained = counting_trainer()
    again = climb(found(slower=1.04), 600, train, kept=whole[:3])
    assert again[:3] == whole[:3]
    assert len(trained) == len(again) - 3 == len(whole) - 3
    assert climb(found(), 600, train, kept=whole) == whole


@pytest.mark.parametrize(("steps", "is_taken"), [(1.2, True), (0.85, True), (1.4, False), (0.7, False)])
def test_a_kept_rung_is_taken_for_one_of_nearly_its_length_only(steps, is_taken):
    first, *_ = climb(found(), 600, counting_trainer()[0])
    kept = first._replace(steps=round(steps * first.steps), bits_per_byte=1.0)
    rungs = climb(found(), 600, counting_trainer()[0], kept=[kept])
    assert (rungs[0] == kept) is is_taken


def test_of_another_batch_or_shape_nothing_is_taken():
    whole = climb(found(), 600, counting_trainer()[0])
    other = [rung._replace(batch_rows=2 * rung.batch_rows + 1, bits_per_byte=1.0) for rung in whole]
    assert climb(found(), 600, counting_trainer()[0], kept=other) == whole


@pytest.mark.parametrize("seconds", [600, 3600])
def test_a_ladder_takes_no_longer_than_is_said_before_it(seconds):
    took = []

    def train(one, steps):
        took.append(steps * one.step_seconds)
        return 2.0 - one.parameters / 1e9

    climb(affordable(TWO_CORES, corpus(10**9), Budget(seconds=seconds)), seconds, train)
    assert 0.8 * ladder_seconds(seconds) < sum(took) <= ladder_seconds(seconds)


def test_a_size_that_no_memory_holds_is_not_trained():
    largest = climb(found(), 600, counting_trainer()[0])[-1].shape
    needed = cost.memory(largest, micro_rows=1, precision="float32", process=TWO_CORES.process_bytes).total
    tight = TWO_CORES._replace(memory_bytes=int((needed - 1) / cost.MEMORY_SHARE))
    train, trained = counting_trainer()
    climb(found(), 600, train, hold=partial(fitted, machine=tight))
    sizes = {shape.num_parameters() for shape, _ in trained}
    assert len(sizes) > 1
    assert max(sizes) < largest.num_parameters()
    with pytest.raises(UsageError, match="memory is too small"):
        climb(found(), 600, train, hold=partial(fitted, machine=TWO_CORES._replace(memory_bytes=10**6)))


@pytest.mark.slow
def test_what_a_rung_reached_is_kept_under_its_tokens_and_its_precision(tmp_path):
    path, settings = write_recipe(tmp_path / "made"), [f"runs={tmp_path / 'runs'}"]
    recipe = load_recipe(path, settings)
    run_recipe(recipe, until="tokenize")
    place = {"precision": "float32", "device": "cpu"}
    assert kept_rungs(recipe.run_dir, **place) == ()
    vocabulary = storage.read_json(recipe.run_dir / "tokens" / "index.json")["vocabulary_size"]
    shape = shape_of(32, 2, vocabulary_size=vocabulary, context_length=16)
    one = Candidate(shape, 3, 4, 2, 0.0, 0.0, 0.0, 1.0)
    bits = trainer_on(recipe.run_dir, threads=1, **place)(one, 3)
    assert 0 < bits < 20
    assert kept_rungs(recipe.run_dir, **place) == (Rung(shape, 3, 4, bits),)
    assert kept_rungs(recipe.run_dir, precision="bfloat16", device="cpu") == ()
    run_recipe(load_recipe(path, [*settings, "clean.heldout_share=0.3"]), until="tokenize")
    assert kept_rungs(recipe.run_dir, **place) == ()
