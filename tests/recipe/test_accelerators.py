"""Plans for machines that are not here: the table, whole machines, memory of one device, scripts that a shell reads."""

import subprocess

import pytest

from chatwright.foundation.errors import UsageError
from chatwright.recipe.plan import Budget, choose, fleet_of, machine_of, slurm_script, torchrun_script
from chatwright.recipe.plan.accelerators import ACCELERATORS, Fleet, sky_task
from chatwright.recipe.plan.corpus import CorpusSize

CORPUS = CorpusSize(10**10, 4.5, 32_768, "the test's", "planned", {})


def test_names_with_and_without_a_number():
    assert fleet_of("h100x8") == Fleet("h100", 8)
    assert fleet_of("A100") == Fleet("a100", 1)
    assert fleet_of("a100-40x4") == Fleet("a100-40", 4)
    assert (fleet_of("h100x64").nodes, fleet_of("h100x64").per_node) == (8, 8)


@pytest.mark.parametrize("text", ["h1000", "h100x0", "h100x12", "", "x8", "h100x9999"])
def test_what_is_not_in_the_table_or_no_whole_machine_is_refused(text):
    with pytest.raises(UsageError):
        fleet_of(text)


def test_every_entry_has_plausible_figures_and_a_source():
    for device in ACCELERATORS.values():
        assert 1e10 < device.memory_bytes < 1e12
        assert 1e13 < device.peak_flops < 1e16
        assert device.source


def test_more_devices_train_a_larger_model_that_fits_one_of_them():
    few, many = (choose(machine_of(fleet_of(name)), CORPUS, Budget(seconds=4 * 3600)) for name in ("h100", "h100x8"))
    assert many.chosen.parameters > few.chosen.parameters
    for plan, count in ((few, 1), (many, 8)):
        assert plan.memory.total < 80e9
        assert plan.chosen.batch_rows % (plan.chosen.micro_rows * count) == 0
    assert many.loss is not None


def test_a_small_device_takes_fewer_rows_at_once_than_a_large_one():
    small, large = (
        choose(machine_of(fleet_of(name)), CORPUS, Budget(tokens=10**10)).chosen for name in ("rtx4090", "b200")
    )
    assert small.micro_rows < large.micro_rows


@pytest.mark.parametrize("name", ["h100", "h100x8", "h100x32"])
def test_a_shell_reads_the_scripts(name, tmp_path):
    fleet = fleet_of(name)
    for text in (torchrun_script(fleet, "'a recipe.toml'"), slurm_script(fleet, "'a recipe.toml'", hours=5)):
        path = tmp_path / "script"
        path.write_text(text)
        assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
        assert f"--nproc-per-node {fleet.per_node}" in text
        assert "-m chatwright run 'a recipe.toml'" in text


@pytest.mark.parametrize(("name", "device"), [("h100x16", "H100:8"), ("a100x4", "A100-80GB:4"), ("l40s", "L40S:1")])
def test_a_sky_task_asks_for_the_fleet_and_runs_the_recipe_on_every_machine(name, device, tmp_path):
    fleet = fleet_of(name)
    text = sky_task(fleet, "planned.toml")
    assert f"accelerators: {device}\nnum_nodes: {fleet.nodes}\n" in text
    command = text.split("run: |\n", 1)[1]
    (tmp_path / "run.sh").write_text(command)
    assert subprocess.run(["bash", "-n", tmp_path / "run.sh"], check=False).returncode == 0
    assert command.rstrip().endswith("-m chatwright run planned.toml")
