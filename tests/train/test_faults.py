"""Unsound steps: no parameter changes on them, the policy decides what follows, and no statistic knows of them."""

import json
import math
import os
import time

import pytest
import torch
from tiny_training import DrawnSource, Poison, digest, metrics, new_network, new_trainer

from chatwright.foundation import storage
from chatwright.foundation.errors import DivergedError, ExitCode, StorageFailedError, StorageFullError
from chatwright.train.batches import MicroBatch
from chatwright.train.checkpoints import Checkpoints
from chatwright.train.faults import Candidate, FaultConfig, FaultGuard, Verdict
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig

ROLLBACK = FaultConfig(policy="rollback", maximum_skips=0)


def events(directory, name):
    return [line for line in metrics(directory) if line["event"] == name]


def poisoned(directory, kind, steps, *, network=None, times=None, **fields):
    """A trainer whose steps of these data numbers go wrong."""
    network, source = network or new_network(), DrawnSource()
    objective = Poison(kind, steps, network=network, source=source, times=times)
    return new_trainer(directory, network=network, source=source, objective=objective, **fields), network


def all_saved(directory):
    checkpoints = Checkpoints(directory / "checkpoints")
    for path in checkpoints.directory.glob("step-*"):
        saved = checkpoints.load(int(path.name.split("-")[1]))
        yield from [*saved.weights.values(), *saved.optimizer.values()]


def test_a_rollback_passes_over_the_data_from_the_checkpoint_to_the_fault(tmp_path):
    trainer, network = poisoned(tmp_path, "loss", [6], faults=ROLLBACK)
    trainer.run()
    (event,) = events(tmp_path, "rolled_back")
    assert (event["to_step"], event["failed_step"], event["passed_over"]) == (4, 7, 3)
    assert "micro-batch 0 is not finite" in event["reason"]

    class Jumping(DrawnSource):
        def step(self, number):  # data 4, 5 and 6 are never used
            return super().step(number if number < 4 else number + 3)

    straight = new_network()
    new_trainer(tmp_path / "straight", network=straight, source=Jumping()).run()
    assert digest(network) == digest(straight)
    steps = [line["loss"] for line in events(tmp_path, "step")]
    assert steps == [line["loss"] for line in events(tmp_path / "straight", "step")]


def test_a_second_rollback_to_the_same_checkpoint_leaves_the_first_in_the_log(tmp_path):
    trainer, _ = poisoned(tmp_path, "loss", [5, 7], faults=ROLLBACK)
    trainer.run()
    backs = [(line["to_step"], line["failed_step"], line["passed_over"]) for line in events(tmp_path, "rolled_back")]
    assert backs == [(4, 6, 2), (4, 6, 4)]


def test_after_going_back_the_schedule_is_told_which_data_a_step_has(tmp_path):
    asked = []

    class Recorded:
        def factor(self, step, total, *, number=None):  # noqa: ARG002 - as schedules have it
            asked.append((step, number))
            return 0.5

    trainer, _ = poisoned(tmp_path, "loss", [6], faults=ROLLBACK)
    trainer._schedule = Recorded()
    trainer.run()
    assert asked == [(step, step) for step in range(6)] + [(step, step + 3) for step in range(4, 12)]


def test_a_step_that_is_left_out_for_another_reason_leaves_the_loss_scale_alone(tmp_path):
    trainer, _ = poisoned(tmp_path, "loss", [2], precision="float16")
    trainer._stepper.scale = 8.0
    trainer.run()
    assert len(events(tmp_path, "skipped")) == 1
    assert trainer._stepper.scale == 8.0


def test_the_loss_scale_grows_after_so_many_accepted_steps_also_over_a_resume(tmp_path):
    first, _ = poisoned(tmp_path, "loss", [0], precision="float16")
    first._stepper.load({"step": 0, "scale": 8.0, "scale_steps": 1980})
    first.run()  # eleven steps are accepted
    (tmp_path / "checkpoints" / "step-00000012").rename(tmp_path / "away")
    again = new_trainer(tmp_path, precision="float16")
    again.run()
    assert again._stepper.state() == {"scale": 8.0, "scale_steps": 1991} == first._stepper.state()
    for _ in range(9):
        again._stepper.apply(0.0)
    assert again._stepper.state() == {"scale": 16.0, "scale_steps": 0}


