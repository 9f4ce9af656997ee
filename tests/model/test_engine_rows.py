"""Rows read in pieces, forked and overwritten give the scores of the whole text read at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.engine import rows as engine_rows
from chatwright.model.engine.rows import Rows

SAME = {"atol": 2e-5, "rtol": 1e-4}  # other shapes sum in another order


def some_ids(length: int, *, seed: int = 0) -> list[int]:
    return torch.randint(0, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def usual_network(make_network):
    """Weights and scores of a usual size, for which the tolerance is meant."""
    return make_network(std=0.1, context_length=256)


@torch.inference_mode()
def at_once(network, ids):
    return network(torch.tensor([ids]))[0, -1]


@pytest.mark.parametrize("fields", [{}, {"family": "llama", "key_heads": 4}, {"key_heads": 1, "tied": False}])
def test_going_on_token_by_token_equals_reading_at_once(make_network, fields):
    network = make_network(std=0.1, **fields)
    rows, texts = Rows(network), [some_ids(length, seed=length) for length in (1, 20, 33)]
    begun, scores_NV = rows.begin(texts, capacities=[40] * 3)
    for step in range(5):
        for text, scores_V in zip(texts, scores_NV, strict=True):
            torch.testing.assert_close(scores_V, at_once(network, text), **SAME)
        tokens = [step + number for number in range(3)]
        texts = [[*text, token] for text, token in zip(texts, tokens, strict=True)]
        scores_NV = rows.step(begun, tokens)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 150), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_prompts_read_together_equal_each_alone(usual_network, lengths, seed):
    prompts = [some_ids(length, seed=seed + number) for number, length in enumerate(lengths)]
    rows = Rows(usual_network)
    _, scores_NV = rows.begin(prompts, capacities=[length + 1 for length in lengths])
    for number, prompt in enumerate(prompts):
        _, alone_NV = rows.begin([prompt], capacities=[len(prompt) + 1])
        assert torch.equal(scores_NV[number], alone_NV[0])
        torch.testing.assert_close(scores_NV[number], at_once(usual_network, prompt), **SAME)


def test_a_long_prompt_is_read_in_parts(make_network):
    network, ids = make_network(std=0.1, context_length=4500), some_ids(4400)
    _, scores_NV = Rows(network).begin([ids[:70], ids, ids[:3]], capacities=[4400] * 3)
    for text, scores_V in zip((ids[:70], ids, ids[:3]), scores_NV, strict=True):
        torch.testing.assert_close(scores_V, at_once(network, text), **SAME)


def test_a_fork_goes_its_own_way_and_a_row_can_be_overwritten(usual_network):
    rows, text = Rows(usual_network), some_ids(30)
    (first,), _ = rows.begin([text], capacities=[64])
    second = rows.fork(first)
    third = rows.fork(first)
    scores_NV = rows.step([third, first, second], [7, 8, 9])
    for token, scores_V in zip((7, 8, 9), scores_NV, strict=True):
        torch.testing.assert_close(scores_V, at_once(usual_network, [*text, token]), **SAME)
    rows.overwrite(first, second)
    rows.close(third)
    scores_NV = rows.step([second, first], [5, 5])
    assert torch.equal(scores_NV[0], scores_NV[1])
    torch.testing.assert_close(scores_NV[0], at_once(usual_network, [*text, 9, 5]), **SAME)


def test_rows_that_are_asked_for_are_there_however_small_the_memory(usual_network, monkeypatch):
    monkeypatch.setattr(engine_rows, "_MEMORY_BYTES", 1)
    rows, text = Rows(usual_network), some_ids(200)
    assert rows.room_for(250) == 1
    rows.begin([text], capacities=[250])
    rows = Rows(usual_network)
    assert rows.room_for(250, least=3) == 3
    begun, _ = rows.begin([text, text], capacities=[250, 250])
    rows.fork(begun[0])
    assert rows.room_for(60) == 12


def test_a_network_with_an_adapter_beside_it_is_refused(make_network):
    network = make_network()
    handles = Adapter(network, LoraConfig(rank=2)).attach(network)
    with pytest.raises(ValueError, match="an adapter computes beside"):
        Rows(network)
    for handle in handles:
        handle.remove()
    Rows(network)
