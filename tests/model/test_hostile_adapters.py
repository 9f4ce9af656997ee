"""Adapters made to deceive are refused by name before anything is allocated for them; none of their files runs."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.adapter_exchange import open_adapter
from chatwright.model.attachment import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from chatwright.model.peft_format import PEFT_CONFIG, PEFT_WEIGHTS, save_peft

BASE = "b" * 64


@pytest.fixture
def ours(make_network, tmp_path):
    Adapter(make_network(), LoraConfig(rank=2)).save(tmp_path / "ours", base_digest=BASE)
    return tmp_path / "ours"


@pytest.fixture
def pefts(make_network, tmp_path):
    network = make_network()
    save_peft(tmp_path / "peft", Adapter(network, LoraConfig(rank=2)), network, base="base", base_digest=BASE)
    (tmp_path / "peft" / storage.MANIFEST).unlink()
    return tmp_path / "peft"


def refused(directory, network, said):
    with pytest.raises(RefusedError, match=said):
        open_adapter(directory, network, base_digest=BASE)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("rank", [10**6, 10**12, 10**18])
def test_a_rank_beyond_all_measure_takes_no_memory(ours, make_network, rank):
    path = ours / ADAPTER_CONFIG
    edit(path, lora={**json.loads(path.read_text())["lora"], "rank": rank})
    storage.write_manifest(ours)
    refused(ours, make_network(), "does not fit its base")


@pytest.mark.parametrize("kind", ["unknown", 5, None, ["lora"]])
def test_a_kind_that_is_not_known_is_refused(ours, make_network, kind):
    edit(ours / ADAPTER_CONFIG, kind=kind)
    storage.write_manifest(ours)
    refused(ours, make_network(), "does not fit its base")


@pytest.mark.parametrize("change", ["missing", "extra", "misshaped", "not finite"])
def test_tensors_that_are_not_those_of_the_record_are_refused(ours, make_network, change):
    tensors = load_file(ours / ADAPTER_WEIGHTS)
    name = next(iter(tensors))
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["more"] = torch.zeros(2)
    elif change == "misshaped":
        tensors[name] = torch.zeros(3, 3)
    else:
        tensors[name] = tensors[name] + torch.inf
    save_file(tensors, ours / ADAPTER_WEIGHTS)
    storage.write_manifest(ours)
    refused(ours, make_network(), "not finite" if change == "not finite" else "not those of its record")


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x80\x04\x95", b"GGUF\x03", b"\xff" * 16])
def test_another_format_under_its_name_is_refused(ours, make_network, head):
    (ours / ADAPTER_WEIGHTS).write_bytes(head + bytes(200))
    storage.write_manifest(ours)
    with pytest.raises(RefusedError):
        open_adapter(ours, make_network(), base_digest=BASE)


@pytest.mark.parametrize("rank", [0, -1, 1.5, 10**12, "2", None, True])
def test_a_rank_of_pefts_that_makes_no_sense_is_refused(pefts, make_network, rank):
    edit(pefts / PEFT_CONFIG, r=rank)
    with pytest.raises(RefusedError):
        open_adapter(pefts, make_network(), base_digest=BASE)


def test_a_pickle_beside_is_never_opened(pefts, make_network):
    (pefts / PEFT_WEIGHTS).rename(pefts / "adapter_model.bin")
    refused(pefts, make_network(), "only safetensors are read")


def test_a_link_out_of_the_directory_is_refused(pefts, make_network, tmp_path):
    (pefts / PEFT_WEIGHTS).rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", pefts / PEFT_WEIGHTS)
    with pytest.raises(RefusedError):
        open_adapter(pefts, make_network(), base_digest=BASE)
