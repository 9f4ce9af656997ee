"""What changed between two calls: a base by what is read of it, work that was interrupted, scores that were not kept."""

import os
import shutil

import pytest
from tiny_recipe import write_recipe

from chatwright.evaluate.records import FOLDER, history
from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.foundation.errors import RefusedError, StoppedError
from chatwright.model.directory import LINEAGE, save_model
from chatwright.recipe import stages as recipe_stages
from chatwright.recipe.contents import content_of, former_content_of
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import _plan, run_recipe

TUNING = """
name = "tuned"
[base]
model = "model"
[finetune]
data = "chats/train.jsonl"
epochs = 1
batch_rows = 4
micro_tokens = 64
checkpoint_every = 1
lora = { rank = 2 }
device = "cpu"
precision = "float32"
threads = 1
"""


@pytest.fixture
def base(tmp_path, make_network, tiny_tokenizer):
    """The recipe of a fine-tune of a model of others, beside which stands what is downloaded with it."""
    write_recipe(tmp_path, documents=1)
    save_model(tmp_path / "model", make_network(), tiny_tokenizer, lineage={})
    (tmp_path / "model" / LINEAGE).rename(tmp_path / LINEAGE)
    (tmp_path / "model" / "README.md").write_text("A model.")
    (tmp_path / "model" / ".git").mkdir()
    path = tmp_path / "tuned.toml"
    path.write_text(TUNING)
    return path


def load(path):
    return load_recipe(path, [f"runs={path.parent / 'runs'}"])


def plan_of(path):
    recipe = load(path)
    return _plan(recipe_stages.stages_of(recipe)[0], recipe, recipe.run_dir)


def test_a_base_is_another_only_where_a_file_that_is_read_is_another(base):
    model = base.parent / "model"
    keys = [plan_of(base).key]
    (model / "README.md").write_text("Told anew.")
    (model / ".git" / "index").write_text("fetched")
    (model / "LICENSE").write_text("Apache-2.0")
    assert plan_of(base).key == keys[0]
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        os.utime(model / name, ns=(1, 1))
        keys.append(plan_of(base).key)
    assert len(set(keys)) == 4


def test_a_base_of_ours_is_known_by_its_digest_however_it_was_copied(base):
    model = base.parent / "model"
    shutil.copy(base.parent / LINEAGE, model)
    before = plan_of(base)
    assert before.contents["base"] == storage.read_json(model / LINEAGE)["digest"]
    for path in model.iterdir():
        os.utime(path, ns=(1, 1))
    assert plan_of(base).key == before.key


def test_what_was_done_or_begun_under_the_key_of_an_earlier_version_is_not_done_again(base):
    model, run_dir, now = base.parent / "model", base.parent / "runs" / "tuned", plan_of(base)
    former = storage.digest_json(
        sorted((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in model.iterdir())
    )
    assert former_content_of(model, run_dir) == former != content_of(model, run_dir) == now.contents["base"]
    recipe = load(base)
    made_of = {"stage": "finetune", "version": 1, "inputs": {"base": former}, "seed": 1}
    config = {"config": without_habits(recipe.finetune), "outside": now.stage.outside(recipe).key}
    key = storage.digest_json(made_of | config)
    half_done = run_dir / ".work" / f"finetune-{key[:16]}"
    half_done.mkdir(parents=True)
    assert (plan_of(base).key, plan_of(base).contents) == (key, {"base": former})
    half_done.rmdir()
    assert plan_of(base).key == now.key
    with storage.publish(run_dir / "finetune", {"key": key}):
        pass
    assert plan_of(base).key == key
    (model / "README.md").write_text("Told anew.")
    assert plan_of(base).key == now.key


def stop_in(monkeypatch, stage, path, **fields):
    """Run a recipe until its training of this stage is stopped after its first step; where its work stands."""
    place = next(number for number, one in enumerate(recipe_stages.STAGES) if one.name == stage)
    real = recipe_stages.STAGES[place]

    def stopping(context):
        context.stop.requested = True
        return real.run(context)

    stages = (*recipe_stages.STAGES[:place], real._replace(run=stopping), *recipe_stages.STAGES[place + 1 :])
    recipe = load(path)
    with monkeypatch.context() as patch:
        patch.setattr(recipe_stages, "STAGES", stages)
        with pytest.raises(StoppedError):
            run_recipe(recipe, **fields)
    (work,) = (recipe.run_dir / ".work").glob(f"{stage}-*/checkpoints")
    return work.parent


def test_an_interrupted_fine_tune_that_begins_anew_says_what_is_another(base, monkeypatch, capsys):
    work = stop_in(monkeypatch, "finetune", base)
    os.utime(base.parent / "model" / "config.json", ns=(1, 1))
    data = base.parent / "chats" / "train.jsonl"
    data.write_text(data.read_text().replace("All about", "All of"))
    base.write_text(TUNING.replace("rank = 2", "rank = 3"))
    capsys.readouterr()
    run_recipe(load(base))
    told = capsys.readouterr().err
    assert "`finetune` was interrupted at step 1 with other settings: lora.rank was 2 and is now 3" in told
    assert "; and with another `base` and `data`" in told
    assert f"`{work}` until it is done" in told
    assert list((base.parent / "runs" / "tuned" / ".work").iterdir()) == []


def test_an_interrupted_pretraining_of_another_tokenizer_is_refused_by_that_name(tmp_path, monkeypatch):
    path = write_recipe(tmp_path)
    work = stop_in(monkeypatch, "pretrain", path, until="pretrain")
    note = work.with_name(f".{work.name}.json")
    kept = storage.read_json(note)
    kept["inputs"]["tokenizer"] = "another"
    other = work.rename(work.with_name("pretrain-0123456789abcdef"))
    storage.write_json(other.with_name(f".{other.name}.json"), kept)
    note.unlink()
    with pytest.raises(RefusedError, match="begins with has changed since: `tokenizer`\n") as caught:
        run_recipe(load(path), until="pretrain")
    assert str(other) in caught.value.kept


def test_scores_that_a_kill_kept_out_of_the_history_are_added_once_with_their_time(tmp_path):
    path = write_recipe(tmp_path)
    run_recipe(load(path))
    run_dir = load(path).run_dir
    records = sorted((run_dir / FOLDER).iterdir())
    assert len(records) == 2
    contents = [record.read_bytes() for record in records]
    records[0].unlink()
    for _ in range(2):
        run_recipe(load(path))
        assert [record.read_bytes() for record in sorted((run_dir / FOLDER).iterdir())] == contents
    finished = storage.read_manifest(run_dir / "evaluate").facts["finished"]
    assert {record["created"] for record in history(run_dir / FOLDER)} == {finished}
