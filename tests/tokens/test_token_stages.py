"""The stages `tokenizer` and `tokens` over a small corpus, whole and interrupted."""

import numpy as np
import pytest

from chatwright.data.document import CORPUS_SCHEMA, Document, PartWriter, document_id
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, StoppedError
from chatwright.foundation.stage import StageContext
from chatwright.tokens import stages
from chatwright.tokens.shards import TokenData
from chatwright.tokens.tokenizer import TokenizerConfig, load_tokenizer, measure_compression, train_tokenizer


def write_corpus(directory, texts):
    directory.mkdir()
    with PartWriter(directory / "part-00000.parquet", CORPUS_SCHEMA) as writer:
        for number, text in enumerate(texts):
            split = "heldout" if number % 5 == 4 else "train"
            domain = "notes" if number % 2 else "letters"
            document = Document(
                id=f"{number:016x}", text=text, source="files:x", path=f"{number}", domain=domain, split=split
            )
            writer.add(document)
    return directory


@pytest.fixture
def corpus(tmp_path):
    texts = [
        f"Letter number {number}: the harbour is {'quiet' if number % 3 else 'busy'}, grüße." for number in range(12)
    ]
    return write_corpus(tmp_path / "corpus", texts)


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


@pytest.fixture
def two_scripts(tmp_path):
    """A corpus of two domains of 300 kB each, one after the other, in two scripts; and the second one's texts."""
    spoken = {
        "english": "the harbour is quiet and the ferry waits",
        "greek": "το λιμάνι είναι ήσυχο και το πλοίο περιμένει",
    }
    texts: dict[str, list[str]] = {name: [] for name in spoken}
    directory = tmp_path / "scripts"
    directory.mkdir()
    with PartWriter(directory / "part-00000.parquet", CORPUS_SCHEMA) as writer:
        for domain, sentence in spoken.items():
            written = 0
            while written < 300_000:
                path = f"{domain}-{written}"
                words = sentence.split() * (60 if written % 3 else 5)
                text = f"{path}: " + " ".join(words)
                writer.add(
                    Document(
                        id=document_id("files:x", path),
                        text=text,
                        source="files:x",
                        path=path,
                        domain=domain,
                        split="train",
                    )
                )
                texts[domain].append(text)
                written += len(text.encode())
    return directory, texts


def learned(stage, corpus, max_training_bytes, name="learned"):
    context = stage(name, TokenizerConfig(vocabulary_size=600, max_training_bytes=max_training_bytes), corpus=corpus)
    stages.run_tokenizer(context)
    return load_tokenizer(context.output)


def test_a_tokenizer_learns_from_every_part_of_a_corpus_over_the_limit(stage, two_scripts):
    corpus, texts = two_scripts
    tokenizer = learned(stage, corpus, 300_000)
    assert measure_compression(tokenizer, texts["english"][:20]).bytes_per_token > 3
    assert measure_compression(tokenizer, texts["greek"][:20]).bytes_per_token > 3
    assert learned(stage, corpus, 300_000, "again").digest == tokenizer.digest


def test_an_even_sample_of_a_large_corpus_comes_first_and_then_the_rest(two_scripts):
    corpus, texts = two_scripts
    found = list(stages.learning_texts(corpus, max_bytes=300_000))
    sizes = np.cumsum([len(text.encode()) for text in found])
    sample = found[: int(np.searchsorted(sizes, 300_000))]
    greek = sum(len(text.encode()) for text in sample if text.startswith("greek"))
    assert 0.4 * 300_000 < greek < 0.6 * 300_000
    assert sorted(found) == sorted([*texts["english"], *texts["greek"]])


def test_a_large_document_outside_the_sample_is_learned_from_where_the_sample_is_too_small(tmp_path):
    corpus = tmp_path / "two"
    corpus.mkdir()
    with PartWriter(corpus / "part-00000.parquet", CORPUS_SCHEMA) as writer:
        for id_, text in (("f" * 16, "one large book " * 1000), ("0" * 16, "a few words")):
            writer.add(Document(id=id_, text=text, source="files:x", path=id_, domain="x", split="train"))
    assert list(stages.learning_texts(corpus, max_bytes=5_000)) == ["a few words", "one large book " * 1000]


def test_a_tokenizer_learns_from_all_of_a_corpus_within_the_limit_in_stored_order(stage, two_scripts):
    corpus, texts = two_scripts
    everything = [*texts["english"], *texts["greek"]]
    size = sum(len(text.encode()) for text in everything)
    assert list(stages.learning_texts(corpus, max_bytes=size)) == everything
    config = TokenizerConfig(vocabulary_size=600)
    assert learned(stage, corpus, size).digest == train_tokenizer(everything, config).digest


def test_texts_come_in_stored_order_where_no_document_is_in_the_sample(two_scripts):
    corpus, texts = two_scripts
    assert list(stages.learning_texts(corpus, max_bytes=1)) == [*texts["english"], *texts["greek"]]


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

    def stop_after_two(*arguments):
        written.append(arguments[-1].name)
        broken.stop.requested = len(written) == 2
        return write(*arguments)

    monkeypatch.setattr(stages, "_encode_shard", stop_after_two)
    with pytest.raises(StoppedError):
        stages.run_tokens(broken)
    broken.stop.requested = False
    stages.run_tokens(broken)
    assert written == sorted(set(written), key=written.index)  # no shard twice
    files = {path.name: path.read_bytes() for path in whole.output.iterdir()}
    assert {path.name: path.read_bytes() for path in broken.output.iterdir()} == files


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


def test_shards_of_an_earlier_version_with_other_borders_are_encoded_anew(stage, corpus, tokenizer_dir, monkeypatch):
    whole = stage("whole", corpus=corpus, tokenizer=tokenizer_dir)
    stages.run_tokens(whole)
    older = stage("older", corpus=corpus, tokenizer=tokenizer_dir)
    write = stages._encode_shard

    def stop_after_one(*arguments):
        older.stop.requested = True
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "_SHARD_DOCUMENTS", 3)
        patch.setattr(stages, "_DONE", "{}.done.json")  # the mark of the versions that cut by documents alone
        patch.setattr(stages, "_encode_shard", stop_after_one)
        with pytest.raises(StoppedError):
            stages.run_tokens(older)
    older.stop.requested = False
    stages.run_tokens(older)
    files = {path.name: path.read_bytes() for path in whole.output.iterdir()}
    assert {path.name: path.read_bytes() for path in older.output.iterdir()} == files


def test_a_corpus_without_documents_is_an_error(stage, tmp_path, tokenizer_dir):
    empty = write_corpus(tmp_path / "empty", [])
    with pytest.raises(DataError, match="no text"):
        stages.run_tokens(stage("tokens", corpus=empty, tokenizer=tokenizer_dir))
    with pytest.raises(DataError, match="no text"):
        stages.run_tokenizer(stage("other", TokenizerConfig(vocabulary_size=320), corpus=empty))