def test_a_gradient_that_overflows_float16_lowers_the_loss_scale_and_is_no_fault_of_the_run(tmp_path):
    network = new_network(deep=True)
    trainer = new_trainer(
        tmp_path, network=network, precision="float16", steps=12, faults=FaultConfig(policy="stop", maximum_skips=0)
    )
    trainer._stepper.scale = 2.0**22
    trainer.run()
    skipped = events(tmp_path, "skipped")
    assert 0 < len(skipped) < 12
    assert all("gradient" in line["reason"] and "loss scale is lowered" in line["reason"] for line in skipped)
    assert trainer._stepper.scale == 2.0 ** (22 - len(skipped))
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_a_rollback_before_the_first_checkpoint_goes_to_the_start(tmp_path):
    trainer, network = poisoned(tmp_path, "gradient", [2], faults=ROLLBACK)
    trainer.run()
    (event,) = events(tmp_path, "rolled_back")
    assert (event["to_step"], event["passed_over"]) == (0, 3)
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_a_run_killed_after_a_rollback_goes_on_to_the_same_bits_and_the_same_log(tmp_path):
    trainer, network = poisoned(tmp_path / "straight", "loss", [6], faults=ROLLBACK)
    trainer.run()

    class Killed(DrawnSource):
        def step(self, number):
            if number == 9:  # two steps behind the rollback, none of them saved
                raise KeyboardInterrupt
            return super().step(number)

    halves = tmp_path / "halves"
    first, source = new_network(), Killed()
    poison = Poison("loss", [6], network=first, source=DrawnSource())
    with pytest.raises(KeyboardInterrupt):
        new_trainer(halves, network=first, source=source, objective=poison, faults=ROLLBACK).run()
    trainer, again = poisoned(halves, "loss", [6], faults=ROLLBACK)
    trainer.run()
    assert digest(again) == digest(network)
    assert metrics(halves) == metrics(tmp_path / "straight")


def test_after_so_many_rollbacks_the_run_stops_where_it_can_go_on(tmp_path):
    faults = FaultConfig(policy="rollback", maximum_skips=1, maximum_rollbacks=2)
    trainer, _ = poisoned(tmp_path, "loss", range(5, 12), faults=faults)
    with pytest.raises(DivergedError) as caught:
        trainer.run()
    assert caught.value.exit_code == ExitCode.STOPPED
    assert caught.value.kept == "the checkpoint of step 4"
    assert len(events(tmp_path, "diverged")) == 1
    assert all(torch.isfinite(tensor).all() for tensor in all_saved(tmp_path))


def test_the_policy_stop_ends_before_the_update_with_everything_saved(tmp_path):
    trainer, network = poisoned(tmp_path, "gradient", [6], faults=FaultConfig(policy="stop"))
    with pytest.raises(DivergedError, match="step 7 could not be used: the gradient is not finite") as caught:
        trainer.run()
    assert caught.value.exit_code == ExitCode.STOPPED
    assert caught.value.kept == "the checkpoint of step 6"
    resumed, straight = new_network(), new_network()
    new_trainer(tmp_path, network=resumed).run()  # what was wrong with the step is not there any more
    new_trainer(tmp_path / "straight", network=straight).run()
    assert digest(resumed) == digest(straight)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("rule", ["muon", "adamw"])
