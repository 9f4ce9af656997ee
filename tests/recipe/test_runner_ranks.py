"""A pretraining that waits half done, met by several ranks or with other settings of memory: it is never given up quietly."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_recipe
import torch.distributed as dist
from tiny_recipe import write_recipe

from chatwright.data.document import iter_documents
from chatwright.foundation import storage
from chatwright.foundation.errors import ExitCode, StoppedError
from chatwright.recipe import stages as recipe_stages
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe

PROGRAM = Path(tiny_recipe.__file__)
PLACE = recipe_stages.STAGES.index(next(stage for stage in recipe_stages.STAGES if stage.name == "pretrain"))


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """The path of a recipe whose pretraining was stopped after its first step, and the folder of its run."""
    path = write_recipe(tmp_path / "made")
    real = recipe_stages.STAGES[PLACE]

    def stopping(context):
        context.stop.requested = True
        return real.run(context)

    with monkeypatch.context() as patch:
        changed = list(recipe_stages.STAGES)
        changed[PLACE] = real._replace(run=stopping)
        patch.setattr(recipe_stages, "STAGES", tuple(changed))
        with pytest.raises(StoppedError):
            run_recipe(load_recipe(path, [f"runs={tmp_path / 'runs'}"]), until="pretrain")
    yield path, tmp_path / "runs" / "tiny"
    if dist.is_initialized():  # by shards: one rank in a group of its own
        dist.destroy_process_group()


def works(run_dir):
    return sorted(path.name for path in (run_dir / ".work").glob("pretrain-*"))


def on_two_ranks(path, *overrides):
    """The program as torchrun would start it; exit codes and what each has said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, str(PROGRAM), str(path), *overrides]
    settings = os.environ | shared | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(command, env=settings | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    told = [rank.communicate(timeout=240)[1] for rank in ranks]
    return [rank.returncode for rank in ranks], told


@pytest.mark.slow
def test_under_torchrun_too_a_pretraining_whose_documents_changed_is_refused_and_kept(interrupted):
    path, run_dir = interrupted
    before = works(run_dir)
    learned = min(Path(one.path).name for one in iter_documents(run_dir / "corpus", split="train"))
    document = path.parent / "documents" / learned
    document.write_text(document.read_text() + "Something else.\n")
    codes, told = on_two_ranks(path, f"runs={run_dir.parent}")
    assert codes[0] == ExitCode.REFUSED, told
    assert codes[1] != ExitCode.DONE
    assert "`pretrain` was interrupted at step 1, and its documents have changed since" in told[0]
    assert works(run_dir) == before


@pytest.mark.parametrize("override", ["micro_rows=1", "parallel=fsdp", "micro_rows=auto"])
def test_a_pretraining_goes_on_with_other_settings_of_memory_and_says_so(interrupted, capsys, override):
    path, run_dir = interrupted
    capsys.readouterr()
    recipe = load_recipe(path, [f"runs={run_dir.parent}", f"pretrain.{override}"])
    assert run_recipe(recipe, until="pretrain")[-1].state == "done"
    told = capsys.readouterr().err
    name, value = override.split("=")
    assert f"goes on from what was interrupted where pretrain.{name} was " in told
    assert f"and is now {value}" in told
    assert "goes on at step 1 of 6" in told
    assert list((run_dir / ".work").iterdir()) == []
    assert storage.read_manifest(run_dir / "pretrain").facts["config"]["pretrain"][name] == (
        int(value) if value.isdecimal() else value
    )


def test_other_settings_beside_those_of_memory_begin_anew(interrupted, capsys):
    path, run_dir = interrupted
    capsys.readouterr()
    changed = ["pretrain.micro_rows=1", "pretrain.steps=4"]
    run_recipe(load_recipe(path, [f"runs={run_dir.parent}", *changed]), until="pretrain")
    told = capsys.readouterr().err
    assert "pretrain.steps was 6 and is now 4" in told
    assert "goes on at step" not in told
