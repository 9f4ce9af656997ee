"""The planner: formulas against hand-computed values and real tensors, choices that hold, recipes that run."""

import functools
import json
import math
import os
import tomllib

import pytest
import torch
from tiny_recipe import write_recipe

from chatwright.data import limits
from chatwright.data.sources import Files, list_partitions
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, UsageError
from chatwright.foundation.memory import available_bytes
from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.recipe.plan import Budget, advise, as_json, as_recipe, choose, cost, effective_tokens, size_of_documents
from chatwright.recipe.plan import corpus as corpora
from chatwright.recipe.plan.choose import measure_every, num_measurements, save_every
from chatwright.recipe.plan.corpus import CorpusSize, size_of_run
from chatwright.recipe.plan.machine import Machine, StepRate, free_memory, rate_at, resident_bytes
from chatwright.recipe.plan.scaling import PUBLISHED
from chatwright.recipe.plan.shapes import batch_tokens_for, candidates
from chatwright.recipe.preview import preview
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe
from chatwright.tokens.shards import TokenData
from chatwright.train import fitting
from chatwright.train.batches import MicroBatch
from chatwright.train.objectives import next_token

# Rates like those in docs/log.md: two cores.
TWO_CORES = Machine(
    device="cpu",
    kind="cpu",
    precision="float32",
    precision_reason="as the test says",
    threads=2,
    matmul={"float32 1024": 1.9e11},
    bytes_per_second=2e10,
    memory_bytes=20_000_000_000,
    process_bytes=300_000_000,
    rates=(StepRate(64, 2, 0.15, 5e10), StepRate(128, 4, 0.4, 8e10), StepRate(256, 4, 1.0, 1.1e11)),
    seconds=20.0,
)


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "one.txt").write_text("The ferry leaves at nine in the morning and comes back at six. " * 200)
    return folder


def corpus(tokens=5_000_000, folder="documents"):
    sections = {
        "collect": {"sources": [{"kind": "files", "path": str(folder)}]},
        "tokenizer": {"vocabulary_size": 4096},
    }
    return CorpusSize(tokens, 3.5, 4096, "the test's", "planned", sections)


def test_the_published_law_gives_the_loss_of_chinchilla():
    assert PUBLISHED.loss(70e9, 1.4e12) == pytest.approx(1.8172 + 482.01 / 70e9**0.3478 + 2085.43 / 1.4e12**0.3658)
    assert 1.9 < PUBLISHED.loss(70e9, 1.4e12) < 2.0


def test_the_law_predicts_nothing_outside_the_runs_it_was_fitted_to():
    assert PUBLISHED.covers(1e9, 2e10)
    assert not PUBLISHED.covers(1e6, 2e10)
    assert not PUBLISHED.covers(1e9, 1e6)


def test_four_epochs_are_worth_nearly_four_and_a_hundred_never_more_than_seventeen():
    assert effective_tokens(500, 1000) == 500
    assert effective_tokens(4000, 1000) == pytest.approx(1000 + 1000 * 15.387939 * (1 - math.exp(-3 / 15.387939)))
    assert effective_tokens(4000, 1000) > 3700
    assert effective_tokens(100_000, 1000) < 1000 * 16.4


def test_between_probes_the_rate_lies_between_and_beyond_them_it_stays():
    assert rate_at(TWO_CORES.rates, 32) == 5e10
    assert 8e10 < rate_at(TWO_CORES.rates, 192) < 1.1e11
    assert rate_at(TWO_CORES.rates, 128) == pytest.approx(8e10)
    assert rate_at(TWO_CORES.rates, 4096) == 1.1e11


@pytest.mark.parametrize("rows", [1, 3])
def test_counted_activations_equal_what_autograd_keeps_for_real_tensors(rows):
    shape = ModelConfig(
        vocabulary_size=300, layers=3, width=32, heads=4, key_heads=2, head_width=8, mlp_width=48, context_length=32
    )
    network = Network(shape)
    kept = {}
    ids = torch.zeros(rows, shape.context_length, dtype=torch.long)

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        next_token(network, MicroBatch(ids, ids, ids.numel()))
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    assert cost.memory(shape, micro_rows=rows, precision="float32").activations == real


def test_muons_operations_are_those_of_its_matrix_products():
    shape = ModelConfig(width=64, layers=2, heads=2, key_heads=2, head_width=32, mlp_width=160, vocabulary_size=300)
    attention = 4 * (4 * 64 * 64 * 64 + 2 * 64**3)
    mlp = 3 * (4 * 64 * 64 * 160 + 2 * 64**3)
    assert cost.muon_flops(shape) == 2 * 5 * (attention + mlp)


