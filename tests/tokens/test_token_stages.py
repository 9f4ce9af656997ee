"""The stages `tokenizer` and `tokens` over a small corpus, whole and interrupted, here and in other processes."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from chatwright.data import limits
from chatwright.data.document import CORPUS_SCHEMA, Document, PartWriter
from chatwright.data.engine import run_jobs
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, StoppedError, UsageError
from chatwright.foundation.stage import StageContext
from chatwright.tokens import stages
from chatwright.tokens.shards import TokenData
from chatwright.tokens.tokenizer import TokenizerConfig, load_tokenizer

TEXTS = [f"Letter number {number}: the harbour is {'quiet' if number % 3 else 'busy'}, grüße." for number in range(12)]


def write_corpus(directory, texts, *, per_part=1000):
    directory.mkdir()
    for part, first in enumerate(range(0, len(texts) or 1, per_part)):
        with PartWriter(directory / f"part-{part:05d}.parquet", CORPUS_SCHEMA) as writer:
            for number, text in enumerate(texts[first : first + per_part], start=first):
                split = "heldout" if number % 5 == 4 else "train"
                domain = "notes" if number % 2 else "letters"
                document = Document(
                    id=f"{number:016x}", text=text, source="files:x", path=f"{number}", domain=domain, split=split
                )
                writer.add(document)
    return directory


def files_in(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", TEXTS)


@pytest.fixture
def stage(tmp_path):
    def make(name, config=None, **inputs):
        output = tmp_path / name
        output.mkdir(exist_ok=True)
        return StageContext(config=config, inputs=inputs, output=output, seed=1)

    return make


@pytest.fixture
def tokenizer_dir(stage, corpus):
    context = stage("tokenizer", TokenizerConfig(vocabulary_size=320), corpus=corpus)
    stages.run_tokenizer(context)
    return context.output


def test_the_tokenizer_stage_learns_and_measures(stage, corpus, tokenizer_dir):
    tokenizer = load_tokenizer(tokenizer_dir)
    report = storage.read_json(tokenizer_dir / "report.json")
    assert report["digest"] == tokenizer.digest
    assert report["vocabulary_size"] == tokenizer.size <= 320
    assert report["heldout_bytes_per_token"] > 1


def test_the_tokens_stage_encodes_each_document_of_each_split(stage, corpus, tokenizer_dir):
    context = stage("tokens", corpus=corpus, tokenizer=tokenizer_dir)
    summary = stages.run_tokens(context)
    data, tokenizer = TokenData(context.output), load_tokenizer(tokenizer_dir)
    assert data.tokenizer_digest == tokenizer.digest
    assert data.domains == ["letters", "notes"]
    train, heldout = (list(data.split(name).documents()) for name in ("train", "heldout"))
    assert (len(train), len(heldout)) == (10, 2)
    assert tokenizer.decode(heldout[0].ids.tolist()) == "Letter number 4: the harbour is quiet, grüße."
    assert heldout[0].num_bytes == len("Letter number 4: the harbour is quiet, grüße.".encode())
    assert summary["train"]["tokens"] == len(data.split("train"))
    assert not list(context.output.glob(".*"))


@pytest.mark.parametrize(("border", "value"), [("_SHARD_DOCUMENTS", 3), ("_SHARD_CHARACTERS", 200)])
def test_an_interrupted_encoding_goes_on_with_the_shards_it_has(
    stage, corpus, tokenizer_dir, monkeypatch, border, value
):
    monkeypatch.setattr(stages, border, value)
    whole = stage("whole", corpus=corpus, tokenizer=tokenizer_dir)
    stages.run_tokens(whole)
    broken = stage("broken", corpus=corpus, tokenizer=tokenizer_dir)
    write, written = stages._encode_shard, []

    def stop_after_two(payload, path):
        written.append(payload.stem)
        broken.stop.requested = len(written) == 2
        write(payload, path)

    monkeypatch.setattr(stages, "_encode_shard", stop_after_two)
    with pytest.raises(StoppedError):
        stages.run_tokens(broken)
    broken.stop.requested = False
    stages.run_tokens(broken)
    assert written == sorted(set(written), key=written.index)  # no shard twice
    assert files_in(broken.output) == files_in(whole.output)


def test_a_shard_that_cannot_be_written_is_named_and_none_is_left_out(stage, corpus, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(stages, "_SHARD_DOCUMENTS", 3)
    whole = stage("whole", corpus=corpus, tokenizer=tokenizer_dir)
    stages.run_tokens(whole)
    broken = stage("broken", corpus=corpus, tokenizer=tokenizer_dir)
    write = stages._encode_shard

    def fail_at_one(payload, path):
        if payload.stem.endswith("train-00001"):
            raise MemoryError("not enough")
        write(payload, path)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "_encode_shard", fail_at_one)
        with pytest.raises(DataError, match=r"1 of 5 .*`train-00001`: MemoryError: not enough"):
            stages.run_tokens(broken)
    assert not (broken.output / "index.json").exists()
    stages.run_tokens(broken)
    assert files_in(broken.output) == files_in(whole.output)


@pytest.mark.parametrize(("border", "value"), [("_SHARD_DOCUMENTS", 3), ("_SHARD_CHARACTERS", 200)])
def test_shards_are_the_same_however_the_corpus_is_cut_into_files(
    stage, corpus, tokenizer_dir, tmp_path, monkeypatch, border, value
):
    monkeypatch.setattr(stages, border, value)
    whole = stage("whole", corpus=corpus, tokenizer=tokenizer_dir)
    stages.run_tokens(whole)
    monkeypatch.setattr(limits, "ROW_GROUP_DOCUMENTS", 2)
    pieces = stage("pieces", corpus=write_corpus(tmp_path / "cut", TEXTS, per_part=5), tokenizer=tokenizer_dir)
    stages.run_tokens(pieces)
    assert files_in(pieces.output) == files_in(whole.output)


@pytest.mark.slow
def test_other_processes_write_the_same_shards(stage, corpus, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(stages, "_SHARD_DOCUMENTS", 3)
    here = stage("here", corpus=corpus, tokenizer=tokenizer_dir)
    stages.run_tokens(here)
    context = dataclasses.replace(stage("there", corpus=corpus, tokenizer=tokenizer_dir), workers=2)
    jobs = list(stages._jobs(context, ["letters", "notes"], load_tokenizer(tokenizer_dir).digest))
    assert not run_jobs(stages._encode_shard, jobs, context=context, label="encode").failed
    written = files_in(here.output)
    del written["index.json"]
    assert files_in(context.output) == written


@pytest.mark.slow
def test_a_ray_cluster_writes_the_same_tokens(stage, corpus, tokenizer_dir, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    monkeypatch.setattr(stages, "_SHARD_DOCUMENTS", 3)
    here, there = (stage(name, corpus=corpus, tokenizer=tokenizer_dir) for name in ("here", "there"))
    stages.run_tokens(here)
    try:
        stages.run_tokens(dataclasses.replace(there, workers=2, engine="ray"))
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert files_in(there.output) == files_in(here.output)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="the extra `ray` is installed")
def test_a_cluster_is_not_replaced_by_this_machine_where_ray_is_missing(stage, corpus, tokenizer_dir):
    context = dataclasses.replace(stage("tokens", corpus=corpus, tokenizer=tokenizer_dir), engine="ray")
    with pytest.raises(UsageError, match="`ray`"):
        stages.run_tokens(context)


def test_a_shard_is_cut_by_characters_too_and_the_stream_stays_the_same(stage, corpus, tokenizer_dir, monkeypatch):
    outputs = []
    for name, characters in (("whole", 1 << 20), ("cut", 200), ("single", 10)):
        monkeypatch.setattr(stages, "_SHARD_CHARACTERS", characters)
        context = stage(name, corpus=corpus, tokenizer=tokenizer_dir)
        stages.run_tokens(context)
        outputs.append(context.output)
    counts = [len(list(output.glob("train-*.tokens.npy"))) for output in outputs]
    assert (counts[0], counts[2]) == (1, 10)  # a document longer than a shard has one of its own
    assert 1 < counts[1] < 10
    for split in ("train", "heldout"):
        for kind in ("tokens", "documents", "bytes", "domains", "scores"):
            arrays = [
                np.concatenate([np.load(path) for path in sorted(output.glob(f"{split}-*.{kind}.npy"))])
                for output in outputs
            ]
            assert arrays[0].tolist() == arrays[1].tolist() == arrays[2].tolist()


def test_shards_that_another_version_cut_elsewhere_are_encoded_anew(stage, corpus, tokenizer_dir, monkeypatch):
    whole = stage("whole", corpus=corpus, tokenizer=tokenizer_dir)
    stages.run_tokens(whole)
    older = stage("older", corpus=corpus, tokenizer=tokenizer_dir)
    write = stages._encode_shard

    def stop_after_one(*arguments):
        older.stop.requested = True
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "_SHARD_DOCUMENTS", 3)
        patch.setattr(stages, "_encode_shard", stop_after_one)
        with pytest.raises(StoppedError):
            stages.run_tokens(older)
    older.stop.requested = False
    stages.run_tokens(older)
    assert files_in(older.output) == files_in(whole.output)


def test_a_corpus_without_documents_is_an_error(stage, tmp_path, tokenizer_dir):
    empty = write_corpus(tmp_path / "empty", [])
    with pytest.raises(DataError, match="no text"):
        stages.run_tokens(stage("tokens", corpus=empty, tokenizer=tokenizer_dir))
    with pytest.raises(DataError, match="no text"):
        stages.run_tokenizer(stage("other", TokenizerConfig(vocabulary_size=320), corpus=empty))
