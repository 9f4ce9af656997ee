"""The dry run: sound for every recipe of the project, exact where shapes decide, and without any trace on disk."""

import shutil
from pathlib import Path

import pytest
import torch

from chatwright.data import limits
from chatwright.data.sources import places
from chatwright.foundation import storage
from chatwright.foundation.errors import ConfigError
from chatwright.model.config import ModelConfig
from chatwright.model.families import to_hugging_face
from chatwright.recipe.preview import as_text, preview
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.report.facts import WORK
from chatwright.recipe.runner import _plan, run_recipe
from chatwright.recipe.stages import stages_of
from chatwright.train.optimizers import Optimizer, OptimizerConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.toml"))
QWEN3 = ModelConfig(
    width=1024,
    layers=28,
    heads=16,
    key_heads=8,
    head_width=128,
    mlp_width=3072,
    context_length=40_960,
    vocabulary_size=151_936,
    rope_base=1e6,
)


@pytest.fixture
def base(tmp_path):
    """The files of a model directory of Qwen3's smallest size, its weights left out."""
    directory = tmp_path / "base"
    directory.mkdir()
    storage.write_json(directory / "config.json", to_hugging_face(QWEN3, begin=0, ends=[0], pad=0))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").touch()
    return directory


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "one.txt").write_text("One document.")
    return folder


