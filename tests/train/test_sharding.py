"""A model in shards learns what a whole one learns, whatever the number of ranks, and goes on with another number."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tiny_training import DrawnSource, new_network, new_trainer

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, OutOfMemoryError, UsageError
from chatwright.train.average import AverageConfig
from chatwright.train.objectives import next_token
from chatwright.train.pretrain import PretrainConfig
from chatwright.train.sharding import whole_network
from chatwright.train.spread import chunk_heights

PROGRAM = Path(__file__).with_name("sharded_training.py")
STEPS = 6


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_on_ranks(program, *arguments, ranks=1, per_machine=0, code=0):
    """Run a program on so many processes, which all end with this code; gives what each printed."""
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    if ranks > 1:
        settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, str(program), *map(str, arguments)]
    processes = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(per_machine or ranks)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=settings | (own if ranks > 1 else {}), **pipes))
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [code] * ranks, outputs[0][1] + outputs[-1][1]
    return [printed for printed, _ in outputs]


def train(directory, parallel, *, ranks=1, per_machine=0, stop=False):
    """Run it on so many processes; gives what the first printed."""
    arguments = [directory, STEPS, parallel, *(["stop"] if stop else [])]
    return run_on_ranks(PROGRAM, *arguments, ranks=ranks, per_machine=per_machine, code=3 if stop else 0)[0]


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


@pytest.fixture
def alone():
    """One rank in a group of its own, in this process, which is gone afterwards."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def trained_here(directory, parallel, **options):
    """Six steps on one rank, measured after every second one; the network, whole, and the log's held-out losses."""
    network = new_network(deep=True)
    (batch,) = DrawnSource(rows=2).step(99)
    losses = []

    def measure():
        losses.append(float(next_token(network, batch)))
        return {"bits_per_byte": {"all": losses[-1]}}

    habits = {"steps": STEPS, "evaluate_every": 2, "checkpoint_every": 2, "parallel": parallel} | options
    new_trainer(directory, network=network, evaluate=measure, **habits).run()
    return (network if parallel == "ddp" else whole_network(network, is_first=True)), losses


def test_the_residual_stream_of_shards_in_bfloat16_has_the_type_that_the_whole_has(tmp_path, alone):
    found = {}
    for parallel in ("fsdp", "ddp"):
        network, types = new_network(deep=True), set()
        for block in network.model.layers:
            block.register_forward_pre_hook(lambda _, inputs, types=types: types.add(inputs[0].dtype))
        new_trainer(tmp_path / parallel, network=network, steps=STEPS, parallel=parallel, precision="bfloat16").run()
        found[parallel] = types
    assert found == {"fsdp": {torch.float32}, "ddp": {torch.float32}}


def test_shards_in_bfloat16_learn_what_the_whole_learns(tmp_path, alone):
    _, losses = trained_here(tmp_path / "shards", "fsdp", precision="bfloat16")
    _, expected = trained_here(tmp_path / "whole", "ddp", precision="bfloat16")
    assert losses == pytest.approx(expected, rel=2e-3)  # embeddings and norms are gathered in bfloat16: 2**-9 of each


def weights_of(directory, step):
    return load_file(directory / "checkpoints" / f"step-{step:08d}" / "weights.safetensors")


def test_a_checkpoint_after_a_measurement_holds_the_trained_weights_in_their_own_type(tmp_path, alone):
    network, _ = trained_here(tmp_path, "fsdp", precision="bfloat16")
    kept = weights_of(tmp_path, STEPS)
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert all(torch.equal(parameter, kept[name]) for name, parameter in network.named_parameters())
    assert not all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in kept.values())


@pytest.mark.parametrize("use", ["always", "better"])
def test_shards_leave_the_average_that_the_whole_leaves(tmp_path, alone, use):
    options = {"average": AverageConfig(share=0.7, use=use)}
    network, losses = trained_here(tmp_path / "shards", "fsdp", **options)
    expected, expected_losses = trained_here(tmp_path / "whole", "ddp", **options)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert losses[-1] != losses[-2]  # the average's own, not that of the last weights
    assert drift(network.state_dict(), expected.state_dict()) < 2e-5


def test_memory_that_runs_out_in_shards_ends_the_run_on_one_rank_too(tmp_path, alone):
    network = new_network(deep=True)
    calls = []

    def run_out(gradient):
        calls.append(gradient)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")  # as an allocation in the backward pass does
        return gradient

    def objective(inner, batch):
        hidden = inner.hidden(batch.ids_BT)
        hidden.register_hook(run_out)
        return inner.lm_head(hidden).float().square().sum()

    with pytest.raises(OutOfMemoryError, match="holds a shard"):
        new_trainer(tmp_path, network=network, objective=objective, steps=4, parallel="fsdp").run()


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
