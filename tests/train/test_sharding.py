"""A model in shards learns what a whole one learns, whatever the number of ranks, and goes on with another number."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import new_network, new_trainer

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, UsageError
from chatwright.train.pretrain import PretrainConfig
from chatwright.train.spread import chunk_heights

PROGRAM = Path(__file__).with_name("sharded_training.py")
STEPS = 6


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def train(directory, parallel, *, ranks=1, per_machine=0, stop=False):
    """Run it on so many processes; gives what the first printed."""
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    if ranks > 1:
        settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, str(PROGRAM), str(directory), str(STEPS), parallel, *(["stop"] if stop else [])]
    processes = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(per_machine or ranks)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=settings | (own if ranks > 1 else {}), **pipes))
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [3 if stop else 0] * ranks, outputs[0][1] + outputs[-1][1]
    return outputs[0][0]


def saved(directory, step=STEPS):
    place = directory / "checkpoints" / f"step-{step:08d}"
    average = {f"average.{name}": tensor for name, tensor in load_file(place / "average.safetensors").items()}
    return load_file(place / "weights.safetensors") | load_file(place / "optimizer.safetensors") | average


def drift(one, other):
    """The largest difference between two checkpoints' tensors, which must have the same names and shapes."""
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    train(directory, "ddp")
    return saved(directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parallel", "ranks", "per_machine"), [("fsdp", 1, 0), ("fsdp", 2, 0), ("fsdp", 3, 0), ("hsdp", 4, 2)]
)
def test_shards_learn_what_the_whole_learns(tmp_path, plain, parallel, ranks, per_machine):
    printed = train(tmp_path, parallel, ranks=ranks, per_machine=per_machine)
    found = saved(tmp_path)
    assert drift(found, plain) < 2e-5
    weights = load_file(tmp_path / "checkpoints" / f"step-{STEPS:08d}" / "weights.safetensors")
    assert float(printed) == pytest.approx(sum(float(t.double().abs().sum()) for t in weights.values()), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [(("fsdp", 2), ("fsdp", 1)), (("ddp", 1), ("fsdp", 2)), (("fsdp", 2), ("ddp", 1))], ids=str
)
def test_a_run_goes_on_with_another_number_of_shards(tmp_path, plain, before, after):
    train(tmp_path, before[0], ranks=before[1], stop=True)
    train(tmp_path, after[0], ranks=after[1])
    assert drift(saved(tmp_path), plain) < 2e-5


@pytest.mark.parametrize("rows", range(1, 20))
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_rows_are_divided_as_torch_divides_them(rows, size):
    theirs = [len(chunk) for chunk in torch.arange(rows).chunk(size)]
    assert chunk_heights(rows, size) == theirs + [0] * (size - len(theirs))


def test_an_adapter_is_not_sharded(tmp_path):
    with pytest.raises(UsageError, match="trains whole networks"):
        new_trainer(tmp_path, network=new_network(), with_adapter=True, parallel="fsdp")


def test_what_shards_exclude_is_told_before_the_run():
    with pytest.raises(ConfigError) as caught:
        validate(
            PretrainConfig,
            {"parallel": "fsdp", "reduction": "exact", "micro_rows": "auto", "compile": "auto"},
            where="a recipe",
        )
    assert len(caught.value.problems) == 3
