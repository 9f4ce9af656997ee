"""Curricula: scores of windows, what is open when, controls that see as much, and a past that cannot be changed."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import VOCABULARY, new_network, new_trainer

from chatwright.foundation.errors import StoppedError
from chatwright.foundation.stopping import StopFlag
from chatwright.tokens.shards import ShardWriter, TokenData, write_index
from chatwright.train import curriculum
from chatwright.train.curriculum import Curriculum, CurriculumConfig, CurriculumOrder, open_share, window_scores
from chatwright.train.growth import BatchPlan, GrowingSource, LengthConfig


@pytest.mark.parametrize("pacing", ["linear", "root", "steps"])
@given(start=st.floats(0.01, 1.0), warmup=st.floats(0.05, 1.0))
def test_more_and_more_is_open_until_all_is(pacing, start, warmup):
    config = CurriculumConfig(score="length", pacing=pacing, open_at_start=start, warmup_share=warmup)
    shares = [open_share(config, step, steps=100) for step in range(101)]
    assert shares[0] == pytest.approx(start)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def split_of(folder, *, documents=12, length=30):
    folder.mkdir()
    writer = ShardWriter(vocabulary_size=VOCABULARY, end_of_text=0)
    for number in range(documents):
        writer.add([1 + number] * length, domain=0, num_bytes=length)
    shards = {name: [writer.save(folder / f"{name}-00000")] for name in ("train",)}
    write_index(folder, shards, tokenizer="t", vocabulary=VOCABULARY, domains=["d"])
    return TokenData(folder).split("train")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return split_of(tmp_path_factory.mktemp("curriculum") / "tokens")


def test_a_windows_score_is_that_of_its_documents_by_tokens(split):
    scores = window_scores(split, list(range(12)), length=31)
    assert scores.tolist() == list(range(11))  # each window is one document with its end; the last has no next token
    halves = window_scores(split, list(range(12)), length=62)
    assert halves.tolist() == [0.5 + 2 * number for number in range(5)]
    with pytest.raises(ValueError, match="expected 12 scores"):
        window_scores(split, [1.0], length=31)


def scores_by_token(split, scores, *, length):
    """The same by its definition: a score for each token of the split."""
    by_token = np.repeat(scores, [len(document.ids) + 1 for document in split.documents()])
    windows = (len(by_token) - 1) // length
    return by_token[: windows * length].reshape(windows, length).mean(axis=1)


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("length", [1, 7, 64, 1000])
def test_scores_by_blocks_have_the_bits_of_scores_by_tokens(tmp_path, monkeypatch, block, length):
    monkeypatch.setattr(curriculum, "_BLOCK_TOKENS", block)
    random = np.random.default_rng(5)
    writers = [ShardWriter(vocabulary_size=VOCABULARY, end_of_text=0) for _ in range(3)]
    for number, size in enumerate(random.integers(0, 300, 60)):
        writers[number // 25].add([1] * int(size), domain=0, num_bytes=1)
    entries = [writer.save(tmp_path / f"train-0000{number}") for number, writer in enumerate(writers)]
    write_index(tmp_path, {"train": entries}, tokenizer="t", vocabulary=VOCABULARY, domains=["d"])
    split = TokenData(tmp_path).split("train")
    scores = random.normal(size=60)
    expected = scores_by_token(split, scores, length=length)
    assert window_scores(split, scores, length=length).tobytes() == expected.tobytes()


def test_a_split_without_documents_has_no_window_scores(tmp_path):
    write_index(tmp_path, {"train": []}, tokenizer="t", vocabulary=VOCABULARY, domains=["d"])
    assert window_scores(TokenData(tmp_path).split("train"), [], length=8).tolist() == []


class LongSplit:
    """A hundred million tokens, of which only the places of documents are known."""

    def __len__(self):
        return 10**8

    def all_spans(self):
        lengths = np.full(10**4, 10**4)
        return np.cumsum(lengths) - lengths, lengths


def test_the_memory_for_window_scores_does_not_grow_with_the_tokens():
    tracemalloc.start()
    try:
        scores = window_scores(LongSplit(), np.arange(10.0**4), length=10**4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert scores.tolist() == list(range(10**4 - 1))
    assert peak < 100e6


def order(direction, **fields):
    config = CurriculumConfig(score="length", direction=direction, open_at_start=0.1, warmup_share=0.5, **fields)
    return Curriculum(config=config, scores=np.arange(100.0), steps=100, rows=8, seed=1)


def test_easy_comes_first_hard_in_the_control_and_any_in_the_other():
    early = {}
    for direction in ("forward", "reverse", "random"):
        curriculum = order(direction)
        ranking = curriculum.ranking()
        assert sorted(ranking) == list(range(100))
        seen = [window for step in range(3) for window in curriculum.windows(step, ranking)]
        early[direction] = set(seen)
    assert max(early["forward"]) < 16
    assert min(early["reverse"]) > 83
    assert len(early["random"]) <= 16  # the control has no more to see than the others
    assert max(early["random"]) > 16


def test_after_the_warm_up_each_pass_visits_every_window_once():
    curriculum = order("forward")
    ranking = curriculum.ranking()
    visits = [window for step in range(50, 100) for window in curriculum.windows(step, ranking)]
    assert sorted(visits[:100]) == list(range(100))
    assert sorted(visits[100:200]) == list(range(100))
    assert visits[:100] != visits[100:200]


def test_a_step_depends_on_its_number_alone():
    curriculum = order("forward")
    ranking = curriculum.ranking()
    assert curriculum.windows(7, ranking) == order("forward").windows(7, order("forward").ranking())
    assert curriculum.windows(7, ranking) != curriculum.windows(8, ranking)


def order_of(split, *, length=16, scores=None, **fields):
    config = CurriculumConfig(score="length", **{"warmup_share": 0.5} | fields)
    scores = list(range(12)) if scores is None else scores
    return CurriculumOrder(split, length=length, scores=scores, config=config, steps=12, rows=4, seed=1)


def growing(split, *, start=8, order=None, fingerprint="growing"):
    growth = LengthConfig(start=start, warmup_share=0.5)
    order = order or order_of(split)
    batches = BatchPlan(full=4, steps=12)
    return GrowingSource(order=order, batches=batches, micro_rows=2, growth=growth, full=16, fingerprint=fingerprint)


def test_rows_are_the_same_whether_asked_for_at_once_or_one_by_one(split):
    order = order_of(split)
    together = order.rows(2, 30)
    assert np.array_equal(together, np.concatenate([order.rows(row, 1) for row in range(2, 32)]))
    assert np.array_equal(together, order_of(split).rows(2, 30))


def test_a_run_by_curriculum_resumes_to_the_same_bits(split, tmp_path):
    straight = new_network()
    new_trainer(tmp_path / "straight", network=straight, source=growing(split)).run()
    flag = StopFlag()
    flag.requested = True
    with pytest.raises(StoppedError):
        new_trainer(tmp_path / "halves", source=growing(split)).run(flag)
    resumed = new_network(seed=4)
    new_trainer(tmp_path / "halves", network=resumed, source=growing(split)).run()
    assert all(torch.equal(one, other) for one, other in zip(straight.parameters(), resumed.parameters(), strict=True))
