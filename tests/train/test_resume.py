"""Stopped anywhere and resumed: the bits, the random streams and the log of an unbroken run."""

import hashlib

import pytest
import torch
from tiny_training import DrawnSource, StoppingSource, digest, metrics, new_network, new_trainer

from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import BusyError, RefusedError, StoppedError
from chatwright.foundation.stopping import StopFlag
from chatwright.train.checkpoints import Checkpoints
from chatwright.train.objectives import next_token
from chatwright.train.resume import circumstances, differences

STEPS = 20
FIELDS = {"steps": STEPS, "with_adapter": True, "log_every": 1}  # an adapter has dropout: randomness within a step


class Drawing:
    """The next token, and a record of what the random stream gives within each micro-batch."""

    def __init__(self):
        self.draws = {}

    def __call__(self, network, batch):
        loss = next_token(network, batch)
        key = hashlib.sha256(batch.ids_BT.numpy().tobytes()).hexdigest()
        self.draws[key] = float(torch.rand(()))
        return loss


def bits(directory, step):
    """SHA-256 over weights and optimizer state of a checkpoint."""
    saved = Checkpoints(directory / "checkpoints").load(step)
    found = hashlib.sha256()
    for tensors in (saved.weights, saved.optimizer):
        for name in sorted(tensors):
            found.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def without_times(state):
    return {key: value for key, value in state.items() if key not in ("seconds", "window")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory, drawing = tmp_path_factory.mktemp("unbroken"), Drawing()
    new_trainer(directory, objective=drawing, **FIELDS).run()
    return directory, drawing.draws


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_run_stopped_at_any_step_has_the_losses_weights_state_and_draws_of_an_unbroken_one(tmp_path, unbroken, step):
    directory, draws = unbroken
    flag, drawing = StopFlag(), Drawing()
    with pytest.raises(StoppedError):
        new_trainer(tmp_path, source=StoppingSource(flag, step), objective=drawing, **FIELDS).run(flag)
    new_trainer(tmp_path, objective=drawing, **FIELDS).run()
    assert metrics(tmp_path) == metrics(directory)
    assert bits(tmp_path, STEPS) == bits(directory, STEPS)
    assert drawing.draws == draws
    saved = [Checkpoints(place / "checkpoints").load(STEPS).state for place in (tmp_path, directory)]
    assert without_times(saved[0]) == without_times(saved[1])


class Interrupted:
    """The next token, until the process is told to end between two micro-batches."""

    def __init__(self, at):
        self._left = at

    def __call__(self, network, batch):
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return next_token(network, batch)


@pytest.mark.parametrize("reduction", ["fast", "exact"])
@pytest.mark.parametrize("micro_batch", [9, 15, 21, 27])
def test_a_run_that_ends_between_two_micro_batches_of_a_step_leaves_no_trace(tmp_path, micro_batch, reduction):
    fields = {"steps": 6, "reduction": reduction, "checkpoint_every": 2}
    straight, resumed = new_network(), new_network()
    source = DrawnSource(rows=8, micro_rows=2)
    new_trainer(tmp_path / "straight", network=straight, source=source, **fields).run()
    if micro_batch < 24:
        with pytest.raises(KeyboardInterrupt):
            new_trainer(tmp_path / "halves", source=source, objective=Interrupted(micro_batch), **fields).run()
    new_trainer(tmp_path / "halves", network=resumed, source=source, **fields).run()
    assert digest(resumed) == digest(straight)
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "straight")


def test_a_second_training_in_the_same_directory_is_refused_while_the_first_one_runs(tmp_path):
    class Meeting(DrawnSource):
        def step(self, number):
            if number == 2:
                with pytest.raises(BusyError, match="another process works on"):
                    new_trainer(tmp_path).run()
            return super().step(number)

    new_trainer(tmp_path, source=Meeting()).run()
    assert new_trainer(tmp_path).run()["steps"] == 12


def test_each_changed_circumstance_is_named_and_none_else():
    place = Placement(torch.device("cpu"), "float32", 2, "a test")
    before = circumstances(place, reduction="fast", num_ranks=1)
    assert differences(before, before) == []
    for key, value in {"torch": "1.0", "instructions": "AVX2", "device": "s390x", "threads": 7}.items():
        (told,) = differences({**before, key: value}, before)
        assert told == f"{key} was {value} and is now {before[key]}"
    many = circumstances(place._replace(precision="bfloat16", threads=1), reduction="exact", num_ranks=4)
    assert [line.split()[0] for line in differences(before, many)] == ["threads", "precision", "reduction", "ranks"]


def test_with_exact_sums_another_number_of_ranks_is_no_difference():
    place = Placement(torch.device("cpu"), "float32", 1, "a test")
    one, four = (circumstances(place, reduction="exact", num_ranks=ranks) for ranks in (1, 4))
    assert differences(one, four) == []


def test_a_resumed_run_tells_what_has_changed(tmp_path, monkeypatch, capsys):
    flag = StopFlag()
    with pytest.raises(StoppedError):
        new_trainer(tmp_path, source=StoppingSource(flag, 3)).run(flag)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ALTIVEC")
    new_trainer(tmp_path).run()
    told = capsys.readouterr().err
    assert "instructions was" in told
    assert "and is now ALTIVEC: the result may not be the same to the bit" in told


def test_a_state_of_another_version_is_refused(tmp_path):
    flag = StopFlag()
    with pytest.raises(StoppedError):
        new_trainer(tmp_path, source=StoppingSource(flag, 3)).run(flag)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    saved = checkpoints.load(3)
    checkpoints.save(3, saved._replace(state={**saved.state, "version": 99}))
    with pytest.raises(RefusedError, match="made by another version"):
        new_trainer(tmp_path).run()
