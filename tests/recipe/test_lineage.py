"""From a model back to its documents, as data and as lines, over several runs, and honest about what is gone."""

import shutil

import pytest
from tiny_recipe import write_recipe

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.model.directory import digest_of, load_model
from chatwright.recipe.lineage import _read, as_lines, lineage_of
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import _plan, run_recipe
from chatwright.recipe.stages import stages_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run from documents, and a second one that fine-tunes the first one's model."""
    folder = tmp_path_factory.mktemp("lineage")
    path = write_recipe(folder / "made")
    run_recipe(load_recipe(path, [f"runs={folder / 'runs'}"]), until="finetune")
    (folder / "made" / "second.toml").write_text(
        f'name = "second"\n[base]\nmodel = "{folder}/runs/tiny/pretrain/model"\n'
        '[finetune]\ndata = "chats/train.jsonl"\nepochs = 1\ndevice = "cpu"\nprecision = "float32"\nthreads = 1\n'
    )
    run_recipe(load_recipe(folder / "made" / "second.toml", [f"runs={folder / 'runs'}"]))
    return folder


def names(entry):
    return [entry["stage"], *(name for parent in entry.get("from", []) for name in names(parent))]


def test_the_chain_of_a_tuned_model_goes_down_to_the_source_folder(runs):
    chain = lineage_of(runs / "runs" / "tiny" / "finetune" / "model")
    assert chain["run"] == "tiny"
    found = names(chain["made_by"])
    assert found[0] == "finetune"
    assert {"pretrain/model", "tokens", "tokenizer", "corpus", "documents"} <= set(found)
    lines = "\n".join(as_lines(chain))
    assert str(runs / "made" / "documents") in lines
    assert "source files" in lines
    assert "[" not in lines.replace("[made again since]", "").split("documents")[0]
    assert lines.count("source files") == 1


def test_a_model_made_from_another_run_s_model_has_that_run_s_chain_below_it(runs):
    chain = lineage_of(runs / "runs" / "second" / "finetune" / "model")
    (base,) = chain["made_by"]["from"]
    assert base["stage"] == str(runs / "runs" / "tiny" / "pretrain" / "model")
    assert base["state"] == "outside the run"
    assert "documents" in names(base)
    assert str(runs / "made" / "documents") in "\n".join(as_lines(chain))


def test_stages_that_are_gone_or_were_made_again_are_called_so(runs, tmp_path):
    shutil.copytree(runs / "runs" / "tiny", tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "tokens")
    shutil.rmtree(tmp_path / "tiny" / "pretrain")
    lines = as_lines(lineage_of(tmp_path / "tiny" / "finetune" / "model"))
    assert any("pretrain/model" in line and "[no longer there]" in line for line in lines)
    path = runs / "made" / "recipe.toml"
    run_recipe(load_recipe(path, [f"runs={tmp_path}", "seed=2"]), until="pretrain")
    lines = as_lines(lineage_of(tmp_path / "tiny" / "finetune" / "model"))
    assert any("pretrain/model" in line and "[made again since]" in line for line in lines)


def test_what_is_no_model_of_ours_is_refused(runs, tmp_path):
    with pytest.raises(RefusedError, match="is not a model directory"):
        lineage_of(tmp_path)
    shutil.copytree(runs / "runs" / "tiny" / "pretrain" / "model", tmp_path / "foreign")
    (tmp_path / "foreign" / "chatwright.json").unlink()
    with pytest.raises(RefusedError, match="carries no lineage"):
        lineage_of(tmp_path / "foreign")


def test_the_lineage_names_what_was_read_from_outside_with_its_digest_and_whether_it_is_the_same_still(runs, tmp_path):
    path = runs / "made" / "chats" / "train.jsonl"
    model = runs / "runs" / "second" / "finetune" / "model"
    told = {"path": str(path), "digest": storage.digest_file(path)}
    assert load_model(model).lineage["outside"]["data"] == told
    assert storage.read_manifest(model.parent).facts["outside"]["data"] == told
    (read,) = [entry for entry in lineage_of(model)["made_by"]["reads"] if entry["name"] == "data"]
    assert (read["stage"], read["state"]) == (str(path), "as it was")
    assert any(line.strip().startswith(f"data: {path}") for line in as_lines(lineage_of(model)))
    shutil.copytree(runs / "runs" / "second", tmp_path / "second")
    head = tmp_path / "second" / "finetune" / "model" / "chatwright.json"
    for place, state in ((__file__, "changed since"), ("/none/train.jsonl", "no longer there")):
        head.write_text(head.read_text().replace(str(path), place))
        (read,) = [entry for entry in lineage_of(head.parent)["made_by"]["reads"] if entry["name"] == "data"]
        assert read["state"] == state
        head.write_text(head.read_text().replace(place, str(path)))


def test_a_model_that_a_stage_read_has_its_chain_below_it_and_one_of_the_run_is_named_by_its_stage(runs):
    teacher = runs / "runs" / "tiny" / "finetune" / "model"
    recipe = load_recipe(
        runs / "made" / "recipe.toml",
        [f"distill.teacher={teacher}", f"runs={runs / 'runs'}", "distill.parameters=30000"],
    )
    plan = _plan(next(stage for stage in stages_of(recipe) if stage.name == "distill"), recipe, recipe.run_dir)
    digest = digest_of(teacher)
    assert plan.outside == {"teacher": {"path": "finetune/model", "digest": digest}}
    for run_dir, place in ((recipe.run_dir, "finetune/model"), (runs, str(teacher))):
        read = _read(run_dir, "teacher", {"path": place, "digest": digest})
        assert (read["state"], read["from"][0]["stage"]) == ("as it was", "finetune")
        assert "documents" in names(read)
    assert _read(runs, "teacher", {"path": str(teacher), "digest": "another"})["state"] == "made again since"


def test_the_keys_of_stages_are_made_of_what_they_were_made_of_before_they_named_it(runs):
    """Else every stage would be done again; `read` is told beside them."""
    recipe = load_recipe(runs / "made" / "second.toml", [f"runs={runs / 'runs'}", "evaluate.baselines=false"])
    data = storage.digest_file(runs / "made" / "chats" / "train.jsonl")
    keys = {stage.name: stage.outside(recipe).key for stage in stages_of(recipe)}
    assert keys == {"finetune": [data, None], "evaluate": [None, None, data]}
