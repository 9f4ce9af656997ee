"""The average over a run's tail: the right values, exact on resume, and left in place of the last weights where it should be."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import DrawnSource, Poison, StoppingSource, digest, metrics, new_network, new_trainer
from torch import nn

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, StoppedError, UsageError
from chatwright.foundation.stopping import StopFlag
from chatwright.train.average import AverageConfig, TailAverage
from chatwright.train.checkpoints import Checkpoints
from chatwright.train.faults import FaultConfig

HALF = AverageConfig(share=0.5, use="always")  # of twelve steps the last six


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def averaged(config, values, *, steps):
    parameter = nn.Parameter(torch.zeros(1))
    average = TailAverage(config, [("w", parameter)], steps=steps)
    for step, value in enumerate(values, start=1):
        parameter.data.fill_(value)
        average.see(step)
    return average.tensors(), average.num_steps


def test_the_mean_is_that_of_the_weights_after_each_step_of_the_tail():
    found, num_steps = averaged(AverageConfig(share=0.4), [1.0, 5.0, 2.0, 3.0, 10.0, 4.0, 8.0, 9.0, 7.0, 1.0], steps=10)
    assert num_steps == 4
    assert float(found["w"]) == pytest.approx((8 + 9 + 7 + 1) / 4)


def test_an_exponential_average_begins_as_a_mean_and_then_forgets():
    config = AverageConfig(share=1.0, kind="ema", decay=0.75)
    values = [4.0, 2.0, 6.0, 0.0, 8.0, 1.0]
    expected = sum(values[:4]) / 4
    for value in values[4:]:
        expected = 0.75 * expected + 0.25 * value
    found, _ = averaged(config, values, steps=6)
    assert float(found["w"]) == pytest.approx(expected)


def test_without_settings_there_is_none_and_no_copy_is_held():
    assert averaged(None, [1.0, 2.0], steps=2) == ({}, 0)


def test_the_run_leaves_the_average_of_its_last_steps(tmp_path):
    network, kept = new_network(), {}

    def record():
        kept[len(kept)] = {name: p.detach().clone() for name, p in network.named_parameters()}
        return {}

    summary = new_trainer(tmp_path, network=network, evaluate=record, evaluate_every=1, average=HALF).run()
    assert summary["steps"] == 12
    for name, parameter in network.named_parameters():
        mean = torch.stack([kept[step][name] for step in range(7, 13)]).double().mean(dim=0)
        assert float((parameter.detach() - mean).abs().max()) < 1e-6
    saved = Checkpoints(tmp_path / "checkpoints").load(12)
    assert all(torch.equal(saved.weights[name], kept[12][name]) for name in saved.weights)  # of the step, not the mean
    assert all(torch.equal(saved.average[name], network.get_parameter(name)) for name in saved.average)


@pytest.mark.parametrize("kind", ["mean", "ema"])
@pytest.mark.parametrize("step", [3, 6, 7, 11])
def test_a_run_stopped_before_or_within_its_tail_leaves_the_same_bits(tmp_path, kind, step):
    average = AverageConfig(share=0.5, kind=kind, decay=0.6 if kind == "ema" else 0.99, use="always")
    straight, resumed, flag = new_network(), new_network(seed=9), StopFlag()
    new_trainer(tmp_path / "straight", network=straight, average=average).run()
    with pytest.raises(StoppedError):
        new_trainer(tmp_path / "halves", source=StoppingSource(flag, step), average=average).run(flag)
    new_trainer(tmp_path / "halves", network=resumed, average=average).run()
    assert digest(resumed) == digest(straight)
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "straight")
    places = [
        tmp_path / name / "checkpoints" / "step-00000012" / "average.safetensors" for name in ("straight", "halves")
    ]
    assert places[0].read_bytes() == places[1].read_bytes()


def measured(network, *, wants_average):
    """A held-out loss that says of the average's weights, which are no step's, what is wanted."""
    seen = []

    def evaluate():
        seen.append(digest(network))
        is_average = len(seen) > 3  # measured at steps 0, 10 and 12, and then the average
        return {"bits_per_byte": {"all": 2.0 - 0.1 * (is_average == wants_average)}}

    return evaluate


@pytest.mark.parametrize("wants_average", [True, False])
def test_the_better_one_is_left_and_said(tmp_path, wants_average):
    network = new_network()
    evaluate = measured(network, wants_average=wants_average)
    average = AverageConfig(share=0.5)
    summary = new_trainer(tmp_path, network=network, evaluate=evaluate, evaluate_every=10, average=average).run()
    (event,) = [line for line in metrics(tmp_path) if line["event"] == "averaged"]
    assert event["is_used"] is wants_average
    assert event["steps"] == 6
    assert summary["evaluation"]["bits_per_byte"]["all"] == 1.9
    place = tmp_path / "checkpoints" / "step-00000012"
    left = load_file(place / ("average.safetensors" if wants_average else "weights.safetensors"))
    assert all(torch.equal(left[name], network.get_parameter(name)) for name in left)


def test_a_finished_run_that_is_called_again_leaves_the_average_again_and_measures_nothing(tmp_path):
    straight, again = new_network(), new_network(seed=9)
    new_trainer(tmp_path, network=straight, average=HALF).run()
    log = metrics(tmp_path)
    new_trainer(tmp_path, network=again, average=HALF).run()
    assert digest(again) == digest(straight)
    assert metrics(tmp_path) == log


def test_measuring_the_average_leaves_the_steps_bits_as_they_were(tmp_path):
    new_trainer(tmp_path / "with", average=HALF).run()
    new_trainer(tmp_path / "without").run()
    one, other = (Checkpoints(tmp_path / name / "checkpoints").load(12) for name in ("with", "without"))
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in other.weights)
    assert all(torch.equal(one.optimizer[name], other.optimizer[name]) for name in other.optimizer)
    assert other.average is None


def test_a_step_that_was_left_out_is_not_averaged(tmp_path):
    network, source = new_network(), DrawnSource()
    poison = Poison("loss", [8], network=network, source=source)
    new_trainer(tmp_path, network=network, source=source, objective=poison, average=HALF).run()
    (event,) = [line for line in metrics(tmp_path) if line["event"] == "averaged"]
    assert event["steps"] == 5


def test_a_run_that_went_back_averages_only_the_steps_that_count(tmp_path):
    network, source = new_network(), DrawnSource()
    poison = Poison("weights", [9], network=network, source=source, times=1)
    faults = FaultConfig(policy="rollback")
    new_trainer(tmp_path, network=network, source=source, objective=poison, average=HALF, faults=faults).run()
    (back,) = [line for line in metrics(tmp_path) if line["event"] == "rolled_back"]
    assert back["to_step"] == 8
    (event,) = [line for line in metrics(tmp_path) if line["event"] == "averaged"]
    assert event["steps"] == 6
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_a_damaged_average_is_found_as_any_file_of_a_checkpoint_is(tmp_path, capsys):
    flag, straight, resumed = StopFlag(), new_network(), new_network(seed=9)
    new_trainer(tmp_path / "straight", network=straight, average=HALF).run()
    with pytest.raises(StoppedError):
        new_trainer(tmp_path / "halves", source=StoppingSource(flag, 9), average=HALF).run(flag)
    path = tmp_path / "halves" / "checkpoints" / "step-00000009" / "average.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    new_trainer(tmp_path / "halves", network=resumed, average=HALF).run()
    assert "passed over" in capsys.readouterr().err
    assert digest(resumed) == digest(straight)


def test_the_better_one_of_what_is_not_measured_is_refused_before_the_first_step(tmp_path):
    network = new_network()
    trainer = new_trainer(tmp_path, network=network)  # its measurement gives no held-out loss: the last weights stay
    with pytest.raises(UsageError, match="there are none"):
        TailAverage(AverageConfig(), list(network.named_parameters()), steps=12, is_measured=False)
    trainer.run()
    last = digest(network)
    again = new_network()
    new_trainer(tmp_path / "unmeasured", network=again, average=AverageConfig()).run()
    assert digest(again) == last


def test_settings_without_effect_are_refused():
    with pytest.raises(ConfigError, match="`decay` has no effect"):
        validate(AverageConfig, {"decay": 0.5}, where="a recipe")
