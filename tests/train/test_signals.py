"""Signals that come at awkward instants: fifty of one run's, in loading, reading data, measuring, logging and saving.

`CHATWRIGHT_SIGNALS` says how many random instants there are with two ranks; the promise is fifty, the default is what a
test suite has time for.
"""

import os
import random
import shutil
import signal
import sys

import pytest
import torch
from processes import Training, same_bits, saved, start_ranks, wait_until_ready
from tiny_training import DrawnSource, digest, metrics, new_network, new_trainer

from chatwright.foundation.errors import ExitCode, StoppedError
from chatwright.foundation.stopping import StopFlag, stop_requested
from chatwright.train.checkpoints import Checkpoints

STEPS, INSTANTS = 12, 50
FIELDS = {"steps": STEPS, "checkpoint_every": 2, "evaluate_every": 3, "log_every": 1}
SIGNALS = int(os.environ.get("CHATWRIGHT_SIGNALS", "4"))


class Instants:
    """Counts what a run does in its directory, at its source and in its measurements; may send a signal at one of it."""

    _hooked = False
    _here = None

    def __init__(self, directory, *, at=None):
        self._directory = str(directory)
        self._at = at
        self.seen = []
        self.step_under_way = None  # when the signal came
        self._step = 0

    def __enter__(self):
        if not Instants._hooked:  # a hook stays as long as its process
            sys.addaudithook(Instants._heard)
            Instants._hooked = True
        Instants._here = self
        return self

    def __exit__(self, *_):
        Instants._here = None

    @staticmethod
    def _heard(event, arguments):
        here = Instants._here
        if here is not None and event in ("open", "os.rename", "os.mkdir", "os.remove"):
            path = str(arguments[0])
            if path.startswith(here._directory):
                here.pass_by(f"{event} {path.removeprefix(here._directory)}")

    def pass_by(self, what):
        self.seen.append(what)
        if len(self.seen) == self._at:
            self.step_under_way = self._step
            signal.raise_signal(signal.SIGTERM)

    def source(self):
        def step(number):
            self._step = number + 1
            self.pass_by(f"data of step {number + 1}")
            return DrawnSource().step(number)

        return type("Watched", (), {"fingerprint": DrawnSource().fingerprint, "step": staticmethod(step)})()

    def evaluate(self):
        self.pass_by("measurement")
        return {"figure": 1.0}


def run(directory, *, at=None):
    """One call of the run; the instants it passed, its network, and the error if it was stopped."""
    network = new_network(seed=9)
    with Instants(directory, at=at) as instants, stop_requested() as stop:
        trainer = new_trainer(
            directory, network=network, source=instants.source(), evaluate=instants.evaluate, **FIELDS
        )
        try:
            trainer.run(stop)
        except StoppedError as error:
            return instants, network, error
    return instants, network, None


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was stopped at its fifth step: whoever goes on has to load."""
    directory = tmp_path_factory.mktemp("half") / "run"
    network, flag = new_network(), StopFlag()

    class Stopping(DrawnSource):
        def step(self, number):
            flag.requested = number == 4
            return super().step(number)

    with pytest.raises(StoppedError):
        new_trainer(directory, network=network, source=Stopping(), evaluate=lambda: {"figure": 1.0}, **FIELDS).run(flag)
    return directory


@pytest.fixture(scope="module")
def unbroken(half, tmp_path_factory):
    """What a run from there passes, ends with, and logs."""
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    shutil.copytree(half, directory)
    instants, network, error = run(directory)
    assert error is None
    return instants.seen, digest(network), metrics(directory)


def test_the_instants_are_of_all_kinds(unbroken):
    seen, _, _ = unbroken
    assert len(seen) > INSTANTS
    for kind in ("open /checkpoints/step-00000005", "data of step", "measurement", "open /metrics.jsonl", "os.rename"):
        assert any(what.startswith(kind) for what in seen), kind


@pytest.mark.parametrize("part", range(5))
def test_a_signal_at_any_of_fifty_instants_stops_with_code_three_and_costs_no_step(tmp_path, half, unbroken, part):
    seen, expected, log = unbroken
    for number in range(part, INSTANTS, 5):
        directory = tmp_path / str(number)
        shutil.copytree(half, directory)
        at = 1 + number * len(seen) // INSTANTS
        instants, network, error = run(directory, at=at)
        assert instants.step_under_way is not None
        if error is None:  # it came after the last question but one: the step after that was the last
            assert instants.step_under_way >= STEPS - 1
        else:
            assert error.exit_code == ExitCode.STOPPED
            newest = Checkpoints(directory / "checkpoints").newest_step()
            assert newest in (max(6, instants.step_under_way), instants.step_under_way + 1), seen[at - 1]
            assert error.kept == f"step {newest} of {STEPS}"
            _, network, error = run(directory)
            assert error is None
        assert digest(network) == expected, seen[at - 1]
        assert metrics(directory) == log
        shutil.rmtree(directory)


@pytest.mark.slow
def test_signals_to_either_of_two_ranks_stop_both_and_cost_no_step(tmp_path):
    chance, directory, exact = random.Random(5), tmp_path / "run", {"steps": 60, "reduction": "exact"}
    stops = 0
    for _ in range(SIGNALS):
        before = (Checkpoints(directory / "checkpoints").newest_step() or 0) if directory.exists() else 0
        trainings = start_ranks(directory, 2, slow_step_s=0.02, **exact)
        for training in trainings:
            wait_until_ready(training)
        trainings[0].process.join(chance.random() / 2)
        trainings[chance.randrange(2)].signal(chance.choice([signal.SIGINT, signal.SIGTERM]))
        ended = [training.wait() for training in trainings]
        if all(one.code == 0 for one in ended):
            break
        assert [one.code for one in ended] == [ExitCode.STOPPED] * 2, ended
        assert Checkpoints(directory / "checkpoints").newest_step() >= before
        stops += 1
    assert stops
    [training.finish() for training in start_ranks(directory, 2, **exact)]
    Training(tmp_path / "straight", **exact).finish()
    assert same_bits(saved(directory, 60), saved(tmp_path / "straight", 60))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved(directory, 60).values())