def test_a_weight_that_is_not_finite_is_never_saved(tmp_path, policy, rule):
    """Also where no token of the batch meets it, so that the loss is as sound as ever."""
    network = new_network()
    trainer, _ = poisoned(
        tmp_path,
        "unused weight",
        [6],
        times=1,
        network=network,
        faults=FaultConfig(policy=policy),
        optimizer=OptimizerConfig(kind=rule),
    )
    if policy == "rollback":
        trainer.run()
        assert events(tmp_path, "rolled_back")[0]["to_step"] == 4
    else:
        with pytest.raises(DivergedError, match="not finite") as caught:
            trainer.run()
        assert caught.value.kept == "the checkpoint of step 4"
    assert all(torch.isfinite(tensor).all() for tensor in all_saved(tmp_path))


@pytest.mark.parametrize("rule", ["muon", "adamw"])
def test_optimizer_state_that_is_not_finite_moves_no_parameter(tmp_path, rule):
    network = new_network()
    kinds = {"muon": "momentum.", "adamw": "exp_avg_sq."}

    class Spoiling(DrawnSource):
        def step(self, number):
            if number == 6:
                tensors = trainer._optimizer.tensors()
                next(value for key, value in tensors.items() if key.startswith(kinds[rule])).view(-1)[3] = math.inf
                trainer._optimizer.load(tensors)
                before.append(digest(network))
            return super().step(number)

    before = []
    trainer = new_trainer(tmp_path, network=network, source=Spoiling(), optimizer=OptimizerConfig(kind=rule))
    with pytest.raises(DivergedError, match="weights or optimizer state"):
        trainer.run()
    assert digest(network) == before[0]
    assert all(torch.isfinite(tensor).all() for tensor in all_saved(tmp_path))


def test_statistics_are_those_of_accepted_steps(tmp_path):
    guard = FaultGuard(FaultConfig(spike_sigmas=6, maximum_skips=3))
    for step in range(40):
        guard.judge(Candidate(3.0 + step % 5 / 10, 1.0 + step % 3 / 10, 100))
        if step >= 16:
            guard.judge(Candidate((math.nan, math.inf, 90.0)[step % 3], 1.0, 100))
    state = guard.state()
    assert len(state["losses"]) == 40
    assert max(state["losses"]) < 3.5
    assert max(state["norms"]) < 1.5
    json.dumps(state, allow_nan=False)


def test_a_spike_is_one_above_the_mean_by_so_many_deviations_and_only_once_there_is_a_mean():
    guard = FaultGuard(FaultConfig(spike_sigmas=6))
    assert guard.judge(Candidate(50.0, 1.0, 100)).verdict is Verdict.ACCEPT
    guard = FaultGuard(FaultConfig(spike_sigmas=6))
    for step in range(20):
        guard.judge(Candidate(3.0 + step % 2 / 10, 1.0 + step % 2 / 10, 100))
    judged = guard.judge(Candidate(3.06, 1.8, 100))
    assert judged.verdict is Verdict.SKIP
    assert judged.reason == "the gradient's norm of 1.8 is a spike: above 1.35"
    assert guard.judge(Candidate(3.2, 1.2, 100)).verdict is Verdict.ACCEPT


class Counting(DrawnSource):
    """Most tokens are one above the one before, the rest is drawn; in poisoned steps all are drawn."""

    def __init__(self, *, poisoned=()):
        super().__init__()
        self._poisoned = poisoned

    def step(self, number):
        generator = torch.Generator().manual_seed(number)
        counted = (torch.randint(50, (8, 1), generator=generator) + torch.arange(13)) % 50
        drawn = torch.randint(50, (8, 13), generator=generator)
        is_drawn = torch.rand(8, 13, generator=generator) < (1.0 if number in self._poisoned else 0.2)
        rows = torch.where(is_drawn, drawn, counted)
        return [MicroBatch(part[:, :-1], part[:, 1:], part[:, 1:].numel()) for part in rows.split(4)]


def heavy_where_poisoned(network, batch):
    """The next token, drawn tokens at a hundred times the weight."""
    steps_BT = (batch.targets_BT - batch.ids_BT) % 50
    return next_token(network, batch) * (1.0 if float((steps_BT == 1).float().mean()) > 0.3 else 100.0)


