"""Passwords and keys of a recipe stay in its own file: nothing that a run leaves or shows of itself has them."""

import json
import shutil

import pytest
from tiny_recipe import write_recipe

from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.foundation.errors import ConfigError
from chatwright.recipe import stages as recipe_stages
from chatwright.recipe.lineage import _stage
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.report import write_comparison, write_report
from chatwright.recipe.runner import _facts, _plan, _settings, run_recipe

STORE = "postgresql+psycopg://me:secret@host/db?sslpassword=secret"
SECTIONS = '\n[align]\nobjective = "kto"\nstore = "{store}"\n\n[improve]\nstore = "{store}"\n'


@pytest.fixture
def collected(tmp_path):
    """A recipe with a store's address of which the documents are collected: its path and its run."""
    path = write_recipe(tmp_path / "made", documents=3)
    path.write_text(path.read_text() + SECTIONS.format(store=STORE))
    run_recipe(load_recipe(path, [f"runs={tmp_path / 'runs'}"]), until="collect")
    return path, tmp_path / "runs" / "tiny"


def test_what_a_run_leaves_has_no_password_but_its_recipe_which_only_its_owner_reads(collected, tmp_path):
    _, run_dir = collected
    recipe = run_dir / "recipe.toml"
    assert load_recipe(recipe).align.store == load_recipe(recipe).improve.store == STORE
    assert recipe.stat().st_mode & 0o777 == 0o600
    write_report(run_dir)
    other = shutil.copytree(run_dir, tmp_path / "other")
    (other / "recipe.toml").write_text(recipe.read_text().replace("host/db", "elsewhere/db"))
    write_comparison([run_dir, other], run_dir / "comparison.html")
    written = {path for path in run_dir.rglob("*") if path.is_file() and b"secret" in path.read_bytes()}
    assert written == {recipe}
    for page in ("report.html", "comparison.html"):
        assert "me:***@host/db" in (run_dir / page).read_text()


def test_a_recipe_without_a_secret_is_read_by_whom_the_folder_allows(tmp_path):
    path = write_recipe(tmp_path / "made", documents=3)
    run_recipe(load_recipe(path, [f"runs={tmp_path / 'runs'}"]), until="collect")
    assert (tmp_path / "runs" / "tiny" / "recipe.toml").stat().st_mode == path.stat().st_mode


def aligning(path, *overrides):
    """The plan of a recipe's `align`, without its database and the model before it."""
    recipe = load_recipe(path, overrides)
    stage = next(one for one in recipe_stages.stages_of(recipe) if one.name == "align")
    alone = stage._replace(inputs=lambda _: {}, outside=lambda _: recipe_stages.Outside(None, {}))
    return _plan(alone, recipe, recipe.run_dir), recipe


def test_a_stage_s_facts_and_its_key_say_nothing_of_a_password(collected):
    path, _ = collected
    plan, recipe = aligning(path)
    facts = json.dumps([_facts(plan, recipe, {}, 1.0), _settings(plan, recipe)])
    assert "secret" not in facts
    assert facts.count("me:***@host/db?sslpassword=***") == 2
    assert aligning(path, f"align.store={STORE.replace('secret', 'another')}")[0].key == plan.key
    assert aligning(path, f"align.store={STORE.replace('host', 'another')}")[0].key != plan.key


def test_stages_without_a_secret_keep_the_keys_that_they_were_done_under(collected):
    path, run_dir = collected
    recipe = load_recipe(path, [f"runs={run_dir.parent}"])
    plan = _plan(recipe_stages.stages_of(recipe)[0], recipe, run_dir)
    made_of = {"stage": "documents", "version": 1, "inputs": {}, "outside": plan.stage.outside(recipe).key, "seed": 1}
    assert plan.key == storage.digest_json({**made_of, "config": without_habits(recipe.collect)})


def test_what_an_earlier_version_kept_of_a_source_s_password_is_not_shown(collected):
    _, run_dir = collected
    manifest = storage.read_manifest(run_dir / "documents")
    sources = [{"kind": "files", "path": "https://me:secret@host/x?sig=secret"}]
    storage.write_manifest(run_dir / "documents", manifest.facts | {"config": {"sources": sources}})
    write_report(run_dir)
    told = json.dumps(_stage(run_dir, "documents", None, {}))
    for shown in ((run_dir / "report.html").read_text(), told):
        assert "secret" not in shown
        assert "https://***@host/x?sig=***" in shown


@pytest.mark.parametrize("address", ["https://me:secret@host/x", "https://secret@host/x", "s3://b/x?sig=secret"])
@pytest.mark.parametrize("kind", ["files", "wikipedia", "warc"])
def test_a_source_s_address_carries_no_credentials_and_the_refusal_does_not_repeat_them(tmp_path, kind, address):
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "x"\n[[collect.sources]]\nkind = "{kind}"\npath = "{address}"\n')
    with pytest.raises(ConfigError, match="carry no name, password or key") as caught:
        load_recipe(path)
    assert "secret" not in str(caught.value)
