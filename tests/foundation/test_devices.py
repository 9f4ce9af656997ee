"""Device, threads and number format are chosen once, said, and kept for a run."""

import os

import pytest
import torch

from chatwright.foundation import devices, storage
from chatwright.foundation.devices import pick_device, place, settled_placement
from chatwright.foundation.errors import RefusedError, UsageError


@pytest.fixture(autouse=True)
def _same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_cpu_is_there_and_an_unknown_device_is_refused():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="no such device: `tpu`"):
        pick_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_never_replaced_quietly():
    with pytest.raises(UsageError, match="there is no GPU here"):
        pick_device("cuda")
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_taken_by_itself():
    assert pick_device("auto").type == "cuda"
    assert place(precision="auto").precision in ("bfloat16", "float16")


def test_threads_are_those_that_this_process_may_use():
    if hasattr(os, "sched_getaffinity"):
        assert devices.usable_threads() == len(os.sched_getaffinity(0))
    assert place(device="cpu", precision="float32", threads=1).threads == 1
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("ranks", [1, 2, 1000])
def test_the_ranks_of_a_machine_divide_its_cores(tmp_path, monkeypatch, ranks):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    told = settled_placement(tmp_path, device="cpu", precision="float32", threads=0, width=32)
    assert told.threads == torch.get_num_threads() == max(1, devices.usable_threads() // ranks)
    assert settled_placement(tmp_path / "given", device="cpu", precision="float32", threads=1, width=32).threads == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # a resume keeps what bits depend on
    again = settled_placement(tmp_path, device="cpu", precision="float32", threads=0, width=32)
    assert again.threads == told.threads


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", None), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_a_precision_asked_for_is_taken_as_it_is(precision, dtype):
    placement = place(device="cpu", precision=precision, threads=1)
    assert (placement.precision, placement.autocast_dtype) == (precision, dtype)
    assert placement.reason == "as the recipe says"


def test_the_probe_decides_between_float32_and_bfloat16_and_says_why():
    placement = place(device="cpu", threads=1, width=32)
    assert placement.precision in ("float32", "bfloat16")
    assert "times as fast as float32" in placement.reason


def test_a_run_keeps_what_was_probed(tmp_path):
    first = settled_placement(tmp_path, device="cpu", precision="float32", threads=1, width=32)
    kept = {**storage.read_json(tmp_path / "placement.json"), "precision": "bfloat16", "reason": "probed once"}
    storage.write_json(tmp_path / "placement.json", kept)
    again = settled_placement(tmp_path, device="cpu", precision="auto", threads=0, width=32)
    assert first.precision == "float32"
    assert (again.precision, again.threads, again.reason) == ("bfloat16", 1, "probed once")


@pytest.mark.parametrize("text", ["{}", "[]", '{"precision": "int3", "threads": 1, "reason": ""}'])
def test_a_damaged_record_of_the_placement_is_refused(tmp_path, text):
    (tmp_path / "placement.json").write_text(text)
    with pytest.raises(RefusedError, match=r"placement\.json"):
        settled_placement(tmp_path, device="cpu", precision="auto", threads=1, width=32)