@pytest.fixture
def recipe_file(tmp_path, documents):
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
        name = "small"
        runs = "{tmp_path / "runs"}"
        [[collect.sources]]
        kind = "files"
        path = "documents"
        [pretrain]
        steps = 10
        batch_rows = 4
        micro_rows = 2
        """
    )
    return path


def sentence_pairs(folder):
    """Overrides that name small files of pairs."""
    path = folder / "pairs.tsv"
    path.write_text("source\ttarget\nA dog runs.\tUn chien court.\nTwo men talk.\tDeux hommes parlent.\n")
    return [f"{key}={path}" for key in ("finetune.data", "finetune.test", "evaluate.answers")]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_of_the_project_is_sound(name, tmp_path, base, documents):
    overrides = [f"runs={tmp_path / 'runs'}"]
    if name == "my-documents.toml":
        overrides.append(f"collect.sources.0.path={documents}")
    if name == "support-lora.toml":
        overrides.append(f"base.model={base}")
    if name == "demo.toml":
        overrides.append("collect.sources.0.packages=[]")  # which packages are installed is another test's matter
    if name == "translation.toml":  # its sentence pairs are the user's: the recipe says how to prepare them
        overrides += [f"collect.sources.0.path={documents}", *sentence_pairs(tmp_path)]
    result = preview(load_recipe(ROOT / "recipes" / name, overrides))
    assert set(result["stages"].values()) == {"would be done"}
    assert result["model"]["parameters"] > 0
    assert not (tmp_path / "runs").exists()


def test_gpt2_small_has_its_124_million_parameters_and_ten_billion_tokens(tmp_path):
    result = preview(load_recipe(ROOT / "recipes" / "gpt2-small.toml", [f"runs={tmp_path}"]))
    assert round(result["model"]["parameters"] / 1e6) == 124
    assert result["pretrain"]["tokens_per_step"] == 2**19
    assert 9.9e9 < result["pretrain"]["tokens"] < 1e10
    assert result["from_the_network"] == ["HuggingFaceFW/fineweb-edu"]


def test_a_base_model_that_is_not_there_says_how_to_get_one(tmp_path):
    recipe = load_recipe(ROOT / "recipes" / "support-lora.toml", [f"base.model={tmp_path / 'none'}"])
    with pytest.raises(ConfigError, match="Hugging Face hub") as caught:
        preview(recipe)
    assert str(tmp_path / "none") in str(caught.value)


def test_a_base_model_without_its_tokenizer_is_named(base):
    (base / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no `tokenizer\.json`"):
        preview(load_recipe(ROOT / "recipes" / "support-lora.toml", [f"base.model={base}"]))


def test_low_rank_updates_of_a_base_are_counted_exactly(base):
    result = preview(load_recipe(ROOT / "recipes" / "support-lora.toml", [f"base.model={base}"]))
    inputs_and_outputs = [(1024, 2048), (1024, 1024), (1024, 1024), (2048, 1024), *[(1024, 3072)] * 3]
    assert result["finetune"]["trained_parameters"] == 28 * 16 * sum(a + b for a, b in inputs_and_outputs)
    assert result["model"]["parameters"] == QWEN3.num_parameters()


def test_everything_that_is_missing_is_listed_at_once(tmp_path, recipe_file, documents):
    shutil.rmtree(documents)
    with recipe_file.open("a") as file:
        file.write('[finetune]\ndata = "none.jsonl"\ntest = "neither.jsonl"\n')
    with pytest.raises(ConfigError) as caught:
        preview(load_recipe(recipe_file))
    assert len(caught.value.problems) == 3
    assert all(name in str(caught.value) for name in ("documents", "none.jsonl", "neither.jsonl"))


def test_files_and_models_of_late_stages_are_missed_before_the_early_ones_work(recipe_file):
    with recipe_file.open("a") as file:
        file.write(
            '[align]\nobjective = "grpo"\ndata = "tasks.jsonl"\nrewards = [{kind = "model", model = "judge"}]\n'
            '[distill]\nteacher = "large"\nparameters = 1000000\n'
        )
    recipe = load_recipe(recipe_file)
    for ask in (preview, run_recipe):
        with pytest.raises(ConfigError) as caught:
            ask(recipe)
        assert len(caught.value.problems) == 3
        assert all(name in str(caught.value) for name in ("tasks.jsonl", "align.rewards.0.model", "distill.teacher"))


def test_an_empty_folder_of_documents_is_a_problem(recipe_file, documents):
    (documents / "one.txt").unlink()
    with pytest.raises(ConfigError, match=r"collect\.sources\.0"):
        preview(load_recipe(recipe_file))


def test_the_memory_of_pretraining_is_that_of_its_tensors(recipe_file):
    from chatwright.model.network import Network

    recipe = load_recipe(recipe_file, ["tokenizer.vocabulary_size=512"])
    network = Network(recipe.model.model_copy(update={"vocabulary_size": 512}))
    optimizer = Optimizer(network.named_parameters(), OptimizerConfig())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.0)
    moments = sum(tensor.nbytes for name, tensor in optimizer.tensors().items() if not name.startswith("step."))
    weights = sum(parameter.nbytes for parameter in network.parameters())
    assert preview(recipe)["pretrain"]["memory_bytes"] == 2 * weights + moments


def publish(recipe, name, *, key):
    facts = {"stage": name, "key": key, "summary": {}}
    with storage.publish(recipe.run_dir / name) as scratch:
        (scratch / "file").write_text("content")
    storage.write_manifest(recipe.run_dir / name, facts)


def key_of(recipe, name):
    stage = next(stage for stage in stages_of(recipe) if stage.name == name)
    return _plan(stage, recipe, recipe.run_dir).key


def test_stages_are_unchanged_interrupted_or_to_be_done(recipe_file):
    recipe = load_recipe(recipe_file)
    publish(recipe, "documents", key=key_of(recipe, "documents"))
    (recipe.run_dir / WORK / f"corpus-{key_of(recipe, 'corpus')[:16]}").mkdir(parents=True)
    states = preview(recipe)["stages"]
    assert states == {
        "documents": "unchanged",
        "corpus": "interrupted",
        "tokenizer": "would be done",
        "tokens": "would be done",
        "pretrain": "would be done",
    }


def test_a_changed_setting_has_its_stage_done_again(recipe_file):
    recipe = load_recipe(recipe_file)
    publish(recipe, "documents", key=key_of(recipe, "documents"))
    publish(recipe, "corpus", key=key_of(recipe, "corpus"))
    assert preview(recipe)["stages"]["corpus"] == "unchanged"
    assert preview(load_recipe(recipe_file, ["clean.heldout_share=0.1"]))["stages"]["corpus"] == "would be done"


def test_the_dry_run_reads_well(recipe_file):
    shown = as_text(preview(load_recipe(recipe_file)))
    assert "  documents: would be done" in shown
    assert "steps 10, tokens per step 1,024, tokens 10,240" in shown


def test_the_dry_run_opens_no_file_of_the_documents(recipe_file, documents, monkeypatch):
    (documents / "lines.jsonl").write_text('{"text": "One line."}\n' * 100)

    def opened(*_):
        raise AssertionError("a file was opened")

    monkeypatch.setattr(limits, "PARTITION_BYTES", 100)
    monkeypatch.setattr(places._Folder, "open", opened)
    shown = preview(load_recipe(recipe_file))["sources"][str(documents)]
    assert shown == {"files": 2, "bytes": sum(path.stat().st_size for path in documents.iterdir())}
