"""Real processes: killed at random instants, stopped by signals, and several of them training one model over gloo.

`CHATWRIGHT_KILLS` says how many kills there are; the promise is 200, the default is what a test suite has time for.
"""

import os
import random
import shutil
import signal
from functools import partial

import pytest
import torch
from processes import Training, only_one_lives, parted, same_bits, saved, start_ranks, wait_until, wait_until_ready
from tiny_training import metrics

from chatwright.foundation.errors import ExitCode
from chatwright.train.checkpoints import Checkpoints
from chatwright.train.faults import FaultConfig

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CHATWRIGHT_KILLS", "12"))
STEPS = 24


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    return Training(directory, steps=STEPS).finish(), directory


def newest_step(directory):
    return Checkpoints(directory / "checkpoints").newest_step() or 0


def reached(directory, step):
    return any(line["step"] >= step for line in metrics(directory))


def test_trainings_killed_at_random_instants_end_with_the_bits_and_the_log_of_an_unbroken_one(tmp_path, unbroken):
    expected, straight = unbroken
    chance, directory, killed, life = random.Random(3), tmp_path / "run", 0, 0.0
    finished = 0
    while killed < KILLS:
        before = newest_step(directory) if directory.exists() else 0
        training = Training(directory, steps=STEPS)
        training.process.join(chance.random() * (life or 0.5))
        ended = training.kill()
        if ended.code == 0:  # it came to its end: the next one begins anew
            assert training.finish() == expected
            finished, life = finished + 1, life * 0.9
            shutil.rmtree(directory)
            continue
        assert ended.code == -signal.SIGKILL, ended.output
        killed += 1
        assert newest_step(directory) >= before  # no kill loses what was saved
        life = max(life, 0.5) * 1.02
    assert Training(directory, steps=STEPS).finish() == expected
    assert metrics(directory) == metrics(straight)


def test_a_kill_in_the_midst_of_a_step_s_micro_batches_leaves_no_trace(tmp_path, unbroken):
    expected, straight = unbroken
    training = Training(tmp_path / "run", steps=STEPS, slow_micro_batch_s=0.02)
    wait_until(lambda: reached(tmp_path / "run", 9))
    training.kill()
    assert Training(tmp_path / "run", steps=STEPS).finish() == expected
    assert metrics(tmp_path / "run") == metrics(straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_instant_stops_with_code_three_and_loses_no_step(tmp_path, unbroken, number):
    expected, _ = unbroken
    chance, directory, stops = random.Random(number), tmp_path / "run", 0
    ended = None
    for _ in range(60):
        training = Training(directory, steps=STEPS, slow_step_s=0.02)
        wait_until_ready(training)
        training.process.join(chance.random() / 8)
        training.signal(number)
        ended = training.wait()
        if ended.code == 0:
            break
        assert ended.code == ExitCode.STOPPED, ended.output
        kept = int(ended.output.split("kept:")[1].split("step ")[1].split()[0])
        assert newest_step(directory) == kept  # the step it stopped at is saved, none is lost
        stops += 1
    assert stops >= 2
    assert Training(directory, steps=STEPS).finish() == expected


def stop_at(directory, size, step, **options):
    ended = [training.wait() for training in start_ranks(directory, size, stop_after=step, **options)]
    assert [one.code for one in ended] == [ExitCode.STOPPED] * size, ended


def test_exact_sums_give_the_same_bits_on_any_number_of_ranks_before_and_after_a_resume(tmp_path):
    exact = {"steps": 4, "rows": 12, "reduction": "exact", "checkpoint_every": 100}  # six micro-batches
    Training(tmp_path / "straight", **exact).finish()
    expected = saved(tmp_path / "straight", 4)
    for before in (1, 2, 4):
        stop_at(tmp_path / f"from{before}", before, 2, **exact)
        assert same_bits(saved(tmp_path / f"from{before}", 2), saved(tmp_path / "from1", 2))
        for after in (1, 2, 4):
            place = tmp_path / f"from{before}to{after}"
            shutil.copytree(tmp_path / f"from{before}", place)
            told = [training.wait().output for training in start_ranks(place, after, **exact)]
            assert same_bits(saved(place, 4), expected), told
            assert metrics(place) == metrics(tmp_path / "straight")


def test_fast_sums_train_the_model_that_one_rank_trains_within_rounding_and_say_that_bits_may_differ(tmp_path):
    Training(tmp_path / "one", steps=12).finish()
    stop_at(tmp_path / "two", 1, 6, steps=12)
    trainings = start_ranks(tmp_path / "two", 2, steps=12)
    digests = [training.finish() for training in trainings]
    assert digests[0] == digests[1]
    assert "note: ranks was 1 and is now 2" in trainings[0].told()
    alone, together = saved(tmp_path / "one", 12), saved(tmp_path / "two", 12)
    assert max(float((together[name] - alone[name]).abs().max()) for name in alone if "weights" in name) < 1e-5


def test_a_signal_to_one_rank_stops_both_at_the_same_step(tmp_path):
    trainings = start_ranks(tmp_path / "run", 2, steps=2000)
    wait_until(lambda: reached(tmp_path / "run", 6))
    trainings[1].signal(signal.SIGTERM)
    ended = [training.wait() for training in trainings]
    assert [one.code for one in ended] == [ExitCode.STOPPED] * 2, ended
    kept = [next(line for line in one.output.splitlines() if "kept" in line) for one in ended]
    assert kept[0] == kept[1]


def test_ranks_that_measure_unlike_figures_end_at_the_same_step(tmp_path):
    habits = {"steps": 12, "evaluate_every": 2, "patience": 2, "collective_timeout_s": 5}
    trainings = start_ranks(tmp_path / "run", 2, evaluate=parted, **habits)
    assert trainings[0].finish() == trainings[1].finish()
    assert newest_step(tmp_path / "run") == 12


def test_where_no_checkpoint_is_sound_all_ranks_are_refused(tmp_path):
    stop_at(tmp_path / "run", 2, 6, steps=12)
    for path in (tmp_path / "run" / "checkpoints").glob("step-*/state.json"):
        path.write_text("{")
    ended = [training.wait() for training in start_ranks(tmp_path / "run", 2, steps=12)]
    assert [one.code for one in ended] == [ExitCode.REFUSED] * 2, ended
    assert all("to begin anew" in one.output for one in ended)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))[-1] == "step-00000006"


