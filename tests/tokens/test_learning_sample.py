"""What a tokenizer is learned from: all of a corpus, an even sample of a large one, or each domain by its weight."""

import os
import signal
import time

import numpy as np
import pytest

from chatwright.data import limits, stretch
from chatwright.data.document import CORPUS_SCHEMA, Document, PartWriter, document_id
from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DataError, StoppedError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag, stop_requested
from chatwright.tokens import stages
from chatwright.tokens.learning_sample import WeightedTexts, domains_of, learning_texts
from chatwright.tokens.tokenizer import TokenizerConfig, load_tokenizer, measure_compression, train_tokenizer


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


def learned(folder, corpus, **settings):
    """The report of the stage and its tokenizer."""
    folder.mkdir()
    config = TokenizerConfig(**{"vocabulary_size": 600, **settings})
    stages.run_tokenizer(StageContext(config=config, inputs={"corpus": corpus}, output=folder, seed=1))
    return storage.read_json(folder / "report.json"), load_tokenizer(folder)


def test_a_tokenizer_learns_from_every_part_of_a_corpus_over_the_limit(tmp_path, two_scripts):
    corpus, texts = two_scripts
    _, tokenizer = learned(tmp_path / "learned", corpus, max_training_bytes=300_000)
    assert measure_compression(tokenizer, texts["english"][:20]).bytes_per_token > 3
    assert measure_compression(tokenizer, texts["greek"][:20]).bytes_per_token > 3
    assert learned(tmp_path / "again", corpus, max_training_bytes=300_000)[1].digest == tokenizer.digest


def test_an_even_sample_of_a_large_corpus_comes_first_and_then_the_rest(two_scripts):
    corpus, texts = two_scripts
    found = list(learning_texts(corpus, max_bytes=300_000))
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
    assert list(learning_texts(corpus, max_bytes=5_000)) == ["a few words", "one large book " * 1000]


def test_a_tokenizer_learns_from_all_of_a_corpus_within_the_limit_in_stored_order(tmp_path, two_scripts):
    corpus, texts = two_scripts
    everything = [*texts["english"], *texts["greek"]]
    size = sum(len(text.encode()) for text in everything)
    assert list(learning_texts(corpus, max_bytes=size)) == everything
    config = TokenizerConfig(vocabulary_size=600)
    _, tokenizer = learned(tmp_path / "learned", corpus, max_training_bytes=size)
    assert tokenizer.digest == train_tokenizer(everything, config).digest


def test_texts_come_in_stored_order_where_no_document_is_in_the_sample(two_scripts):
    corpus, texts = two_scripts
    assert list(learning_texts(corpus, max_bytes=1)) == [*texts["english"], *texts["greek"]]


def is_greek(text):
    return any("α" <= letter <= "ω" for letter in text)


@pytest.mark.parametrize("max_bytes", [300_000, 1 << 30])
def test_a_domain_counts_as_often_as_its_weight_says(two_scripts, max_bytes):
    corpus, texts = two_scripts
    sizes = {name: sum(len(text.encode()) for text in listed) for name, listed in texts.items()}
    sample = WeightedTexts(corpus, {"english": 3.0, "greek": 1.0}, max_bytes=max_bytes)
    found = list(sample)
    total = min(max_bytes, sum(sizes.values()))
    greek = sum(len(text.encode()) for text in found if is_greek(text))
    assert greek == pytest.approx(total / 4, rel=0.02)
    assert sum(len(text.encode()) for text in found) == pytest.approx(total, rel=0.02)
    assert [one.domain for one in sample.taken] == ["english", "greek"]
    assert sample.taken[0].times == pytest.approx(0.75 * total / sizes["english"], rel=0.02)
    assert list(sample) == found == list(WeightedTexts(corpus, {"greek": 0.1, "english": 0.3}, max_bytes=max_bytes))


def test_a_domain_of_more_weight_than_text_is_read_whole_and_again(two_scripts):
    corpus, texts = two_scripts
    found = list(WeightedTexts(corpus, {"english": 3.0, "greek": 1.0}, max_bytes=1 << 30))
    assert set(texts["english"]) <= set(found)
    whole = "".join(texts["greek"])
    assert all(text in whole for text in found if is_greek(text))


def test_a_domain_read_in_part_is_read_from_its_beginning_to_its_end(two_scripts):
    corpus, texts = two_scripts
    found = list(WeightedTexts(corpus, {"greek": 1.0}, max_bytes=100_000))
    whole = "".join(texts["greek"])
    shares = [whole.index(text) / len(whole) for text in found if "greek-" in text and len(text) > 100]
    assert shares == sorted(shares)
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_weights_as_large_as_the_domains_change_nothing(two_scripts):
    corpus, texts = two_scripts
    sizes = {name: float(sum(len(text.encode()) for text in listed)) for name, listed in texts.items()}
    assert list(WeightedTexts(corpus, sizes, max_bytes=1 << 30)) == [*texts["english"], *texts["greek"]]


def test_a_domain_without_weight_is_not_read_and_one_that_is_not_there_is_named(two_scripts):
    corpus, texts = two_scripts
    assert list(WeightedTexts(corpus, {"greek": 2.0, "english": 0.0}, max_bytes=1 << 30)) == texts["greek"]
    with pytest.raises(DataError, match="poems") as caught:
        WeightedTexts(corpus, {"greek": 1.0, "poems": 1.0}, max_bytes=1 << 30)
    assert "english, greek" in caught.value.hint


