"""Under torchrun a rank that dies or hangs costs seconds: all are started again, end with equal bits, and none is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import wait_until
from test_sharding import free_port
from tiny_training import digest, metrics, new_network, new_trainer
from torch.distributed.run import get_args_parser
from torchrun_training import Slow

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("torchrun_training.py")
STEPS = 24
RESTART_S = 60  # of two processes that import PyTorch on a busy core


def torchrun(directory, *, pace_s):
    options = [
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "3",
        "--monitor-interval",
        "0.2",
        "--master-port",
        free_port(),
    ]
    if any("--shutdown-timeout" in action.option_strings for action in get_args_parser()._actions):
        options += ["--shutdown-timeout", "2"]  # older ones wait thirty seconds for who hears no signal
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *options,
        str(PROGRAM),
        str(directory),
        str(STEPS),
        pace_s,
    ]
    with directory.with_name("told").open("w") as told:
        return subprocess.Popen(
            command, stdout=told, stderr=told, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True
        )


def processes_of(directory, rank="*"):
    return [int(path.name.split(".")[-1]) for path in directory.parent.glob(f"process.{rank}.*")]


def is_alive(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    return False


@pytest.mark.parametrize(("number", "rank"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 0)], ids=["killed", "stopped"])
def test_a_rank_that_is_lost_is_started_again_with_the_others_and_the_bits_are_those_of_an_unbroken_run(
    tmp_path, number, rank
):
    directory = tmp_path / "run" / "training"
    directory.mkdir(parents=True)
    job = torchrun(directory, pace_s="0.1")
    try:
        wait_until(lambda: any(line["step"] >= 9 for line in metrics(directory)), seconds=RESTART_S)
        (struck,) = processes_of(directory, rank)
        os.kill(struck, number)
        began = time.monotonic()
        assert job.wait(timeout=2 * RESTART_S) == 0, directory.with_name("told").read_text()
        print(f"{number.name}: {time.monotonic() - began:.1f} s from the loss to the end")
    finally:
        for process in [*processes_of(directory), job.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL) if is_alive(process) and job.poll() is None else None
        job.wait()
    assert len(processes_of(directory)) == 4  # each rank was started twice
    assert not any(map(is_alive, processes_of(directory)))
    straight = new_network()
    new_trainer(tmp_path / "straight", network=straight, steps=STEPS, source=Slow(rows=8), reduction="exact").run()
    assert directory.with_name("digest").read_text() == digest(straight)
