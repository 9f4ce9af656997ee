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
from torchrun_training import Slow

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("torchrun_training.py")
STEPS = 24
RESTART_S = 60  # of two processes that import PyTorch on a busy core


def torchrun(directory, *place, pace_s):
    options = [*place, "--nproc-per-node", "2", "--max-restarts", "3", "--monitor-interval", "0.2"]
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


@pytest.mark.parametrize(("allowed_s", "num_bytes", "code"), [(1, 0, 3), (60, 0, 0), (1, 1_200_000_000, 0)])
def test_a_rank_that_is_late_is_lost_after_what_is_allowed_and_not_before(allowed_s, num_bytes, code):
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM.with_name("waiting_ranks.py")), str(allowed_s), "4", str(num_bytes)]
    ranks = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    told = [rank.communicate(timeout=RESTART_S)[1] for rank in ranks]
    assert ranks[1].returncode == code, told
    assert ("lost another process" in told[1]) == (code != 0)


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
    place = ["--standalone"] if rank == 0 else ["--master-port", free_port()]
    job = torchrun(directory, *place, pace_s="0.1")
    try:
        wait_until(lambda: any(line["step"] >= 9 for line in metrics(directory)), seconds=RESTART_S)
        (struck,) = processes_of(directory, rank)
        os.kill(struck, number)
        began = time.monotonic()
        if number == signal.SIGSTOP:  # torchrun itself would wait half a minute before it kills who hears no signal
            told = directory.with_name("told")
            wait_until(lambda: "lost another process" in told.read_text(), seconds=RESTART_S)
            os.kill(struck, signal.SIGKILL)
        assert job.wait(timeout=2 * RESTART_S) == 0, directory.with_name("told").read_text()
        print(f"{number.name}: {time.monotonic() - began:.1f} s from the loss to the end")
    finally:
        for process in [*processes_of(directory), job.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL) if is_alive(process) and job.poll() is None else None
        job.wait()
    assert len(processes_of(directory)) >= 4  # each rank was started twice, or more often on a crowded machine
    assert not any(map(is_alive, processes_of(directory)))
    straight = new_network()
    new_trainer(tmp_path / "straight", network=straight, steps=STEPS, source=Slow(rows=8), reduction="exact").run()
    assert directory.with_name("digest").read_text() == digest(straight)