@pytest.mark.parametrize("kind", ["loss", "gradient", "weights"])
def test_a_value_that_is_not_finite_on_one_rank_changes_no_parameter_on_any(tmp_path, kind):
    poison = {"kind": kind, "steps": [0], "micro_batch": 2, "rank": 1}
    trainings = start_ranks(
        tmp_path / "run", 2, steps=3, poison=poison, faults=FaultConfig(policy="stop"), checkpoint_every=100
    )
    ended = [training.wait() for training in trainings]
    assert [one.code for one in ended] == [ExitCode.STOPPED] * 2, ended
    assert "unchanged" in ended[0].output
    assert all(torch.isfinite(tensor).all() for tensor in saved(tmp_path / "run", 0).values())


def test_optimizer_state_that_is_damaged_on_one_rank_is_named_and_rolled_back_on_all(tmp_path):
    faults = FaultConfig(policy="rollback")
    trainings = start_ranks(tmp_path / "run", 2, steps=9, damage={"rank": 1, "step": 6}, faults=faults)
    assert trainings[0].finish() == trainings[1].finish()
    (event,) = [line for line in metrics(tmp_path / "run") if line["event"] == "rolled_back"]
    assert "of rank 1" in event["reason"]
    assert event["to_step"] == 4


def test_a_rank_that_is_killed_ends_the_others_with_a_cause_and_the_run_goes_on(tmp_path, unbroken):
    exact = {"steps": STEPS, "reduction": "exact"}
    trainings = start_ranks(tmp_path / "run", 2, **exact, slow_step_s=0.02)
    wait_until(lambda: reached(tmp_path / "run", 9))
    trainings[1].kill()
    ended = trainings[0].wait(seconds=30)
    assert ended.code == ExitCode.STOPPED
    assert "lost another process" in ended.output
    Training(tmp_path / "straight", **exact).finish()
    [training.finish() for training in start_ranks(tmp_path / "run", 2, **exact)]
    assert same_bits(saved(tmp_path / "run", STEPS), saved(tmp_path / "straight", STEPS))


def test_a_rank_that_hangs_ends_the_others_after_the_timeout(tmp_path):
    trainings = start_ranks(tmp_path / "run", 2, steps=2000, slow_step_s=0.02, collective_timeout_s=2)
    wait_until(lambda: reached(tmp_path / "run", 6))
    trainings[1].signal(signal.SIGSTOP)
    ended = trainings[0].wait(seconds=30)
    trainings[1].kill()
    assert ended.code == ExitCode.STOPPED
    assert "lost another process" in ended.output
    assert newest_step(tmp_path / "run") >= 4


@pytest.mark.parametrize(
    ("parallel", "size", "number"),
    [("fsdp", 2, signal.SIGKILL), ("fsdp", 2, signal.SIGSTOP), ("hsdp", 4, signal.SIGSTOP)],
)
def test_a_rank_that_is_lost_with_its_shard_ends_the_others_with_a_cause_and_the_run_goes_on(
    tmp_path, parallel, size, number
):
    options = {"parallel": parallel, "per_machine": 2}
    struck, *others = start_ranks(
        tmp_path / "run", size, steps=2000, collective_timeout_s=2, slow_micro_batch_s=0.02, **options
    )[::-1]
    wait_until(lambda: newest_step(tmp_path / "run") >= 4)
    struck.signal(number)  # most likely in the midst of a pass
    ended = [training.wait(seconds=40) for training in others]
    struck.kill()
    assert [one.code for one in ended] == [ExitCode.STOPPED] * len(ended), ended
    assert all("lost another process" in one.output for one in ended)
    kept = newest_step(tmp_path / "run")
    more = start_ranks(tmp_path / "run", size, steps=2000, stop_after=kept + 2, **options)
    assert [training.wait().code for training in more] == [ExitCode.STOPPED] * size


def test_of_ten_processes_on_one_run_one_trains_and_nine_are_refused(tmp_path):
    for _ in range(2):
        trainings = [Training(tmp_path / f"run{i}" / ".." / "run", told=f"{i}", steps=2000) for i in range(10)]
        wait_until(partial(only_one_lives, trainings))
        (winner,) = [training for training in trainings if training.process.is_alive()]
        refused = [training.wait() for training in trainings if training is not winner]
        assert [one.code for one in refused] == [ExitCode.USAGE] * 9
        assert all("another process works on" in one.output for one in refused)
        winner.kill()  # the lock dies with it: the next round begins at once
