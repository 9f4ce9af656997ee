"""What a model writes while it learns: asked for by the recipes that we make, and told in the report as it was taken."""

from pathlib import Path

from sample_run import write_run
from test_accelerators import CORPUS

from chatwright.foundation import storage
from chatwright.recipe.plan import Budget, as_recipe, choose, fleet_of, machine_of
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.report import write_report
from chatwright.recipe.starter import write_starter
from chatwright.train.metrics import METRICS
from chatwright.train.pretrain import PretrainConfig
from chatwright.train.samples import Samples

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo.toml"


def test_the_recipes_that_we_make_continue_two_prompts_of_the_evaluation_at_each_measurement(tmp_path):
    write_starter(tmp_path / "mine")
    documents = CORPUS._replace(sections={"collect": {"sources": [{"kind": "files", "path": str(tmp_path)}]}})
    made = [
        DEMO.read_text(encoding="utf-8"),
        (tmp_path / "mine" / "recipe.toml").read_text(encoding="utf-8"),
        as_recipe(choose(machine_of(fleet_of("h100x8")), documents, Budget(seconds=3600))),
    ]
    for text in made:
        (tmp_path / "made.toml").write_text(text, encoding="utf-8")
        recipe = load_recipe(tmp_path / "made.toml")
        assert len(recipe.pretrain.sample_prompts) == 2
        assert set(recipe.pretrain.sample_prompts) <= set(recipe.evaluate.prompts)


def test_a_recipe_that_asks_for_no_samples_takes_none():
    # They are part of the stage's key: with others by default, every older recipe would be trained anew.
    assert PretrainConfig().sample_prompts == []


def test_the_report_shows_what_a_training_took_by_prompt_and_says_that_nothing_is_drawn(
    tmp_path, tiny_network, tiny_tokenizer
):
    taken = Samples(tiny_network, tiny_tokenizer, ["the sea"], tokens=3)()
    run_dir = write_run(tmp_path / "sample")
    manifest = storage.read_manifest(run_dir / "pretrain")
    (run_dir / "pretrain" / storage.MANIFEST).unlink()
    event = {"event": "evaluation", "step": 90, "seconds": 1.0, "bits_per_byte": {"all": 4.0}, **taken}
    storage.append_line(run_dir / "pretrain" / METRICS, event)
    storage.write_manifest(run_dir / "pretrain", manifest.facts)
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert "What it wrote on the way" in page
    for part in ("the sea", "step 90", "the likeliest token every time"):
        assert part in page, part
    assert "settings and seed; not chosen" not in page