def final_loss(directory, poisoned, faults):
    network = new_network()
    optimizer = OptimizerConfig(kind="adamw", learning_rate=0.01, maximum_norm=1e6)
    new_trainer(
        directory,
        network=network,
        steps=80,
        source=Counting(poisoned=poisoned),
        objective=heavy_where_poisoned,
        optimizer=optimizer,
        faults=faults,
        checkpoint_every=80,
        evaluate_every=80,
    ).run()
    batches = [batch for number in range(1000, 1010) for batch in Counting().step(number)]
    with torch.no_grad():
        return sum(float(next_token(network, batch)) for batch in batches) / sum(b.num_targets for b in batches)


def test_a_stretch_of_poisoned_batches_costs_a_guarded_run_less_than_a_hundredth(tmp_path):
    poisoned = range(50, 54)
    clean = final_loss(tmp_path / "clean", (), FaultConfig())
    bare = final_loss(tmp_path / "bare", poisoned, FaultConfig())
    guarded = final_loss(tmp_path / "guarded", poisoned, FaultConfig(spike_sigmas=6))
    print(f"clean {clean:.5f} bare {bare:.5f} guarded {guarded:.5f}")
    assert bare > 1.05 * clean
    assert abs(guarded - clean) < 0.01 * clean
    assert [line["step"] for line in events(tmp_path / "guarded", "skipped")] == [step + 1 for step in poisoned]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"policy": "stop", "maximum_skips": 3}, "maximum_skips"),
        ({"maximum_rollbacks": 9}, "maximum_rollbacks"),
        ({"spike_window": 64}, "spike_window"),
    ],
)
def test_a_setting_that_the_policy_does_not_use_is_refused(fields, told):
    assert any(told in problem for problem in FaultConfig(**fields).problems())
    assert not list(FaultConfig(**FaultConfig().model_dump()).problems())


@pytest.mark.parametrize("years", [-50, -10, 10, 30])
def test_jumps_of_the_clock_change_neither_weights_nor_the_choice_of_the_newest(tmp_path, monkeypatch, years):
    straight, jumping = new_network(), new_network()
    new_trainer(tmp_path / "straight", network=straight).run()
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + years * 31_557_600 * (next(calls) % 2))
    with pytest.raises(DivergedError):
        poisoned(tmp_path / "run", "loss", [6], faults=FaultConfig(policy="stop"))[0].run()
    for index, path in enumerate(sorted((tmp_path / "run" / "checkpoints").glob("step-*"))):
        stamp = max(0.0, 1.7e9 + years * 31_557_600 * index)
        os.utime(path, (stamp, stamp))
    new_trainer(tmp_path / "run", network=jumping).run()
    assert digest(jumping) == digest(straight)
    durations = [
        line["seconds"] for line in storage.read_lines(tmp_path / "run" / "metrics.jsonl") if "seconds" in line
    ]
    assert min(durations) >= 0
    assert durations == sorted(durations)


@pytest.mark.parametrize(
    "error", [StorageFullError("no room"), OSError(5, "Input/output error")], ids=["full", "fails"]
)
def test_a_log_that_cannot_be_written_for_a_while_loses_no_line_and_ends_no_run(tmp_path, monkeypatch, error):
    straight = tmp_path / "straight"
    new_trainer(straight).run()
    real, refused = storage.append_line, []

    def full(path, value):
        if value.get("step") in (3, 6) and len(refused) < 4:
            refused.append(value)
            raise error
        real(path, value)

    monkeypatch.setattr(storage, "append_line", full)
    new_trainer(tmp_path / "run").run()
    assert len(refused) == 4
    assert metrics(tmp_path / "run") == metrics(straight)


def test_a_log_that_still_cannot_be_written_at_the_end_is_named(tmp_path, monkeypatch):
    def failing(path, value):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "append_line", failing)
    with pytest.raises(StorageFailedError, match="metrics.jsonl` could not be written: Input/output error"):
        new_trainer(tmp_path).run()
    assert Checkpoints(tmp_path / "checkpoints").newest_step() == 12