def test_every_candidate_is_a_sound_shape_with_whole_heads():
    listed = list(candidates(vocabulary_size=4096, context_length=256))
    assert len(listed) > 50
    for shape in listed:
        assert not list(shape.problems())
        assert shape.heads * shape.head_width == shape.width


def test_more_compute_takes_a_larger_batch():
    assert batch_tokens_for(1e18) > batch_tokens_for(1e13) > 1000


def test_more_time_buys_a_larger_model_and_more_tokens():
    short, long = (choose(TWO_CORES, corpus(10**9), Budget(seconds=seconds)) for seconds in (300, 30_000))
    assert long.chosen.parameters > short.chosen.parameters
    assert long.chosen.tokens > short.chosen.tokens
    for plan, seconds in ((short, 300), (long, 30_000)):
        assert plan.chosen.seconds == pytest.approx(seconds, rel=0.05)
        assert plan.memory.total < TWO_CORES.memory_bytes


def test_half_and_double_stand_beside_the_choice_and_the_law_prefers_neither():
    plan = choose(TWO_CORES, corpus(10**9), Budget(seconds=3600))
    assert plan.half.parameters / plan.chosen.parameters == pytest.approx(0.5, rel=0.35)
    assert plan.double.parameters / plan.chosen.parameters == pytest.approx(2, rel=0.35)
    assert plan.chosen.score <= min(plan.half.score, plan.double.score)


def test_a_measured_step_decides_the_number_of_steps():
    plan = choose(TWO_CORES, corpus(), Budget(seconds=600), timer=lambda candidate: 1.5)
    assert 360 <= plan.chosen.steps <= 400
    assert plan.chosen.seconds == pytest.approx(600, abs=2)
    assert plan.chosen.training_seconds == 1.5 * plan.chosen.steps


@pytest.mark.parametrize("steps", [1, 5, 6, 7, 60, 61, 100, 6000])
def test_a_planned_training_is_measured_as_often_as_its_loop_does(steps):
    every = measure_every(steps)
    by_loop = 1 + sum(step % every == 0 or step == steps for step in range(1, steps + 1))
    assert num_measurements(steps) == by_loop <= 7


def pretraining_of(plan):
    return tomllib.loads(as_recipe(plan))["pretrain"]


@pytest.mark.parametrize("budget", [Budget(seconds=12 * 3600), Budget(tokens=10**9)])
def test_a_crash_of_a_long_planned_training_loses_ten_minutes_at_most(budget):
    plan = choose(TWO_CORES, corpus(10**9), budget)
    section = pretraining_of(plan)
    every, seconds = section["checkpoint_every"], plan.chosen.step_seconds
    assert every * seconds <= 600 < (every + 1) * seconds
    assert section["evaluate_every"] == measure_every(section["steps"]) > every


def test_a_short_planned_training_saves_where_it_measures_and_one_of_endless_steps_at_each():
    short = choose(TWO_CORES, corpus(10**9), Budget(seconds=600))
    assert pretraining_of(short)["checkpoint_every"] == pretraining_of(short)["evaluate_every"]
    assert save_every(short.chosen._replace(step_seconds=3600.0)) == 1


def test_a_planned_recipe_names_the_device_that_was_asked_for_and_no_other():
    assert "device" not in pretraining_of(choose(TWO_CORES, corpus(), Budget(seconds=600)))
    asked = choose(TWO_CORES._replace(asked="cpu"), corpus(), Budget(seconds=600))
    assert pretraining_of(asked)["device"] == "cpu"


