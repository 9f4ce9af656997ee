"""Real processes: killed at random instants, stopped by signals, and two of them training one model over gloo."""

import contextlib
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import metrics

from chatwright.foundation.errors import ExitCode

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("tiny_training.py")
STEPS = 200


def start(directory, *, steps=STEPS, **environment):
    command = [sys.executable, str(PROGRAM), str(directory), str(steps)]
    settings = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings)


def wait_for_step(process, directory, step):
    """Until the log has reached a step or the process has ended."""
    while process.poll() is None and not any(line["step"] >= step for line in metrics(directory)):
        try:
            process.wait(timeout=0.002)
        except subprocess.TimeoutExpired:
            continue


def finish(process):
    output, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    return output


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    return finish(start(directory)), directory


def test_a_training_killed_at_random_instants_ends_with_the_bits_and_the_log_of_an_unbroken_one(tmp_path, unbroken):
    expected, straight = unbroken
    chance = random.Random(3)
    killed = 0
    for kill in range(6):
        process = start(tmp_path)
        wait_for_step(process, tmp_path, 30 * kill + chance.randrange(30))
        with contextlib.suppress(subprocess.TimeoutExpired):  # some milliseconds on, also into the midst of a save
            process.wait(timeout=chance.random() / 50)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 4  # on a loaded machine a training may end before its kill comes
    assert finish(start(tmp_path)) == expected
    assert metrics(tmp_path) == metrics(straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_step_with_code_three_and_the_next_call_goes_on(tmp_path, unbroken, number):
    expected, _ = unbroken
    process = start(tmp_path)
    wait_for_step(process, tmp_path, 12)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == ExitCode.STOPPED, told
    assert "run the same command again" in told
    assert finish(start(tmp_path)) == expected


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_ranks(directory, *, steps=STEPS):
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return [start(directory, steps=steps, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]


def weights(directory, step):
    return load_file(directory / "checkpoints" / f"step-{step:08d}" / "weights.safetensors")


def test_two_ranks_train_the_model_that_one_rank_trains(tmp_path):
    finish(start(tmp_path / "one", steps=12))
    alone = weights(tmp_path / "one", 12)
    digests = [finish(process) for process in start_ranks(tmp_path / "two", steps=12)]
    assert digests[0] == digests[1]
    together = weights(tmp_path / "two", 12)
    assert max(float((together[name] - alone[name]).abs().max()) for name in alone) < 1e-5
    assert all(torch.isfinite(tensor).all() for tensor in together.values())


def test_a_signal_to_one_rank_stops_both_at_the_same_step(tmp_path):
    processes = start_ranks(tmp_path, steps=2000)
    wait_for_step(processes[0], tmp_path, 6)
    processes[1].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [ExitCode.STOPPED] * 2, told
    kept = [next(line for line in text.splitlines() if "kept" in line) for text in told]
    assert kept[0] == kept[1]
