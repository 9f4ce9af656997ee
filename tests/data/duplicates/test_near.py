"""Near copies: found at the similarity asked for, never below it, the best one staying, whatever the order."""

import tracemalloc

import numpy as np
import pytest

from chatwright.data import clean_stage
from chatwright.data.clean import CleanConfig
from chatwright.data.document import DOCUMENTS_SCHEMA, PartWriter, iter_documents
from chatwright.data.duplicates import pairs as pairs_module
from chatwright.data.duplicates.config import DuplicatesConfig
from chatwright.data.duplicates.minhash import band_hashes, found_with
from chatwright.data.duplicates.pairs import Candidates, ShingleFile, candidate_pairs, find_copies
from chatwright.data.duplicates.shingles import jaccard, shingles, word_hashes
from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, StoppedError
from chatwright.foundation.stopping import StopFlag

VOCABULARY = np.array([f"w{number}" for number in range(5_000)])


def planted(similarity, *, count, words, seed=0):
    """Pairs of texts whose shingle sets of five words have about this Jaccard similarity."""
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        first = generator.choice(VOCABULARY, words)
        # A second text that keeps a beginning of k words shares k - 4 of 2 * (words - 4) - (k - 4) shingles.
        shared = round(2 * similarity / (1 + similarity) * (words - 4)) + 4
        second = np.concatenate([first[:shared], generator.choice(VOCABULARY, words - shared)])
        texts += [" ".join(first), " ".join(second)]
    return texts


def copies_among(texts):
    config = DuplicatesConfig()
    sets = [np.unique(shingles(word_hashes(text), size=config.shingle_words)) for text in texts]
    bands = np.stack([band_hashes(one, bands=config.bands, rows=config.rows) for one in sets])
    ranks = np.arange(len(texts))
    found = candidate_pairs((bands[:, band], ranks) for band in range(config.bands))
    return find_copies(found, dict(enumerate(sets)), threshold=config.threshold), sets


@pytest.mark.parametrize("words", [60, 400])
@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.65, 0.75, 0.8, 0.85, 0.9, 0.95])
def test_planted_copies_are_found_from_the_threshold_on_and_none_below(similarity, words):
    count = 100
    found, sets = copies_among(planted(similarity, count=count, words=words))
    true = {n for n in range(1, 2 * count, 2) if jaccard(sets[n - 1], sets[n]) >= 0.7}
    assert len(true) == (count if similarity > 0.7 else 0)
    precision = len(found.copies.keys() & true) / len(found.copies) if found.copies else 1.0
    recall = len(found.copies.keys() & true) / len(true) if true else 1.0
    assert precision == 1.0
    assert recall >= 0.98
    assert all(copy.of == rank - 1 for rank, copy in found.copies.items())


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.7, 0.9])
def test_candidates_come_as_often_as_the_formula_says(similarity):
    texts = planted(similarity, count=400, words=300, seed=1)
    sets = [shingles(word_hashes(text), size=5) for text in texts]
    bands = np.stack([band_hashes(one, bands=10, rows=4) for one in sets])
    share = np.mean((bands[0::2] == bands[1::2]).any(axis=1))
    assert abs(share - found_with(similarity, bands=10, rows=4)) < 0.08


def test_a_flood_of_copies_takes_few_comparisons_and_leaves_one(monkeypatch):
    monkeypatch.setattr(pairs_module, "MAX_FULL_BUCKET", 8)
    words = VOCABULARY[:300]
    flood = [" ".join([*words[:100], f"copy{n}", *words[101:]]) for n in range(200)]
    found, _ = copies_among(flood)
    assert sorted(found.copies) == list(range(1, 200))
    assert {copy.of for copy in found.copies.values()} == {0}
    assert found.compared < 1_000


def test_a_chain_of_likenesses_loses_only_what_is_like_one_that_stays():
    words = VOCABULARY[:400]
    chain = [" ".join(words[start : start + 200]) for start in (0, 25, 50, 75)]
    found, sets = copies_among(chain)
    assert jaccard(sets[0], sets[1]) > 0.7 > jaccard(sets[0], sets[2])
    assert {rank: copy.of for rank, copy in found.copies.items()} == {1: 0, 3: 2}


def test_settings_that_would_miss_copies_are_refused():
    with pytest.raises(ConfigError, match="find only 5. % of pairs|find only 5.% of pairs"):
        validate(DuplicatesConfig, {"bands": 14, "rows": 8}, where="x")
    with pytest.raises(ConfigError, match="must not exceed"):
        validate(DuplicatesConfig, {"bands": 400, "rows": 5}, where="x")


@pytest.fixture
def corpus_of(tmp_path, stage, make_document):
    """Cleans texts and gives the kept documents and the report."""

    def make(texts, *, name="corpus", **settings):
        documents = tmp_path / f"{name}-documents"
        documents.mkdir()
        # Two parts, so that copies lie in different partitions.
        for part, members in enumerate((texts[::2], texts[1::2])):
            with PartWriter(documents / f"part-0000{part}.parquet", DOCUMENTS_SCHEMA) as writer:
                for text in members:
                    writer.add(make_document(text, number=texts.index(text)))
        config = CleanConfig(heldout_share=0.5, **settings)
        context = stage(config, name=name, documents=documents)
        clean_stage.run(context)
        return list(iter_documents(context.output)), storage.read_json(context.output / "report.json")

    return make


