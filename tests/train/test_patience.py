"""A run ends where held-out loss no longer falls, if that was asked for, and a resumed one at the same step."""

import math

import pytest
import torch
from tiny_training import DrawnSource, StoppingSource, digest, metrics, new_network, new_trainer

from chatwright.foundation.errors import StoppedError, UsageError
from chatwright.foundation.stopping import StopFlag


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def falling_until(trainer_step, best):
    """A measurement whose loss falls to a step and rises afterwards."""
    return lambda: {"bits_per_byte": {"all": float(abs(trainer_step() - best))}}


class Counting(DrawnSource):
    """A source that knows how far the run is."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def step(self, number):
        self.steps = number + 1
        return super().step(number)


def run(directory, *, source, network, patience, **fields):
    evaluate = falling_until(lambda: source.steps, 6)
    habits = {"evaluate_every": 2, "patience": patience, "steps": 40} | fields
    return new_trainer(directory, network=network, source=source, evaluate=evaluate, **habits).run


def test_a_run_ends_after_so_many_measurements_without_a_lower_loss(tmp_path):
    summary = run(tmp_path, source=Counting(), network=new_network(), patience=3)()
    assert summary["steps"] == 12  # best at 6; 8, 10 and 12 are no better
    (ended,) = [line for line in metrics(tmp_path) if line["event"] == "ended_early"]
    assert (ended["step"], ended["best"]) == (12, 0.0)
    assert (tmp_path / "checkpoints" / "step-00000012").is_dir()


def test_a_run_that_ended_early_is_not_gone_on_with(tmp_path):
    run(tmp_path, source=Counting(), network=new_network(), patience=3)()
    before = metrics(tmp_path)
    assert run(tmp_path, source=Counting(), network=new_network(), patience=3)()["steps"] == 12
    assert metrics(tmp_path) == before


def test_a_resumed_run_has_the_patience_that_was_left(tmp_path):
    class Stopped(Counting, StoppingSource):
        def __init__(self, flag):
            StoppingSource.__init__(self, flag, 9)
            self.steps = 0

    straight = new_network()
    run(tmp_path / "straight", source=Counting(), network=straight, patience=3)()
    flag = StopFlag()
    with pytest.raises(StoppedError):
        run(tmp_path / "halves", source=Stopped(flag), network=new_network(), patience=3)(flag)
    resumed = new_network()
    run(tmp_path / "halves", source=Counting(), network=resumed, patience=3)()
    assert digest(resumed) == digest(straight)
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "straight")


def test_a_measurement_that_is_not_finite_is_logged_as_none_and_compares_with_nothing(tmp_path):
    values = iter([2.0, math.nan, 1.0, 1.5])
    trainer = new_trainer(
        tmp_path,
        evaluate_every=3,
        evaluate=lambda: {"bits_per_byte": {"all": next(values, 1.5)}, "worst": [{"bits": math.inf}]},
        patience=2,
        keep_best=True,
    )
    trainer.run()
    found = [row["bits_per_byte"]["all"] for row in metrics(tmp_path) if row["event"] == "evaluation"]
    assert found[:4] == [2.0, None, 1.0, 1.5]


def test_patience_without_a_held_out_loss_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="held-out"):
        new_trainer(tmp_path, patience=2).run()
