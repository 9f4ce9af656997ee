"""The processes of one start meet in a store that still holds what the dead of earlier starts wrote."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from chatwright.train import ranks
from chatwright.train.meeting import meet
from chatwright.train.ranks import Ranks

PATIENCE = timedelta(seconds=20)


@pytest.fixture
def store_of_all_starts(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"ADDR": "127.0.0.1", "PORT": str(store.port)}.items():
        monkeypatch.setenv(f"MASTER_{name}", value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return store


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=str)
def test_whoever_comes_first_finds_those_of_its_own_start(store_of_all_starts, order):
    for start in ("first", "second", "third"):

        def come(rank, start=start):
            time.sleep(0.1 * order.index(rank))
            place = meet(rank, 3, PATIENCE)
            place.set(f"address/{rank}", f"{start} {rank}")
            return [place.get(f"address/{other}").decode() for other in range(3)]

        with ThreadPoolExecutor(3) as pool:
            seen = list(pool.map(come, range(3)))
        assert seen == [[f"{start} {rank}" for rank in range(3)]] * 3


def test_a_rank_takes_its_gpu_before_it_meets_the_others(monkeypatch):
    done, gpu = [], torch.device("cuda", 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(("own", device)))
    monkeypatch.setattr(ranks, "meet", lambda *_: done.append("met"))
    monkeypatch.setattr(dist, "init_process_group", lambda kind, **told: done.append((kind, told["device_id"])))
    monkeypatch.setattr(Ranks, "wait", lambda self: None)
    Ranks().join(gpu)
    assert done == [("own", gpu), "met", ("nccl", gpu)]


def test_meeting_has_a_limit_of_its_own_whatever_an_exchange_may_take_later(monkeypatch):
    allowed = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(ranks, "meet", lambda *told: allowed.append(told[2]))
    monkeypatch.setattr(dist, "init_process_group", lambda _, **told: allowed.append(told["timeout"]))
    monkeypatch.setattr(Ranks, "wait", lambda self: None)
    Ranks().join(torch.device("cpu"), timeout_s=ranks.BETWEEN_STAGES_S)
    assert allowed == [timedelta(seconds=ranks._MEETING_S)] * 2
    assert timedelta(minutes=5) <= allowed[0] <= timedelta(hours=1)


def test_who_waits_in_vain_says_so(store_of_all_starts):
    store_of_all_starts.set("chatwright/first", "one that is dead")
    with pytest.raises(RuntimeError, match="did not gather all within 1 s"):
        meet(1, 2, timedelta(seconds=1))
