"""`chatwright plan` as people call it: times with units, and mistakes told before anything is measured."""

import pytest
from test_plan import TWO_CORES, corpus
from typer.testing import CliRunner

from chatwright.cli.main import app
from chatwright.cli.plan import _told, seconds_of
from chatwright.foundation.errors import ExitCode, UsageError
from chatwright.recipe.plan import Budget, Rung, choose
from chatwright.recipe.plan import machine as machines
from chatwright.recipe.recipe import load_recipe


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
    told = planned(other, write="planned.toml")
    assert f"warning: `{other}` is not in this folder" in told
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