def test_measurements_are_predicted_apart_and_cost_a_third_of_training_on_as_many_tokens():
    size = corpus(10**9)._replace(heldout_tokens=300_000)
    chosen = choose(TWO_CORES, size, Budget(seconds=3600)).chosen
    of_step = size.heldout_tokens * chosen.shape.flops_per_token() / 3
    once = of_step / cost.step_flops(chosen.shape, chosen.tokens // chosen.steps) * chosen.step_seconds
    assert chosen.measuring_seconds == pytest.approx(num_measurements(chosen.steps) * once)
    assert chosen.seconds == chosen.training_seconds + chosen.measuring_seconds <= 3600
    predicted = as_json(choose(TWO_CORES, size, Budget(seconds=3600)))["predicted"]
    assert predicted["seconds"] == pytest.approx(
        predicted["training_seconds"] + predicted["measuring_seconds"], abs=0.2
    )


def test_probes_that_met_a_busy_machine_are_corrected_by_the_chosen_step():
    honest = choose(TWO_CORES, corpus(10**9), Budget(seconds=3600))
    busy = TWO_CORES.slowed(10)
    corrected = choose(busy, corpus(10**9), Budget(seconds=3600), timer=lambda one: one.step_seconds / 10)
    assert corrected.chosen.parameters > choose(busy, corpus(10**9), Budget(seconds=3600)).chosen.parameters
    assert corrected.double.tokens > honest.double.tokens / 2


def test_a_small_corpus_is_warned_of_with_the_cost_of_repeating():
    plan = choose(TWO_CORES, corpus(100_000), Budget(seconds=1200))
    assert plan.epochs > 4
    assert any("Muennighoff" in warning for warning in plan.warnings)
    assert plan.repeats_worth < 0.95


def test_a_budget_of_tokens_is_kept():
    plan = choose(TWO_CORES, corpus(), Budget(tokens=3_000_000))
    per_step = plan.chosen.batch_rows * plan.chosen.shape.context_length
    assert 0 <= plan.chosen.tokens - 3_000_000 < per_step


def test_too_little_memory_takes_fewer_rows_at_once_and_far_too_little_is_refused():
    full = choose(TWO_CORES, corpus(), Budget(seconds=1200))
    needed = full.memory.total
    tight = choose(TWO_CORES._replace(memory_bytes=needed), corpus(), Budget(seconds=1200))
    assert tight.chosen.batch_rows == full.chosen.batch_rows
    assert tight.chosen.micro_rows < full.chosen.micro_rows
    with pytest.raises(UsageError, match="no model fits"):
        choose(TWO_CORES._replace(memory_bytes=1_000_000), corpus(), Budget(seconds=1200))


def test_a_budget_too_short_for_any_model_is_told_as_such():
    for budget in (Budget(tokens=1000), Budget(seconds=1)):
        with pytest.raises(UsageError, match="budget is too short") as refused:
            choose(TWO_CORES, corpus(), budget)
        assert "50 steps" in refused.value.hint


def test_the_recipe_of_a_plan_passes_the_dry_run(tmp_path, documents):
    plan = choose(TWO_CORES, corpus(folder=documents), Budget(seconds=600))
    path = tmp_path / "planned.toml"
    path.write_text(as_recipe(plan))
    found = preview(load_recipe(path, [f"runs={tmp_path / 'runs'}"]))
    assert found["model"]["parameters"] == plan.chosen.parameters
    assert found["pretrain"]["tokens"] == plan.chosen.tokens
    assert as_json(plan)["recipe"] == as_recipe(plan)


def test_documents_are_sampled_and_their_tokens_estimated(documents):
    size = size_of_documents(documents, vocabulary_size=400)
    text = (documents / "one.txt").stat().st_size
    assert size.tokens == pytest.approx(0.9 * text / size.bytes_per_token, rel=0.01)
    assert "100%" in size.how


def write_lines(folder, *, number):
    """Lines of JSON of one size, half of each something other than text."""
    folder.mkdir()
    lines = [
        {"text": f"The ferry number {line:06d} leaves at nine. " * 20, "about": "x" * 800} for line in range(number)
    ]
    (folder / "large.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Files(path=str(folder)), sum(len(line["text"]) for line in lines)


@pytest.mark.parametrize(
    ("characters", "seconds", "piece"), [(100_000, 60.0, 1 << 24), (10**9, 0.0, 1 << 24), (200_000, 60.0, 300_000)]
)
def test_a_large_file_is_read_in_part_and_judged_by_the_share_that_was_read(
    tmp_path, monkeypatch, characters, seconds, piece
):
    source, total = write_lines(tmp_path / "lines", number=2000)
    monkeypatch.setattr(limits, "PARTITION_BYTES", piece)
    monkeypatch.setattr(corpora, "_SAMPLE_CHARACTERS", characters)
    monkeypatch.setattr(corpora, "_SAMPLE_S", seconds)
    partitions = list_partitions(source)
    found = corpora._sample(source, partitions)
    taken = sum(map(len, found.texts))
    assert taken <= characters + 1000
    assert len(found.texts) < 300
    share = found.read_bytes / sum(entry["bytes"] for one in partitions for entry in one.inputs)
    assert share == pytest.approx(taken / total, rel=0.001)


def test_within_small_files_the_sample_ends_between_two_of_them(tmp_path, monkeypatch):
    for number in range(20):
        (tmp_path / f"{number:02d}.txt").write_text("The ferry leaves at nine. " * 10)
    monkeypatch.setattr(corpora, "_SAMPLE_CHARACTERS", 1000)
    source = Files(path=str(tmp_path))
    found = corpora._sample(source, list_partitions(source))
    assert 4 <= len(found.texts) < 6
    assert found.read_bytes == sum(map(len, found.texts))


def test_a_planned_recipe_takes_the_chapters_of_books_as_documents(tmp_path, documents):
    size = size_of_documents(documents, vocabulary_size=400)
    (tmp_path / "planned.toml").write_text(as_recipe(choose(TWO_CORES, size, Budget(seconds=600))))
    (source,) = load_recipe(tmp_path / "planned.toml").collect.sources
    assert source.books == "chapter"


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(DataError):
        size_of_documents(tmp_path, vocabulary_size=400)


@pytest.mark.parametrize("mixture", [[], ["pretrain.mixture.weights.documents=1.0"]])
def test_a_plan_from_a_run_goes_on_with_it_whatever_its_seed_and_folder(tmp_path, mixture):
    settings = [f"runs={tmp_path / 'elsewhere'}", "seed=7", *mixture]
    recipe = load_recipe(write_recipe(tmp_path / "made"), settings)
    run_recipe(recipe, until="tokenize")
    size = size_of_run(recipe.run_dir)
    heldout = list(TokenData(recipe.run_dir / "tokens").split("heldout").documents())
    assert size.heldout_tokens == sum(len(document.ids) for document in heldout) > 0  # fewer than the sample takes
    plan = choose(TWO_CORES, size, Budget(seconds=600))
    (tmp_path / "planned.toml").write_text(as_recipe(plan))
    planned = load_recipe(tmp_path / "planned.toml")
    assert (planned.seed, planned.workers, planned.run_dir) == (7, 1, recipe.run_dir)
    states = preview(planned)["stages"]
    assert {states[name] for name in ("documents", "corpus", "tokenizer", "tokens")} == {"unchanged"}


def test_a_run_that_begins_from_a_model_is_not_planned_from(tmp_path):
    (tmp_path / "tokens").mkdir()
    storage.write_json(tmp_path / "tokens" / "index.json", {"vocabulary_size": 400})
    storage.write_manifest(tmp_path / "tokens", {"summary": {"train": {"tokens": 10, "bytes": 30}}})
    (tmp_path / "recipe.toml").write_text('name = "tuned"\n[base]\nmodel = "somewhere"\n')
    with pytest.raises(UsageError, match="begins from a model"):
        size_of_run(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "flops", "memory", "path"),
    [
        (10**10, 1e19, 64e9, "pretrain"),
        (10**8, 1e18, 64e9, "continue"),
        (10**8, 1e18, 8e9, "finetune"),  # too little for the moments of a base that is trained whole
        (10**6, 1e19, 64e9, "finetune"),
        (10**10, 1e14, 64e9, "finetune"),
    ],
)
def test_the_path_follows_from_text_compute_and_memory_and_says_why(tokens, flops, memory, path):
    advice = advise(corpus_tokens=tokens, flops=flops, seconds=600, memory_bytes=memory)
    assert advice.path == path
    assert f"{tokens:,} tokens" in advice.reasons[0]
    assert len(advice.reasons) == (4 if path == "finetune" else 3)


def test_fine_tuning_is_advised_with_what_it_takes_of_this_budget_and_of_this_memory():
    """Three passes over the example are about 4e15 operations and want 8 GB, says docs/guides/finetune-qwen3.md."""
    small = advise(corpus_tokens=10**6, flops=4e15 / 3 / 30, seconds=600, memory_bytes=4e9).reasons
    assert "`chatwright finetune MODEL DATA`" in small[2]
    assert "about 30 times this training, 5 h 0" in small[3]
    assert "about 8 GB of memory; 4.0 GB are free here, too little" in small[3]
    large = advise(corpus_tokens=10**6, flops=4e15 / 3 * 10, seconds=600, memory_bytes=64e9).reasons
    assert "about 10.1% of this training, 1 min 00 s" in large[3]
    assert "too little" not in large[3]


def test_files_that_a_container_has_read_leave_their_memory_free(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemAvailable: 99000000 kB\n")
    (tmp_path / "memory.max").write_text("8000000000\n")
    (tmp_path / "memory.current").write_text("7500000000\n")
    (tmp_path / "memory.stat").write_text("anon 500000000\ninactive_file 7000000000\n")
    paths = {"meminfo": tmp_path / "meminfo", "group": tmp_path}
    monkeypatch.setattr(fitting, "available_bytes", functools.partial(available_bytes, **paths))
    assert free_memory(torch.device("cpu")) == 7_500_000_000


def test_where_the_system_does_not_say_what_is_free_eight_gibibytes_are_assumed(tmp_path, monkeypatch):
    paths = {"meminfo": tmp_path / "none", "group": tmp_path / "none"}
    monkeypatch.setattr(fitting, "available_bytes", functools.partial(available_bytes, **paths))
    assert free_memory(torch.device("cpu")) == 8 << 30


def test_the_own_memory_is_counted_in_the_pages_of_the_machine(monkeypatch):
    usual, size = resident_bytes(), os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(os, "sysconf", lambda name: 16 * size if name == "SC_PAGE_SIZE" else 0)
    assert resident_bytes() == pytest.approx(16 * usual, rel=0.1)
