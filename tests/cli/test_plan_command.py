"""`chatwright plan` as people call it: times with units, and mistakes told before anything is measured."""

import pytest
from test_plan import TWO_CORES, corpus
from tiny_recipe import write_recipe
from typer.testing import CliRunner

from chatwright.cli.main import app
from chatwright.cli.plan import _told, seconds_of
from chatwright.foundation.errors import DataError, ExitCode, UsageError
from chatwright.recipe.plan import Budget, Rung, choose
from chatwright.recipe.plan import machine as machines
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86_400)])
def test_a_time_has_a_unit(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "0m", "1e3s", "10 minutes", "9" * 50 + "s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="not a time"):
        seconds_of(text)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with documents, from which the command is called."""
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text("The ferry leaves at nine in the morning and comes back at six. " * 200)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(documents, *, on="l4", write="my plans/planned.toml"):
    arguments = ["plan", "--on", on, "--budget", "10m", "--documents", str(documents)]
    done = CliRunner().invoke(app, [*arguments, "--write", write, "--scripts", "jobs"])
    assert done.exit_code == 0, done.exception
    return done.stderr


@pytest.mark.slow
def test_a_sky_task_and_its_recipe_name_only_places_in_the_folder_that_is_sent(clone, tmp_path_factory):
    (clone / "my plans").mkdir()
    told = planned(clone / "books")
    assert "warning: `" not in told
    assert "warning: this folder is no clone" in told
    assert "-m chatwright run 'my plans/planned.toml'\n" in (clone / "jobs" / "sky.yaml").read_text()
    sent = clone.rename(tmp_path_factory.mktemp("lent") / "sky_workdir")  # where the machine has it
    text = (sent / "my plans" / "planned.toml").read_text()
    assert str(clone) not in text
    (source,) = load_recipe(sent / "my plans" / "planned.toml").collect.sources
    assert source.path == str(sent / "books")


@pytest.mark.slow
def test_documents_that_are_not_sent_along_are_warned_of_and_several_machines_get_no_sky_task(clone, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere") / "books"
    (clone / "books").rename(other)
    (clone / "pyproject.toml").touch()
    told = planned(other, write="planned.toml")
    assert f"warning: `{other}` is not in this folder" in told
    assert "no clone" not in told
    told = planned(other, on="l4x16", write="many.toml").replace("\n", " ")
    assert "no task for SkyPilot" in told
    assert sorted(path.name for path in (clone / "jobs").iterdir()) == ["sky.yaml", "slurm.sbatch", "torchrun.sh"]


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (["--tokens", "1000000"], "`--tokens` has no effect beside it"),
        (["--spend", "5", "--price", "2"], "`--spend` has no effect beside it"),
        (["--budget", "10m"], "ladder alone"),
    ],
)
def test_a_target_looks_for_its_own_budget_and_refuses_another(clone, beside, said):
    done = CliRunner().invoke(app, ["plan", "--documents", "books", "--target", "1.6", *beside])
    assert isinstance(done.exception, UsageError)
    assert said in done.exception.what
    assert "measuring" not in done.stderr


@pytest.mark.slow
def test_a_plan_without_text_to_train_on_says_how_to_name_it(call):
    told = call("plan")
    assert told.returncode == ExitCode.USAGE
    assert "--documents" in told.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--documents", ".", "--fit"), "name a run"),
        (("--run", "runs/x", "--fit", "--on", "h100"), "cannot go with `--on`"),
        (("--run", "runs/x", "--fit", "--tokens", "1000000"), "needs a time"),
        (("--documents", ".", "--spend", "5"), "`--price`"),
        (("--documents", ".", "--spend", "5", "--budget", "1h", "--price", "2"), "one limit"),
        (("--documents", ".", "--scripts", "x"), "without `--on`"),
    ],
)
def test_options_that_cannot_go_together_are_told_before_anything_is_measured(call, arguments, said):
    told = call("plan", *arguments)
    assert told.returncode == ExitCode.USAGE
    assert said in told.stderr
    assert "measuring" not in told.stderr


def test_a_file_that_is_there_is_refused_before_anything_is_measured(clone):
    (clone / "mine.toml").write_text("mine")
    done = CliRunner().invoke(app, ["plan", "--documents", "books", "--write", "mine.toml"])
    assert isinstance(done.exception, UsageError)
    assert "is there already" in done.exception.what
    assert "measuring" not in done.stderr
    assert (clone / "mine.toml").read_text() == "mine"


def test_a_folder_without_anything_to_read_is_told_before_anything_is_measured(clone):
    (clone / "empty").mkdir()
    done = CliRunner().invoke(app, ["plan", "--documents", "empty"])
    assert isinstance(done.exception, DataError)
    assert "measuring" not in done.stderr


@pytest.mark.parametrize(
    "place",
    [("--write", "mine/planned.toml"), ("--write", "planned.toml", "--scripts", "mine"), ("--write", "mine/a/b.toml")],
)
def test_a_file_where_a_folder_is_to_be_is_told_before_anything_is_measured(clone, place):
    (clone / "mine").write_text("mine")
    done = CliRunner().invoke(app, ["plan", "--documents", "books", "--on", "h100", *place])
    assert isinstance(done.exception, UsageError)
    assert done.exception.what == "`mine` is a file"


@pytest.mark.parametrize(("spend", "price", "named"), [("inf", "2", "--spend"), ("5", "inf", "--price")])
def test_money_without_end_is_refused(clone, spend, price, named):
    done = CliRunner().invoke(app, ["plan", "--documents", "books", "--spend", spend, "--price", price])
    assert done.exit_code == ExitCode.USAGE
    assert f"'{named}'" in done.stderr


@pytest.mark.slow
def test_a_ladder_on_a_run_without_held_out_documents_is_refused_before_anything_is_measured(clone):
    settings = [f"runs={clone / 'runs'}", "clean.heldout_share=0"]
    recipe = load_recipe(write_recipe(clone / "made"), settings)
    run_recipe(recipe, until="tokenize")
    done = CliRunner().invoke(app, ["plan", "--run", str(recipe.run_dir), "--fit"])
    assert isinstance(done.exception, UsageError)
    assert "no held-out documents" in done.exception.what
    assert "measuring" not in done.stderr


def test_a_device_of_this_machine_is_refused_beside_machines_that_are_not_here(clone):
    done = CliRunner().invoke(app, ["plan", "--documents", "books", "--on", "h100", "--device", "cpu"])
    assert isinstance(done.exception, UsageError)
    assert "`--device`" in done.exception.what


@pytest.mark.slow
def test_the_device_that_was_asked_for_is_measured_and_stands_in_the_recipe(clone, monkeypatch):
    monkeypatch.setattr(machines, "_PROBES", ((64, 2),))
    arguments = ["plan", "--documents", "books", "--tokens", "1000000", "--device", "cpu", "--write", "planned.toml"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.exception
    assert load_recipe(clone / "planned.toml").pretrain.device == "cpu"


def test_the_rungs_of_a_ladder_stand_in_the_json():
    plan = choose(TWO_CORES, corpus(10**9), Budget(seconds=600))
    shape = plan.chosen.shape
    (rung,) = _told(plan, None, None, (Rung(shape, 50, 8, 2.125),))["ladder"]
    assert rung == {
        "parameters": shape.num_parameters(),
        "width": shape.width,
        "layers": shape.layers,
        "steps": 50,
        "tokens": 50 * 8 * shape.context_length,
        "bits_per_byte": 2.125,
    }
    assert "ladder" not in _told(plan, None, None, ())
