"""The stage `pretrain` with shards, searched sizes and samples: the same model, whole, in the end."""

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.model.directory import load_model
from chatwright.tokens.shards import ShardWriter, write_index
from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer
from chatwright.train import pretrain
from chatwright.train.loop import Trainer
from chatwright.train.metrics import METRICS

SHAPE = {"width": 16, "layers": 2, "heads": 2, "key_heads": 1, "head_width": 8, "mlp_width": 24, "context_length": 16}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    texts = [f"the sea takes rope {number} and gives salt {number * 7}. " * 6 for number in range(30)]
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind="bytes"))
    for name in ("tokenizer", "tokens"):
        (folder / name).mkdir()
    tokenizer.save(folder / "tokenizer")
    shards = {}
    for split in ("train", "heldout"):
        writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
        for text in texts:
            writer.add(tokenizer.encode(text), domain=0, num_bytes=len(text))
        shards[split] = [writer.save(folder / "tokens" / f"{split}-00000")]
    write_index(folder / "tokens", shards, tokenizer=tokenizer.digest, vocabulary=tokenizer.size, domains=["sea"])
    return folder


def run(material, output, base=None, **section):
    before = torch.get_num_threads()
    output.mkdir()
    common = {"device": "cpu", "precision": "float32", "threads": 1, "steps": 5, "batch_rows": 4, "micro_rows": 2}
    config = validate(pretrain.PretrainInputs, {"model": SHAPE, "pretrain": {**common, **section}}, where="test")
    inputs = {"tokens": material / "tokens", "tokenizer": material / "tokenizer"} | ({"base": base} if base else {})
    try:
        summary = pretrain.run(StageContext(config=config, inputs=inputs, output=output, seed=1, stop=StopFlag()))
    finally:
        torch.set_num_threads(before)
    return summary, load_file(output / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def plain(material, tmp_path_factory):
    return run(material, tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture
def alone():
    """Afterwards this process belongs to no group."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_a_model_that_was_trained_in_shards_is_saved_whole_and_opens(material, plain, tmp_path):
    _, weights = run(material, tmp_path / "run", parallel="fsdp", recompute=True)
    assert weights.keys() == plain[1].keys()
    assert max(float((weights[name] - plain[1][name]).abs().max()) for name in weights) < 2e-5
    assert load_model(tmp_path / "run" / "model").network.config.layers == SHAPE["layers"]


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_what_is_trained_in_shards_has_no_memory_before_and_goes_on_from_a_base_as_the_whole_does(
    material, tmp_path, monkeypatch
):
    _, first = run(material, tmp_path / "first")
    base, seen = tmp_path / "first" / "model", []

    class Watched(Trainer):
        def __init__(self, **parts):
            seen.append(any(tensor.is_meta for tensor in parts["network"].parameters()))
            super().__init__(**parts)

    monkeypatch.setattr(pretrain, "Trainer", Watched)
    _, weights = run(material, tmp_path / "shards", base=base, parallel="fsdp")
    _, expected = run(material, tmp_path / "whole", base=base)
    assert seen == [True, False]
    assert max(float((weights[name] - expected[name]).abs().max()) for name in weights) < 2e-5
    assert not any(torch.equal(expected[name], first[name]) for name in expected)


def test_samples_at_each_measurement_change_no_bit_of_the_model(material, plain, tmp_path):
    _, weights = run(material, tmp_path / "run", sample_prompts=["the sea"], evaluate_every=2)
    assert all(torch.equal(weights[name], plain[1][name]) for name in weights)
    lines = [line for line in storage.read_lines(tmp_path / "run" / METRICS) if line["event"] == "evaluation"]
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    assert all(line["samples"][0]["prompt"] == "the sea" for line in lines)
    assert all(line["worst"]["domain"] == "sea" and len(line["worst"]["documents"]) == 3 for line in lines)


def test_a_searched_size_is_kept_and_the_use_of_the_machine_told(material, tmp_path):
    summary, _ = run(material, tmp_path / "run", micro_rows="auto", recompute=True)
    assert storage.read_json(tmp_path / "run" / "fitting.json")["positions"] in (16, 32, 64)
    assert 0 < summary["utilisation"] < 1
