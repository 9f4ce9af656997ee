"""Plans for machines that are not here: the table, whole machines, memory of one device, scripts that a shell reads."""

import subprocess
from pathlib import Path

import pytest

from chatwright.foundation.errors import UsageError
from chatwright.recipe.plan import (
    Budget,
    as_recipe,
    choose,
    cost,
    fleet_of,
    machine_of,
    slurm_script,
    torchrun_script,
)
from chatwright.recipe.plan.accelerators import ACCELERATORS, Fleet, sky_task
from chatwright.recipe.plan.corpus import CorpusSize
from chatwright.recipe.plan.sharded import advise
from chatwright.recipe.recipe import load_recipe
from chatwright.train.footprint import static_bytes

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


@pytest.mark.slow
def test_a_model_that_no_device_holds_whole_is_planned_in_shards_over_a_fleet(tmp_path):
    fleet = fleet_of("h100x64")
    machine = machine_of(fleet)
    sections = {"collect": {"sources": [{"kind": "files", "path": str(tmp_path)}]}}
    large = CORPUS._replace(tokens=10**13, sections=sections)
    plan = choose(machine, large, Budget(seconds=30 * 86_400))
    room = cost.MEMORY_SHARE * machine.memory_bytes
    assert static_bytes(plan.chosen.shape) > room
    assert plan.memory.total <= room
    assert plan.chosen.batch_rows % (plan.chosen.micro_rows * fleet.num_devices) == 0
    whole = cost.memory(plan.chosen.shape, micro_rows=plan.chosen.micro_rows, precision=machine.precision)
    assert advise(fleet, plan.chosen.shape, whole).advice.startswith("needed")
    (tmp_path / "planned.toml").write_text(as_recipe(plan))
    assert "# shards:    over all 64 devices" in as_recipe(plan)
    settings = load_recipe(tmp_path / "planned.toml").pretrain
    assert (settings.parallel, settings.micro_rows) == ("fsdp", plan.chosen.micro_rows)
    assert settings.sample_prompts == []  # each token of a sample gathers every shard


def test_a_model_that_each_device_holds_whole_is_planned_without_shards():
    plan = choose(machine_of(fleet_of("h100x8")), CORPUS, Budget(seconds=3600))
    assert plan.chosen.parallel == "ddp"
    assert "parallel" not in as_recipe(plan)


def test_a_recipe_for_machines_of_the_table_claims_no_measurement():
    plan = choose(machine_of(fleet_of("h100x8")), CORPUS, Budget(seconds=3600))
    text = as_recipe(plan)
    assert "assumed pace: width 256" in text
    kilowatt_hours = 8 * 0.7 * plan.chosen.seconds / 3600
    assert f"at most {kilowatt_hours:.3g} kWh of the devices, at the 5,600 W of their data sheets" in text
    for wrong in ("steps measured", "0 threads", "not known"):
        assert wrong not in text


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
        assert "--max-restarts 3 " in text  # torchrun starts nothing again unless it is told to
        assert "-m chatwright run 'a recipe.toml'" in text


def test_a_slurm_job_leaves_its_workers_the_time_to_save_that_the_signal_gives():
    text = slurm_script(fleet_of("h100x8"), "planned.toml", hours=5)
    before, _, after = text.partition("export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110\n")
    assert "--signal=TERM@120\n" in before
    assert "\nsrun " in after


def test_a_slurm_job_says_what_is_queued_again_and_what_is_not_as_the_guide_does():
    text = slurm_script(fleet_of("h100x8"), "planned.toml", hours=5)
    assert "#SBATCH --requeue\n" in text
    assert "not when its time is up" in text
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "cluster.md").read_text(encoding="utf-8")
    for queued in (text, guide):
        assert "sbatch --dependency=singleton" in queued


@pytest.mark.parametrize("name", ["h100x8", "h100x32"])
def test_a_slurm_job_of_whole_machines_takes_all_their_processors_and_memory(name):
    text = slurm_script(fleet_of(name), "planned.toml", hours=5)
    asked, _, command = text.partition("set -euo pipefail\n")
    assert "#SBATCH --exclusive\n#SBATCH --mem=0\n" in asked
    assert "srun --cpu-bind=none " in command
    assert "cpus-per-task" not in text


@pytest.mark.parametrize(("name", "cores"), [("h100", 8), ("l4x4", 32)])
def test_a_slurm_job_of_a_part_of_a_machine_asks_both_commands_for_its_processors(name, cores):
    text = slurm_script(fleet_of(name), "planned.toml", hours=5)
    asked, _, command = text.partition("set -euo pipefail\n")
    assert f"#SBATCH --cpus-per-task={cores}\n" in asked
    assert f"srun --cpus-per-task={cores} --cpu-bind=none " in command
    for whole in ("--exclusive", "--mem"):
        assert whole not in text


@pytest.mark.parametrize(("name", "device"), [("h100x8", "H100:8"), ("a100x4", "A100-80GB:4"), ("l40s", "L40S:1")])
def test_a_sky_task_asks_for_the_machine_and_runs_the_recipe_on_it(name, device, tmp_path):
    text = sky_task(fleet_of(name), "'jobs/a recipe.toml'")
    assert f"accelerators: {device}\nnum_nodes: 1\n" in text
    command = text.split("run: |\n", 1)[1]
    (tmp_path / "run.sh").write_text(command)
    assert subprocess.run(["bash", "-n", tmp_path / "run.sh"], check=False).returncode == 0
    assert "--max-restarts 3 " in command
    assert command.rstrip().endswith("-m chatwright run 'jobs/a recipe.toml'")


def test_a_sky_task_of_several_machines_is_refused_since_they_share_no_folder():
    with pytest.raises(UsageError, match="share no folder"):
        sky_task(fleet_of("h100x16"), "planned.toml")
