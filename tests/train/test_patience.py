"""A run ends where held-out loss no longer falls, if that was asked for, and a resumed one at the same step."""

import math

import pytest
import torch
from tiny_training import DrawnSource, StoppingSource, digest, metrics, new_network, new_trainer

from chatwright.foundation.errors import StoppedError, UsageError
from chatwright.foundation.stopping import StopFlag
from chatwright.train.average import AverageConfig
from chatwright.train.checkpoints import Checkpoints


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


def weights_of(directory, step):
    return Checkpoints(directory / "checkpoints").load(step).weights


def test_where_the_best_is_kept_a_run_that_ends_early_leaves_its_weights_and_says_so(tmp_path, capsys):
    for _ in range(2):  # a run that is called again leaves the same
        network = new_network(seed=7)
        summary = run(tmp_path, source=Counting(), network=network, patience=3, keep_best=True, checkpoint_every=2)()
        best = weights_of(tmp_path, 6)
        assert all(torch.equal(best[name], parameter) for name, parameter in network.named_parameters())
        assert summary["evaluation"]["bits_per_byte"]["all"] == 0.0
        assert summary["steps"] == 12
        assert "leaves the weights of step 6, the best that was kept" in capsys.readouterr().err


def test_without_it_the_last_weights_are_left(tmp_path):
    network = new_network()
    run(tmp_path, source=Counting(), network=network, patience=3, checkpoint_every=2)()
    last = weights_of(tmp_path, 12)
    assert all(torch.equal(last[name], parameter) for name, parameter in network.named_parameters())


ALL = AverageConfig(share=1.0, use="always")


@pytest.mark.parametrize("in_background", [True, False])
def test_an_average_that_an_early_end_leaves_is_left_again_when_the_run_is_called_again(tmp_path, in_background):
    straight, again = new_network(), new_network(seed=9)
    fields = {"patience": 3, "average": ALL, "save_in_background": in_background}
    run(tmp_path, source=Counting(), network=straight, **fields)()
    run(tmp_path, source=Counting(), network=again, **fields)()
    last = weights_of(tmp_path, 12)
    assert not all(torch.equal(last[name], parameter) for name, parameter in straight.named_parameters())
    assert digest(again) == digest(straight)


def test_a_run_that_is_killed_while_its_average_is_weighed_leaves_what_an_unbroken_one_leaves(tmp_path):
    def killed_at_the_average(source):
        seen = []

        def evaluate():
            seen.append(source.steps)
            if seen[-2:] == [12, 12]:  # the step's own weights, then the average's
                raise KeyboardInterrupt
            return {"bits_per_byte": {"all": float(abs(source.steps - 6))}}

        return evaluate

    straight, resumed, source = new_network(), new_network(seed=9), Counting()
    run(tmp_path / "straight", source=Counting(), network=straight, patience=3, average=ALL)()
    habits = {"evaluate_every": 2, "patience": 3, "steps": 40, "average": ALL}
    with pytest.raises(KeyboardInterrupt):
        new_trainer(tmp_path / "halves", source=source, evaluate=killed_at_the_average(source), **habits).run()
    run(tmp_path / "halves", source=Counting(), network=resumed, patience=3, average=ALL)()
    assert digest(resumed) == digest(straight)
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "straight")


def test_a_stop_at_the_last_measurement_changes_nothing_of_what_is_left(tmp_path):
    class Stopped(Counting, StoppingSource):
        def __init__(self, flag):
            StoppingSource.__init__(self, flag, 12)
            self.steps = 0

    straight, stopped, flag = new_network(), new_network(), StopFlag()
    run(tmp_path / "straight", source=Counting(), network=straight, patience=3, average=ALL)()
    run(tmp_path / "stopped", source=Stopped(flag), network=stopped, patience=3, average=ALL)(flag)
    assert digest(stopped) == digest(straight)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "straight")


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