def prose_pairs(count):
    generator = np.random.default_rng(5)
    words = np.array(
        [
            f"{a}{b}"
            for a in ("har", "ti", "quay", "bas", "sto", "mor")
            for b in ("bour", "de", "ket", "ne", "ning", "l")
        ]
    )
    pairs = []
    for number in range(count):
        text = [*generator.choice(words, 120), f"p{number}"]
        pairs += [" ".join(text), " ".join([*text[:60], "changed", *text[61:], "and", "longer"])]
    return pairs


def test_copies_are_found_across_partitions_and_the_longer_of_equal_quality_stays(corpus_of):
    kept, report = corpus_of(prose_pairs(30))
    assert len(kept) == 30
    assert all(document.text.endswith("and longer") for document in kept)
    assert report["dropped"]["near_duplicate"]["count"] == report["near_duplicates"]["copies"] == 30
    assert report["near_duplicates"]["threshold"] == 0.7


def test_no_near_copy_of_a_held_out_document_is_in_training(corpus_of):
    texts = prose_pairs(60)
    kept, report = corpus_of(texts, duplicates=DuplicatesConfig(near="mark"))
    by_cluster = {}
    for document in kept:
        by_cluster.setdefault(document.cluster, set()).add(document.split)
    assert all(len(splits) == 1 for splits in by_cluster.values())
    across = report["dropped"]["near_duplicate_across_splits"]["count"]
    assert 10 < across < 50  # a pair lies in both halves as often as not
    assert len(kept) == 120 - across
    assert len(by_cluster) == 60


@pytest.mark.parametrize("near", ["drop", "mark"])
def test_a_document_never_moves_between_splits_when_others_come(corpus_of, near):
    texts = prose_pairs(60)
    before, _ = corpus_of(texts[:70], name="before", duplicates=DuplicatesConfig(near=near))
    after, _ = corpus_of(texts, name="after", duplicates=DuplicatesConfig(near=near))
    splits = {document.text: document.split for document in after}
    stayed = [document for document in before if document.text in splits]
    assert len(stayed) > 20
    assert all(splits[document.text] == document.split for document in stayed)


def test_a_known_licence_is_preferred_to_length(tmp_path, stage, make_document):
    short, long = prose_pairs(1)
    documents = tmp_path / "documents"
    documents.mkdir()
    with PartWriter(documents / "part-00000.parquet", DOCUMENTS_SCHEMA) as writer:
        writer.add(make_document(long, number=0))
        writer.add(make_document(short, number=1, licence="CC0-1.0"))
    context = stage(CleanConfig(), documents=documents)
    clean_stage.run(context)
    assert [document.licence for document in iter_documents(context.output)] == ["CC0-1.0"]


def everything_alike(number):
    """Candidates of a flood: each of so many documents with each, in order, and one set for all of them."""
    better, worse = np.triu_indices(number, k=1)
    keys = np.sort((worse.astype(np.uint64) << np.uint64(32)) | better.astype(np.uint64))
    same = shingles(word_hashes("one text for all of them, and no other"), size=5)
    return Candidates(keys), dict.fromkeys(range(number), np.unique(same))


def test_slices_of_pairs_change_nothing(monkeypatch):
    texts = planted(0.8, count=40, words=60) + planted(0.65, count=40, words=60, seed=1)
    whole, _ = copies_among(texts)
    monkeypatch.setattr(pairs_module, "_SLICE", 7)
    assert copies_among(texts)[0] == whole
    pairs, _ = everything_alike(20)
    assert pairs.members().tolist() == list(range(20))
    assert sum(len(part.worse) for part in pairs.in_slices()) == len(pairs) == 190


def test_going_through_pairs_takes_no_memory_for_each(monkeypatch):
    monkeypatch.setattr(pairs_module, "_SLICE", 1000)
    pairs, sets = everything_alike(500)
    tracemalloc.start()
    found = find_copies(pairs, sets, threshold=0.7)
    pairs.members()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pairs) == found.candidates == 124_750
    assert len(found.copies) == 499
    assert peak < 4 * len(pairs)  # bytes; numbers of Python would take eighty for each


def test_pairs_of_all_bands_are_held_little_more_than_once():
    generator = np.random.default_rng(2)
    ranks = np.arange(4_000)

    def bands():
        for _ in range(12):
            yield np.repeat(generator.permutation(400).astype(np.uint64), 10), generator.permutation(ranks)

    found = candidate_pairs(bands())
    size = 8 * len(found)
    tracemalloc.start()
    again = candidate_pairs(bands())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert abs(len(again) - len(found)) < 0.01 * len(found)
    assert peak < 3.5 * size  # the pairs, the merged pairs, and a band beside them


def test_a_stop_is_heard_while_candidates_are_compared():
    pairs, sets = everything_alike(20)
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(StoppedError):
        find_copies(pairs, sets, threshold=0.7, stop=stop)


def test_sets_are_found_again_in_whatever_order_they_were_written(tmp_path):
    generator = np.random.default_rng(4)
    sets = {int(rank): generator.integers(0, 99, 20).astype(np.uint64) for rank in generator.permutation(50)[:30]}
    file = ShingleFile(tmp_path / "sets")
    file.fill(sets.items())
    assert all(np.array_equal(file[rank], np.unique(values)) for rank, values in sets.items())
    ShingleFile(tmp_path / "none").fill([])
