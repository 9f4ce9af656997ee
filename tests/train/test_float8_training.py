"""A training whose blocks multiply in 8-bit floats: it learns, and resume, shards and files are as in any other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_golden import STEPS, Counting, Recorder, new_golden_network
from tiny_training import StoppingSource, digest, metrics, new_trainer

from chatwright.foundation import devices, storage
from chatwright.foundation.errors import StoppedError, UsageError
from chatwright.foundation.stopping import StopFlag
from chatwright.model.directory import load_model, save_model
from chatwright.model.float8 import Float8Linear, multiply_in_float8
from chatwright.model.network import Network
from chatwright.train.footprint import kept_bytes
from chatwright.train.objectives import next_token


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses(directory, precision):
    """The losses of the golden steps in a precision."""
    recorder = Recorder(parts=1)
    source = Counting(rows=8, micro_rows=8)
    trainer = new_trainer(
        directory,
        network=new_golden_network(),
        source=source,
        steps=STEPS,
        objective=recorder,
        precision=precision,
        evaluate=lambda: {"nats": 0.0},
        checkpoint_every=STEPS,
    )
    trainer.run()
    return recorder.losses


def test_fifty_steps_learn_as_in_bfloat16(tmp_path):
    rounded, wanted = losses(tmp_path / "float8", "float8"), losses(tmp_path / "bfloat16", "bfloat16")
    assert rounded != wanted
    assert wanted[-1] < wanted[0] - 1
    # Nats; a product's error is some percent, the loss's much less: 0.004 was measured (docs/log.md).
    assert max(abs(one - other) for one, other in zip(rounded, wanted, strict=True)) < 0.02


def trained(directory, *, flag=None, network=None, **fields):
    network = network or new_golden_network()
    source = StoppingSource(flag, 7) if flag else None
    new_trainer(directory, network=network, source=source, precision="float8", **fields).run(flag)
    return network


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    straight = trained(tmp_path / "straight")
    flag = StopFlag()
    with pytest.raises(StoppedError):
        trained(tmp_path / "halved", flag=flag)
    assert digest(trained(tmp_path / "halved")) == digest(straight)
    assert metrics(tmp_path / "halved") == metrics(tmp_path / "straight")


def test_recomputed_blocks_learn_the_same_bits(tmp_path):
    assert digest(trained(tmp_path / "kept")) == digest(trained(tmp_path / "again", recompute=True))


def test_measured_is_what_will_be_saved(tmp_path):
    network, source = new_golden_network(), Counting()
    (batch, *_) = source.step(99)

    def evaluate():
        return {"nats": float(next_token(network, batch))}

    trained(tmp_path, network=network, evaluate=evaluate)
    plain = new_golden_network()
    plain.load_state_dict(network.state_dict())
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = float(next_token(plain.eval(), batch))
    assert [line["nats"] for line in metrics(tmp_path) if line["event"] == "evaluation"][-1] == wanted


def test_the_model_is_saved_as_any_other(tmp_path, make_network, tiny_tokenizer):
    network = make_network(width=32, heads=2, key_heads=2, head_width=16, mlp_width=48)
    save_model(tmp_path / "before", network, tiny_tokenizer, lineage={})
    multiply_in_float8(network)
    save_model(tmp_path / "after", network, tiny_tokenizer, lineage={})
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    opened = load_model(tmp_path / "after").network
    assert digest(opened) == digest(network)
    assert not any(isinstance(module, Float8Linear) for module in opened.modules())


def test_adapters_and_sizes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UsageError, match="not adapters or heads"):
        new_trainer(tmp_path, with_adapter=True, precision="float8")
    with pytest.raises(UsageError, match="16 divides"):
        new_trainer(tmp_path, precision="float8")


def test_a_run_keeps_its_precision(tmp_path):
    def settled(precision):
        return devices.settled_placement(tmp_path, device="cpu", precision=precision, threads=1, width=16)

    assert settled("float8").precision == "float8"
    assert storage.read_json(tmp_path / "placement.json")["precision"] == "float8"
    assert settled("auto").precision == "float8"


def test_predicted_memory_is_that_of_bfloat16():
    shape = new_golden_network().config
    assert kept_bytes(shape, rows=2, precision="float8") == kept_bytes(shape, rows=2, precision="bfloat16")


def test_shards_of_one_rank_learn_what_a_whole_network_learns(tmp_path):
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__)), str(tmp_path / "shards")]
    subprocess.run(command, env=settings, check=True, timeout=240)
    trained(tmp_path / "whole")
    sharded, whole = metrics(tmp_path / "shards"), metrics(tmp_path / "whole")
    steps = [(one, other) for one, other in zip(sharded, whole, strict=True) if one["event"] == "step"]
    assert steps
    for one, other in steps:
        assert one["loss"] == pytest.approx(other["loss"], abs=0.02)  # gathered in bfloat16, then rounded


if __name__ == "__main__":  # a group of processes, even of one, belongs to a process of its own
    torch.set_num_threads(1)
    whole = new_golden_network()
    shapes = {"network": Network.without_memory(whole.config), "values": whole.named_parameters()}
    trained(Path(sys.argv[1]), **shapes, parallel="fsdp", evaluate=lambda: {"weights": 0.0})
