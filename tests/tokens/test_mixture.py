"""Windows by weight: exact shares, each window once an epoch, a pure function of the row, weights that change."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DataError
from chatwright.tokens.mixture import MixtureConfig, MixtureOrder, overall_weights
from chatwright.tokens.shards import ShardWriter, TokenData, write_index

DOMAINS = ["books", "chat", "web"]
LENGTH = 8


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Three domains in two shards; a token's hundreds tell its domain: books 0, chat 1, web 2."""
    directory = tmp_path_factory.mktemp("tokens")
    entries = []
    for shard in range(2):
        writer = ShardWriter(vocabulary_size=1_000, end_of_text=999)
        for number in range(60):
            domain = number % 3
            writer.add([100 * domain + number % 50] * (19 - 5 * domain), domain=domain, num_bytes=1)
        entries.append(writer.save(directory / f"train-{shard:05d}"))
    write_index(directory, {"train": entries}, tokenizer="", vocabulary=1_000, domains=DOMAINS)
    return TokenData(directory).split("train")


def order_of(split, weights, *, seed=1, batch_rows=4, **settings):
    config = validate(MixtureConfig, {"weights": weights, **settings}, where="x")
    return MixtureOrder(split, length=LENGTH, seed=seed, config=config, first_row=lambda step: step * batch_rows)


def domain_of(window):
    kinds = {int(token) // 100 for token in window if token != 999}
    assert len(kinds) == 1  # no window crosses domains
    return DOMAINS[kinds.pop()]


weights = st.dictionaries(st.sampled_from(DOMAINS), st.floats(0.001, 10).map(lambda x: round(x, 3)), min_size=1)


@settings(max_examples=60, deadline=None)
@given(weights=weights, rows=st.integers(1, 400))
def test_after_any_number_of_rows_each_share_is_met_to_a_few_rows(split, weights, rows):
    order = order_of(split, weights, max_epochs=1e9)
    counts = Counter(order.place(row)[0] for row in range(rows))
    total = sum(weights.values())
    for name, weight in weights.items():
        assert abs(counts[name] - rows * weight / total) <= len(weights)
    assert {one.domain: one.windows for one in order.shares(rows)} == {name: counts[name] for name in weights}


@settings(max_examples=30, deadline=None)
@given(weights=weights, switch=st.integers(1, 30))
def test_windows_of_a_domain_follow_each_other_also_where_weights_change(split, weights, switch):
    order = order_of(split, weights, stages=[{"from_step": switch, "weights": {"web": 3.0, "books": 1.0}}])
    seen = {}
    for row in range(200):
        domain, number = order.place(row)
        assert number == seen.get(domain, 0)
        seen[domain] = number + 1


def test_windows_hold_the_tokens_of_their_domain(split):
    order = order_of(split, {"books": 2.0, "web": 1.0})
    windows = order.rows(0, 90)
    assert windows.shape == (90, LENGTH + 1)
    assert Counter(map(domain_of, windows)) == {"books": 60, "web": 30}


def test_the_weights_of_a_later_stage_hold_from_its_step(split):
    order = order_of(split, {"books": 1.0}, stages=[{"from_step": 5, "weights": {"web": 1.0}}], batch_rows=4)
    assert [domain_of(order.window(row)) for row in range(40)] == ["books"] * 20 + ["web"] * 20


def test_weights_over_a_whole_training_are_what_its_windows_are_drawn_by(split):
    settings = {"weights": {"books": 2.0, "chat": 0.0, "web": 1.0}}
    config = validate(MixtureConfig, settings, where="x")
    assert overall_weights(config, first_row=lambda step: step * 4, steps=9) == {"books": 2.0, "web": 1.0}
    settings["stages"] = [{"from_step": 6, "weights": {"chat": 1.0}}, {"from_step": 99, "weights": {"web": 1.0}}]
    config = validate(MixtureConfig, settings, where="x")
    found = overall_weights(config, first_row=lambda step: step * 4, steps=9)
    assert found == {"books": 16.0, "chat": 12.0, "web": 8.0}
    order = MixtureOrder(split, length=LENGTH, seed=1, config=config, first_row=lambda step: step * 4)
    assert Counter(order.place(row)[0] for row in range(36)) == found


def test_a_row_does_not_depend_on_what_was_read_before(split):
    order, fresh = (order_of(split, {"books": 1.0, "chat": 0.3, "web": 0.21}) for _ in range(2))
    straight = order.rows(0, 120)
    for row in (100, 3, 77, 0):
        assert (fresh.window(row) == straight[row]).all()
    assert not (order_of(split, {"books": 1.0, "chat": 0.3, "web": 0.21}, seed=2).rows(0, 120) == straight).all()


def test_a_cap_takes_whole_documents_at_random(split):
    order = order_of(split, {"books": 1.0}, max_tokens={"books": 300})
    (share,) = order.shares(10)
    assert share.stored_tokens == 300  # fifteen documents of twenty tokens
    numbers = {int(token) for row in range(40) for token in order.window(row)} - {999}
    assert len(numbers) > 5
    assert numbers != set(range(0, 45, 3))  # not the first fifteen


def test_too_many_repeats_are_refused_with_the_way_out(split):
    order = order_of(split, {"web": 1.0}, max_epochs=2)
    with pytest.raises(DataError, match=r"`web`.*times its") as caught:
        order.shares(1_000)
    assert "max_epochs" in caught.value.hint


def test_a_domain_that_the_corpus_lacks_is_named_with_those_it_has(split):
    with pytest.raises(DataError, match="poems") as caught:
        order_of(split, {"poems": 1.0})
    assert "books, chat, web" in caught.value.hint


def test_a_capped_domain_of_too_few_tokens_is_an_error(split):
    with pytest.raises(DataError, match="window"):
        order_of(split, {"books": 1.0}, max_tokens={"books": 5})


def test_all_mistakes_of_a_mixture_are_reported_at_once():
    data = {
        "weights": {"a": 0.0},
        "stages": [{"from_step": 5, "weights": {"a": -1.0, "b": 2.0}}, {"from_step": 5, "weights": {"a": 1.0}}],
        "max_tokens": {"c": 0},
    }
    with pytest.raises(ConfigError) as caught:
        validate(MixtureConfig, data, where="x")
    assert len(caught.value.problems) == 5


def test_spans_cover_each_document_of_a_domain_once(split):
    total = 0
    for domain in DOMAINS:
        starts, lengths = split.spans(domain)
        assert len(starts) == 40
        assert (split.slice(int(starts[-1]), int(lengths[-1]))[-1]) == 999
        total += int(np.sum(lengths))
    assert total == len(split)
