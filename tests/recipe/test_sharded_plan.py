"""Plans for many devices are counted by the training's own code: they must agree with arithmetic, and with memory here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.model.families import to_hugging_face
from chatwright.recipe.plan.accelerators import FREE_SHARE, fleet_of
from chatwright.recipe.plan.cost import Memory
from chatwright.recipe.plan.shapes import shape_of
from chatwright.recipe.plan.sharded import Shape, advise, count, model_of

PROGRAM = Path(__file__).with_name("step_memory.py")
SMALL = shape_of(128, 3, vocabulary_size=512, context_length=64)


def counted(parallel, ranks, *, num_micro=1, precision="bfloat16", recompute=False):
    return count(Shape(SMALL, ranks, 8, parallel, 2, num_micro, precision, recompute))


@pytest.mark.slow
def test_whole_replicas_hold_everything_and_send_two_gradients_worth():
    found = counted("ddp", 8)
    total = 4 * SMALL.num_parameters()
    assert found.weights == found.gradients == total
    assert found.sent["all_reduce"] == pytest.approx(2 * total * 7 / 8, rel=0.01)
    assert found.messages == 1


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [8, 64])
def test_shards_hold_their_share_and_gather_parameters_twice(ranks):
    found = counted("fsdp", ranks, num_micro=2)
    total = SMALL.num_parameters()
    blocks = SMALL.layers * SMALL.block_matrices()
    assert found.weights == pytest.approx(4 * total / ranks, rel=0.15)  # rows that do not divide evenly
    others = (ranks - 1) / ranks
    assert found.sent["reduce_scatter"] == pytest.approx(2 * 4 * total * others, rel=0.1)
    # Embedding and projection stay gathered between forward and backward, and so does the last block.
    assert 2 * 2 * total * others <= found.sent["all_gather"] <= 1.1 * 2 * 2 * (total + blocks) * others
    assert 0 < found.sent["all_to_all"] <= 1.2 * 2 * 4 * blocks / ranks


@pytest.mark.slow
def test_replicas_of_shards_sum_between_machines():
    found = counted("hsdp", 64)
    assert found.weights == pytest.approx(4 * SMALL.num_parameters() / 8, rel=0.05)
    assert found.sent["all_reduce"] == pytest.approx(2 * 4 * SMALL.num_parameters() / 8 * 7 / 8, rel=0.1)


@pytest.mark.slow
def test_recomputed_blocks_keep_little_more_than_their_inputs():
    kept, again = (counted("fsdp", 8, recompute=recompute).activations for recompute in (False, True))
    assert again < kept / 3


GIGABYTE = 10**9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("held", "name", "said"),
    [
        (Memory(GIGABYTE, GIGABYTE, GIGABYTE, GIGABYTE, 0, 0), "h100x8", "none needed"),
        (Memory(90 * GIGABYTE, 0, 0, GIGABYTE, 0, 0), "h100x8", 'parallel = "fsdp"'),
        (Memory(0, 0, 0, 90 * GIGABYTE, 0, 0), "h100x2", "not enough"),  # activations are each device's own
    ],
)
def test_shards_are_advised_where_a_device_cannot_hold_the_model(held, name, said):
    found = advise(fleet_of(name), SMALL, held)
    assert said in found.advice
    counted_there = counted("fsdp", fleet_of(name).num_devices)
    parts = (counted_there.weights, counted_there.gradients, counted_there.moments)
    assert found.replicated_bytes == held.total
    assert found.sharded_bytes == Memory(*parts, held.activations, 0, 0, counted_there.gathered).total


def test_one_device_is_nothing_to_spread_over():
    held = Memory(GIGABYTE, GIGABYTE, GIGABYTE, GIGABYTE, 0, 0)
    assert advise(fleet_of("h100"), SMALL, held)[:2] == (held.total, held.total)


def test_an_unknown_size_names_the_known_ones():
    with pytest.raises(UsageError) as caught:
        model_of("9b")
    assert "70b" in caught.value.hint


def test_a_recipe_that_begins_from_a_model_has_that_models_shape(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "tuned"\n[base]\nmodel = "base"\n')
    with pytest.raises(UsageError, match="begins from a model that is not there"):
        model_of(str(recipe))
    (tmp_path / "base").mkdir()
    storage.write_json(tmp_path / "base" / "config.json", to_hugging_face(SMALL, begin=0, ends=[0], pad=0))
    found = model_of(str(recipe))
    assert found.num_parameters() == SMALL.num_parameters()
    assert (found.width, found.layers) == (SMALL.width, SMALL.layers)


@pytest.mark.slow
def test_what_is_counted_agrees_with_the_memory_of_a_real_step_within_a_tenth():
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, env=settings, check=True, timeout=240
    )
    for name, (measured, predicted) in json.loads(done.stdout).items():
        assert measured == pytest.approx(predicted, rel=0.1), name


@pytest.mark.slow
def test_the_recipe_of_gpt2_small_needs_what_it_says_and_fits_the_gpu_that_it_names():
    path = Path(__file__).parents[2] / "recipes" / "gpt2-small.toml"
    said = re.search(r"One GPU of (\d+) GB .* counts (\d+) GB with (\d+) rows", path.read_text(encoding="utf-8"))
    gpu, needed, rows = (int(number) for number in said.groups())
    shape = Shape(model_of(str(path)), 1, 1, "ddp", rows, 1, "bfloat16", recompute=False)
    assert count(shape).memory / 1e9 == pytest.approx(needed, abs=0.5)
    assert count(shape._replace(micro_rows=2 * rows)).memory < FREE_SHARE * gpu * 1e9
