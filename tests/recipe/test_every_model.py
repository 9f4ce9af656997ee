"""Every model that a run makes is measured, shown, and measured again when it has changed."""

import json
import shutil

import pytest
from tiny_recipe import TOPICS, write_recipe

from chatwright.evaluate.records import FOLDER, history
from chatwright.foundation import storage
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.report import write_comparison, write_report
from chatwright.recipe.report.facts import MODEL_NAMES, read_run
from chatwright.recipe.runner import _plan, run_recipe
from chatwright.recipe.stages import stages_of
from chatwright.recipe.summary import as_table, summarise

IMPROVED = """
[align]
data = "chats/preferred.jsonl"
lora = { rank = 2 }
batch_rows = 4
micro_rows = 4
max_answer_tokens = 4
device = "cpu"
precision = "float32"
threads = 1

[distill]
parameters = 26000
data = "chats/train.jsonl"
steps = 2
batch_rows = 4
micro_rows = 4
device = "cpu"
precision = "float32"
threads = 1
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe with every stage that makes a model, run once; gives it with overrides."""
    folder = tmp_path_factory.mktemp("improved")
    path = write_recipe(folder / "made")
    rows = [
        {"prompt": f"What of {topic}, {number}?", "chosen": f"All about {topic}.", "rejected": "No."}
        for topic in TOPICS
        for number in range(4)
    ]
    (path.parent / "chats" / "preferred.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path.write_text(path.read_text() + IMPROVED)

    def recipe(*overrides):
        return load_recipe(path, [f"runs={folder / 'runs'}", *overrides])

    run_recipe(recipe())
    return recipe


def evaluation(recipe):
    return next(stage for stage in stages_of(recipe) if stage.name == "evaluate")


def words(page):
    return page.read_text(encoding="utf-8")


def test_all_models_are_measured_on_the_same_documents_and_questions(made):
    run_dir = made().run_dir
    models = storage.read_json(run_dir / "evaluate" / "scores.json")["models"]
    assert set(models) == set(MODEL_NAMES)
    for name, figures in models.items():
        assert figures["digest"] == read_run(run_dir).summary(name)["model_digest"]
        assert figures["answers"]["questions"] == len(TOPICS)
    assert len({figures["heldout"]["all"]["bytes"] for figures in models.values()}) == 1
    assert len({figures["digest"] for figures in models.values()}) == len(models)
    records = history(run_dir / FOLDER)
    assert {record["model"]["path"] for record in records} == {f"{name}/model" for name in MODEL_NAMES}
    assert len({record["data"]["digest"] for record in records}) == 1  # models are no part of what they are tested on


def test_the_summary_and_the_pages_show_all_models(made, tmp_path):
    run_dir = made().run_dir
    table = as_table(summarise(run_dir, []))
    page = words(write_report(run_dir))
    other = shutil.copytree(run_dir, tmp_path / "other")
    both = words(write_comparison([run_dir, other], tmp_path / "both.html"))
    for name in MODEL_NAMES.values():
        assert f"bits per byte, {name} " in table
        assert f"{name}: perplexity" in page
        assert f"{name}: bits per byte, held out" in both
    assert max(map(len, table.splitlines())) <= 100
    for unit in ("bits per byte", "perplexity"):  # of four models, both in one table would be cut on paper
        assert f"Held-out documents by domain: {unit}" in page
    assert "Test questions to the distilled model" in page  # it was given conversations
    assert "test questions by the distilled model" in page
    assert "aligned model: exact answers" in both


def test_a_changed_alignment_is_evaluated_again_and_nothing_before_it_is(made):
    again = {outcome.stage: outcome.state for outcome in run_recipe(made())}
    assert set(again.values()) == {"unchanged"}
    digest = storage.read_manifest(made().run_dir / "align").content
    changed = {outcome.stage: outcome.state for outcome in run_recipe(made("align.epochs=2.0"))}
    assert [stage for stage, state in changed.items() if state == "done"] == ["align", "distill", "evaluate"]
    told = storage.read_manifest(made().run_dir / "evaluate").facts["inputs"]["align"]
    assert told["path"] == "align"
    assert told["content"] != digest


def test_a_run_without_alignment_and_distillation_is_evaluated_under_the_key_it_had(made):
    """The key of before, from its parts as they were: no other input, version or setting has come in."""
    recipe = made().model_copy(update={"align": None, "distill": None})
    plan = _plan(evaluation(recipe), recipe, recipe.run_dir)
    contents = {
        name: storage.read_manifest(recipe.run_dir / name).content
        for name in ("tokens", "corpus", "pretrain", "finetune")
    }
    assert plan.contents == contents
    assert plan.stage.version == 6  # the sixth says of each answer how it ended


@pytest.mark.parametrize("name", ["align", "distill"])
def test_a_recipe_that_only_improves_a_model_from_elsewhere_is_evaluated_too(made, name):
    whole = made()
    others = dict.fromkeys(("collect", "pretrain", "finetune", "align", "distill"))
    recipe = whole.model_copy(update={**others, name: getattr(whole, name)})
    assert evaluation(recipe).inputs(recipe) == {name: name}


def test_a_student_of_documents_alone_is_not_the_one_whose_answers_are_shown(made):
    run = read_run(made().run_dir)
    assert run.chat_model(MODEL_NAMES) == "distill"
    facts = run.stages["distill"].facts
    facts["config"]["data"] = None
    assert run.chat_model(MODEL_NAMES) == "align"
    assert run.chat_model(["pretrain", "distill"]) == "distill"
    assert run.chat_model([]) is None
