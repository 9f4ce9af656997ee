"""Recipes: rules between sections, paths that mean the same from everywhere, and a resolved copy that reads back."""

import tomllib

import pytest
from tiny_recipe import RECIPE, write_recipe

from chatwright.foundation.errors import ConfigError, ExitCode, UsageError
from chatwright.recipe.preview import preview
from chatwright.recipe.recipe import load_recipe, to_toml

BASE = 'name = "x"\n[base]\nmodel = "somewhere"\n'
DOCUMENTS = 'name = "x"\n[[collect.sources]]\nkind = "files"\npath = "d"\n'


def load(tmp_path, text, *overrides):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return load_recipe(path, overrides)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name = "x"\n', "needs documents"),
        (BASE + "[pretrain]\n", "`pretrain` needs documents"),
        (DOCUMENTS + '[finetune]\ndata = "x"\n', "`finetune` needs a model"),
        (DOCUMENTS + "[pretrain]\nbatch_rows = 10\nmicro_rows = 4\n", "multiple of `pretrain.micro_rows`: 10 and 4"),
        (DOCUMENTS + "[evaluate]\n", "`evaluate` has no model"),
        (BASE + "[tokenizer]\nvocabulary_size = 999\n", "`tokenizer` has no effect with `base`"),
        (BASE + "[model]\nwidth = 64\n", "`model` has no effect with `base`"),
        (BASE + "[clean]\nlowercase = true\n", "`clean` has no effect without documents"),
        (DOCUMENTS + "[model]\nheads = 3\nkey_heads = 2\n", "`heads` must be a multiple of `key_heads`"),
    ],
)
def test_rules_between_sections(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told):
        load(tmp_path, text)


def test_all_problems_of_a_recipe_are_told_at_once_with_their_places(tmp_path):
    text = RECIPE.replace("steps = 6", "stepps = 6").replace("width = 16", 'width = "wide"').replace("0.2", "1.5")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.exit_code == ExitCode.USAGE
    told = str(caught.value)
    assert "`pretrain.stepps` is not a known key; did you mean `steps`?" in told
    assert '`model.width` should be a valid integer, not "wide"' in told


def test_the_evaluation_asks_what_the_fine_tune_tests_with_unless_it_says_otherwise(tmp_path):
    tuned = BASE + '[finetune]\ndata = "x"\ntest = "asked.csv"\n[evaluate]\n'
    assert load(tmp_path, tuned).evaluate.answers == str(tmp_path / "asked.csv")
    assert load(tmp_path, tuned + 'answers = "other.csv"\n').evaluate.answers == str(tmp_path / "other.csv")
    assert load(tmp_path, tuned + 'answers = ""\n').evaluate.answers == ""
    assert load(tmp_path, tuned.replace('test = "asked.csv"\n', "")).evaluate.answers is None


def test_former_keys_of_resolved_recipes_are_read_and_meant_ones_are_told_what_to_set(tmp_path):
    tuned = BASE + '[finetune]\ndata = "x"\n'
    assert load(tmp_path, tuned + "patience = 0\nkeep_best = false\n").finetune.keeping.patience == 0
    with pytest.raises(ConfigError, match="`finetune.patience` is a key no more: `finetune.keeping.patience` ends"):
        load(tmp_path, tuned + "patience = 2\n")
    with pytest.raises(ConfigError, match="`improve.learn.keep_best` is a key no more: a round is judged"):
        load(tmp_path, BASE, "improve.learn.keep_best=true")


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "a" * 65, "a b"])
def test_a_name_that_is_no_plain_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="`name`"):
        load(tmp_path, RECIPE.replace('"tiny"', f'"{name}"'))


def test_paths_are_meant_from_the_recipe_s_folder_wherever_it_is_called_from(tmp_path, monkeypatch):
    path = write_recipe(tmp_path / "made")
    first = load_recipe(path)
    monkeypatch.chdir(tmp_path / "made")
    second = load_recipe(path.relative_to(tmp_path / "made"))
    assert first == second
    assert first.finetune.data == str(tmp_path / "made" / "chats" / "train.jsonl")
    assert first.evaluate.answers == str(tmp_path / "made" / "chats" / "test.jsonl")
    assert first.collect.sources[0].path == str(tmp_path / "made" / "documents")


def test_absolute_paths_and_the_home_folder_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    recipe = load(tmp_path, BASE.replace("somewhere", "~/models/base") + '[finetune]\ndata = "/data/chats.jsonl"\n')
    assert recipe.base.model == str(tmp_path / "home" / "models" / "base")
    assert recipe.finetune.data == "/data/chats.jsonl"


def test_overrides_reach_any_key_and_are_checked_like_the_file(tmp_path):
    recipe = load(tmp_path, RECIPE, "pretrain.steps=9", "collect.sources.0.path=other", "finetune.lora.rank=3")
    assert (recipe.pretrain.steps, recipe.finetune.lora.rank) == (9, 3)
    assert recipe.collect.sources[0].path == str(tmp_path / "other")
    with pytest.raises(ConfigError, match="`pretrain.steps` should be greater than or equal to 1"):
        load(tmp_path, RECIPE, "pretrain.steps=0")


def test_the_resolved_recipe_says_every_default_and_reads_back_as_the_same(tmp_path):
    recipe = load(tmp_path, RECIPE)
    text = to_toml(recipe)
    assert tomllib.loads(text)["pretrain"]["optimizer"]["muon_learning_rate"] == 0.02
    (tmp_path / "elsewhere").mkdir()
    again = load(tmp_path / "elsewhere", text)
    assert again == recipe
    assert to_toml(again) == text


def test_a_recipe_with_a_base_reads_back_too(tmp_path):
    recipe = load(tmp_path, BASE + '[finetune]\ndata = "chats.jsonl"\nmethod = "all"\n')
    assert load(tmp_path, to_toml(recipe)) == recipe


def test_what_is_no_recipe_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="there is no recipe"):
        load_recipe(tmp_path / "nowhere.toml")
    with pytest.raises(UsageError, match="not sound TOML"):
        load(tmp_path, "name = ")


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://a.example/x.zip", "hf://datasets/a/b"])
def test_the_address_of_a_source_elsewhere_stays_as_it_is(tmp_path, address):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'name = "x"\n[[collect.sources]]\nkind = "files"\npath = "{address}"\n')
    assert load_recipe(recipe).collect.sources[0].path == address


def test_a_source_elsewhere_is_named_and_not_asked_for_by_a_dry_run(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\n[[collect.sources]]\nkind = "warc"\npath = "https://a.example/warc.paths.gz"\n')
    assert preview(load_recipe(recipe, [f"runs={tmp_path}"]))["from_the_network"] == ["https://a.example/warc.paths.gz"]


def test_paths_that_cannot_be_are_told_together_with_their_keys(tmp_path):
    (tmp_path / "round").symlink_to(tmp_path / "round")
    text = DOCUMENTS.replace('"d"', '"~nobody-of-this-name/books"') + (
        '[clean.decontaminate]\nsets = ["fine.jsonl", "a\\u0000b"]\n[finetune]\ndata = "round/x"\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    told = caught.value.problems
    assert [problem.partition(":")[0] for problem in told] == [
        *("`collect.sources.0.path`", "`clean.decontaminate.sets.1`", "`finetune.data`")
    ]
    assert "no home directory for `~nobody-of-this-name`" in told[0]