def test_the_stage_learns_more_of_what_weighs_more_and_says_what_it_read(tmp_path, two_scripts, capsys):
    corpus, texts = two_scripts
    weights = {"greek": {"english": 1.0, "greek": 50.0}, "english": {"english": 50.0, "greek": 1.0}}
    made = {
        name: learned(tmp_path / name, corpus, vocabulary_size=300, weights=table) for name, table in weights.items()
    }
    for name, (_, tokenizer) in made.items():
        (other,) = made.keys() - {name}
        own = measure_compression(tokenizer, texts[name][:20]).bytes_per_token
        assert own > 1.2 * measure_compression(made[other][1], texts[name][:20]).bytes_per_token
    sample = made["greek"][0]["sample"]
    assert sample["greek"]["bytes"] == pytest.approx(50 * sample["english"]["bytes"], rel=0.1)
    assert "greek 98.0%" in capsys.readouterr().err


def test_without_weights_the_report_and_the_settings_are_what_they_were(tmp_path, two_scripts):
    report, _ = learned(tmp_path / "learned", two_scripts[0])
    assert set(report) == {"kind", "vocabulary_size", "digest", "heldout_bytes_per_token"}
    assert "weights" not in TokenizerConfig().model_dump(mode="json")
    assert TokenizerConfig(weights={}).model_dump(mode="json")["weights"] == {}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weights": {"a": 0.0}}, "one of them above"),
        ({"weights": {"a": 1.0, "b": -1.0}}, "at least 0"),
        ({"weights": {"a": 1.0}, "kind": "bytes"}, "no effect"),
    ],
)
def test_weights_that_can_be_no_shares_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        validate(TokenizerConfig, settings, where="x")


@pytest.fixture
def many_groups(tmp_path, monkeypatch):
    """A corpus of 2,000 short texts in 200 row groups."""
    monkeypatch.setattr(limits, "ROW_GROUP_DOCUMENTS", 10)
    directory = tmp_path / "many"
    directory.mkdir()
    with PartWriter(directory / "part-00000.parquet", CORPUS_SCHEMA) as writer:
        for number in range(2_000):
            text, path = f"ferry {number} waits in the harbour", f"{number}.txt"
            id_ = document_id("files:x", path)
            writer.add(Document(id=id_, text=text, source="files:x", path=path, domain="x", split="train"))
    return directory


def texts_of(corpus, stop, *, weighted):
    if weighted:
        return WeightedTexts(corpus, {"x": 1.0}, max_bytes=1 << 30, stop=stop)
    return learning_texts(corpus, max_bytes=1 << 30, stop=stop)


@pytest.mark.parametrize("weighted", [False, True])
def test_reading_stops_at_the_next_row_group(many_groups, weighted):
    stop = StopFlag()
    texts = iter(texts_of(many_groups, stop, weighted=weighted))
    first = [next(texts) for _ in range(15)]
    stop.requested = True
    rest = []
    with pytest.raises(StoppedError, match="stopped on request"):
        rest.extend(texts)
    assert (len(first), len(rest)) == (15, 5)


@pytest.mark.parametrize("read", [lambda *a: list(texts_of(*a, weighted=False)), lambda c, s: domains_of(c, stop=s)])
def test_what_is_counted_before_stops_too_and_says_how_far_it_is(many_groups, monkeypatch, capsys, read):
    monkeypatch.setattr(stretch, "_QUIET_S", 0.0)
    stop = StopFlag()
    read(many_groups, stop)
    assert "0/200 (0%)" in capsys.readouterr().err
    stop.requested = True
    with pytest.raises(StoppedError):
        read(many_groups, stop)


@pytest.mark.parametrize("trainer", ["huggingface", "rustbpe"])
def test_a_signal_is_heard_while_a_tokenizer_is_learned(tmp_path, many_groups, monkeypatch, trainer):
    if trainer == "rustbpe":
        pytest.importorskip("rustbpe")
    whole, given = stages.learning_texts, []

    def signalled(corpus, *, stop, **settings):
        for text in whole(corpus, stop=stop, **settings):
            given.append(text)
            if len(given) == 1_000:
                os.kill(os.getpid(), signal.SIGTERM)
                ends = time.monotonic() + 20.0
                while not stop.requested and time.monotonic() < ends:
                    time.sleep(0.001)  # the main thread has its turn
            yield text

    monkeypatch.setattr(stages, "learning_texts", signalled)
    folder = tmp_path / "learned"
    folder.mkdir()
    config = TokenizerConfig(vocabulary_size=300, trainer=trainer)
    inputs = {"corpus": many_groups}
    with stop_requested() as stop, pytest.raises(StoppedError):
        stages.run_tokenizer(StageContext(config=config, inputs=inputs, output=folder, seed=1, stop=stop))
    assert len(given) == 1_000
    assert not list(folder.iterdir())


def test_cutting_a_corpus_into_shards_can_be_stopped(many_groups):
    stop = StopFlag()
    assert [begin.documents for begin in stages._cut(many_groups, "train", stop)] == [2_000]
    stop.requested = True
    with pytest.raises(StoppedError):
        list(stages._cut(many_groups, "train", stop))
