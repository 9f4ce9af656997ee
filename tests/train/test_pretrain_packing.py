"""The stage `pretrain` on packed rows, and with a context that it chooses."""

import json

import pytest

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, StoppedError, UsageError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.model.directory import load_model
from chatwright.tokens.shards import ShardWriter, write_index
from chatwright.tokens.tokenizer import TokenizerConfig, load_tokenizer, train_tokenizer
from chatwright.train import pretrain
from chatwright.train.pretrain import PretrainInputs

SHAPE = {"width": 16, "layers": 1, "heads": 2, "key_heads": 1, "head_width": 8, "mlp_width": 24, "context_length": 128}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Documents of 20 and of 55 tokens, some of 200."""
    folder = tmp_path_factory.mktemp("packing")
    words = ["sea", "salt", "wind", "rope", "gull", "tide", "sand", "dune"]
    texts = [" ".join((words * 25)[: (19, 54, 19, 54, 199)[n % 5]]) for n in range(60)]
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind="words", vocabulary_size=300))
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    (folder / "tokens").mkdir()
    shards = {}
    for split in ("train", "heldout"):
        writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
        for text in texts:
            writer.add(tokenizer.encode(text), domain=0, num_bytes=len(text))
        shards[split] = [writer.save(folder / "tokens" / f"{split}-00000")]
    digest = load_tokenizer(folder / "tokenizer").digest
    write_index(folder / "tokens", shards, tokenizer=digest, vocabulary=tokenizer.size, domains=["x"])
    return folder


def context_of(material, output, *, stop=None, **section):
    output.mkdir(exist_ok=True)
    common = {"device": "cpu", "precision": "float32", "threads": 1, "steps": 6, "batch_rows": 4, "micro_rows": 2}
    config = validate(PretrainInputs, {"model": SHAPE, "pretrain": {**common, **section}}, where="test")
    inputs = {"tokens": material / "tokens", "tokenizer": material / "tokenizer"}
    return StageContext(config=config, inputs=inputs, output=output, seed=1, stop=stop or StopFlag())


def test_packed_rows_count_the_targets_they_have_and_say_what_is_empty(material, tmp_path, capsys):
    summary = pretrain.run(context_of(material, tmp_path / "run", packing="best_fit"))
    said = capsys.readouterr().err
    assert "packing: 60 documents in" in said
    assert "12 longer than a row are split" in said
    assert 0.9 * 6 * 4 * 128 < summary["target_tokens"] <= 6 * 4 * 128


def test_a_stopped_run_on_packed_rows_goes_on_to_the_same_bits(material, tmp_path, monkeypatch):
    settings = {"packing": "best_fit", "checkpoint_every": 2, "save_in_background": False}
    whole = pretrain.run(context_of(material, tmp_path / "whole", **settings))
    stop = StopFlag()
    context = context_of(material, tmp_path / "halves", stop=stop, **settings)
    source = pretrain.PackedSource.step

    def stop_at_three(self, number):
        stop.requested = number >= 3
        return source(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain.PackedSource, "step", stop_at_three)
        with pytest.raises(StoppedError):
            pretrain.run(context)
    stop.requested = False
    assert pretrain.run(context)["model_digest"] == whole["model_digest"]


def test_a_chosen_context_is_the_models_own_and_its_reasons_are_said(material, tmp_path, capsys):
    context = context_of(material, tmp_path / "run", chunk="auto")
    pretrain.run(context)
    said = capsys.readouterr().err
    chosen = json.loads((context.output / "chunk.json").read_text())["length"]
    assert chosen == 128  # documents of 200 tokens hold most of them
    assert "chunk: 128 tokens" in said
    assert "tokens that stand further into their document" in said
    assert load_model(context.output / "model").network.config.context_length == chosen


@pytest.mark.parametrize("other", [{"mixture": {"weights": {"x": 1.0}}}, {"growth": {"start": 16}}])
def test_orders_that_packing_excludes_are_refused_by_name(other):
    with pytest.raises(ConfigError, match=f"leave out {next(iter(other))}"):
        validate(PretrainInputs, {"model": SHAPE, "pretrain": {"packing": "best_fit", **other}}, where="x")


def test_a_base_model_keeps_its_context(material, tmp_path):
    context = context_of(material, tmp_path / "run", chunk="auto")
    context.inputs["base"] = tmp_path
    with pytest.raises(UsageError, match="has no effect on a base model"):
        pretrain.run(context)
