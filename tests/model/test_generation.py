"""Text is written token after token: within its limits, stopped where it should, whole characters only."""

import math
from collections import Counter

import pytest
import torch

from chatwright.foundation.errors import UsageError
from chatwright.model.generation import Sampling, choose, greedy_batch, stream_text

NEVER = frozenset[int]()


def greedy(network, tokenizer, prompt, *, max_tokens=20, stop_ids=NEVER, **fields):
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, **fields)
    return list(stream_text(network, tokenizer, prompt, sampling, stop_ids=stop_ids))


def text_of(pieces) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def speech(tiny_network, tiny_tokenizer):
    """What the tiny network says to a prompt, long and of many characters."""
    prompt = tiny_tokenizer.encode("The ferry")
    text = text_of(greedy(tiny_network, tiny_tokenizer, prompt, max_tokens=40))
    assert len(set(text)) > 10
    return prompt, text


def draws(scores, count=4000, **fields) -> Counter:
    generator = torch.Generator().manual_seed(1)
    sampling = Sampling(**{"temperature": 1.0, **fields})
    return Counter(choose(torch.tensor(scores), sampling, seen=[], generator=generator) for _ in range(count))


SHARES = [0.4, 0.3, 0.15, 0.1, 0.05]
SCORES = [math.log(share) for share in SHARES]


def assert_shares(drawn: Counter, shares: dict[int, float]) -> None:
    """Frequencies within five standard deviations; nothing outside."""
    count = drawn.total()
    assert set(drawn) == set(shares)
    for token, share in shares.items():
        assert abs(drawn[token] - count * share) <= 5 * math.sqrt(count * share * (1 - share)) + 1


def renormalised(tokens, temperature=1.0) -> dict[int, float]:
    powers = {token: SHARES[token] ** (1 / temperature) for token in tokens}
    return {token: power / sum(powers.values()) for token, power in powers.items()}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, range(5)),
        ({"top_k": 2}, (0, 1)),
        ({"top_k": 9}, range(5)),
        ({"top_p": 0.5}, (0, 1)),  # the token that crosses the limit stays
        ({"top_p": 0.71}, (0, 1, 2)),
        ({"top_p": 1e-9}, (0,)),
        ({"min_p": 0.3}, (0, 1, 2)),  # at least 0.3 of the likeliest token's share
        ({"min_p": 1.0}, (0,)),
        ({"top_k": 4, "top_p": 0.9, "min_p": 0.2}, (0, 1, 2, 3)),
    ],
)
def test_sampling_draws_by_share_within_its_limits(fields, kept):
    assert_shares(draws(SCORES, **fields), renormalised(kept))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_and_flattens(temperature):
    assert_shares(draws(SCORES, temperature=temperature), renormalised(range(5), temperature))


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-30, 1e-5])
def test_no_temperature_or_nearly_none_takes_the_likeliest(temperature):
    assert set(draws([1.0, 3.0, 2.0], count=20, temperature=temperature)) == {1}
    assert set(draws([-500.0, 90_000.0, 2.0], count=20, temperature=temperature)) == {1}


def test_a_repeated_token_becomes_less_likely_whatever_its_scores_sign():
    generator = torch.Generator()
    sampling = Sampling(temperature=0.0, repetition_penalty=2.0)
    assert choose(torch.tensor([3.0, 2.0]), sampling, seen=[0, 0], generator=generator) == 1
    assert choose(torch.tensor([-1.0, -1.5]), sampling, seen=[0], generator=generator) == 1
    scores = torch.tensor([3.0, 2.0])
    choose(scores, sampling, seen=[0], generator=generator)
    assert scores.tolist() == [3.0, 2.0]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"seed": -1},
        {"seed": 1 << 63},
        {"stop": ("a", "")},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(fields):
    with pytest.raises(UsageError, match=next(iter(fields))):
        Sampling(**fields)


def test_all_settings_out_of_range_are_named_at_once():
    with pytest.raises(UsageError, match="`temperature` must be 0 or more: -1.*`top_p`"):
        Sampling(temperature=-1.0, top_p=2.0)


def test_the_same_seed_gives_the_same_text_and_another_another(tiny_network, tiny_tokenizer):
    def said(seed):
        sampling = Sampling(max_tokens=20, temperature=1.5, seed=seed)
        return text_of(stream_text(tiny_network, tiny_tokenizer, [5, 6], sampling, stop_ids=NEVER))

    assert said(3) == said(3)
    assert len({said(3), said(4), said(None), said(None)}) == 4


def test_greedy_text_is_the_likeliest_token_of_the_whole_text_each_time(tiny_network, tiny_tokenizer):
    ids = [9, 8, 7]
    for _ in range(15):
        with torch.inference_mode():
            ids.append(int(tiny_network(torch.tensor([ids]))[0, -1].argmax()))
    assert text_of(greedy(tiny_network, tiny_tokenizer, ids[:3], max_tokens=15)) == tiny_tokenizer.decode(ids[3:])


def test_pieces_count_tokens_and_the_last_one_says_why_it_ended(tiny_network, tiny_tokenizer, speech):
    prompt, text = speech
    pieces = greedy(tiny_network, tiny_tokenizer, prompt, max_tokens=40)
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == ("length", 40)
    assert {piece.prompt_tokens for piece in pieces} == {len(prompt)}
    assert text_of(pieces) == text
    assert all(piece.text for piece in pieces[:-1])


def test_a_stop_token_ends_the_text_and_is_not_shown(tiny_network, tiny_tokenizer, speech):
    prompt, _ = speech
    (row,) = greedy_batch(tiny_network, [prompt], max_tokens=40, stop_ids=NEVER, end=0)
    position = next(index for index in range(5, 40) if row[index] not in row[:index])
    pieces = greedy(tiny_network, tiny_tokenizer, prompt, max_tokens=40, stop_ids=frozenset({row[position]}))
    assert text_of(pieces) == tiny_tokenizer.decode(row[:position])
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == ("stop", position + 1)


@pytest.mark.parametrize("length", [1, 2, 5, 9])
@pytest.mark.parametrize("start", [0, 3, 11])
def test_a_stop_text_ends_the_text_before_it_and_no_part_of_it_is_shown(
    tiny_network, tiny_tokenizer, speech, start, length
):
    prompt, text = speech
    stop = text[start : start + length]
    pieces = greedy(tiny_network, tiny_tokenizer, prompt, max_tokens=40, stop=("never said", stop))
    assert text_of(pieces) == text[: text.index(stop)]
    assert pieces[-1].finish == "stop"


def test_a_stop_text_that_never_comes_holds_nothing_back_in_the_end(tiny_network, tiny_tokenizer, speech):
    prompt, text = speech
    pieces = greedy(tiny_network, tiny_tokenizer, prompt, max_tokens=40, stop=(text[-3:] + "more",))
    assert text_of(pieces) == text
    assert pieces[-1].finish == "length"


def test_a_cancelled_text_ends_at_once(tiny_network, tiny_tokenizer):
    asked = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 3

    sampling = Sampling(max_tokens=40, temperature=0.0)
    pieces = list(stream_text(tiny_network, tiny_tokenizer, [5], sampling, stop_ids=NEVER, cancelled=cancelled))
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == ("cancelled", 3)


@pytest.mark.parametrize("length", [63, 60])
def test_a_text_ends_where_the_context_ends(tiny_network, tiny_tokenizer, length):
    pieces = greedy(tiny_network, tiny_tokenizer, [7] * length, max_tokens=100)
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == ("length", 64 - length)


@pytest.mark.parametrize(
    ("length", "said"), [(0, "empty"), (64, "64 tokens, the model's context is 64"), (99, "99 tokens")]
)
def test_a_prompt_that_is_empty_or_fills_the_context_is_refused(tiny_network, tiny_tokenizer, length, said):
    with pytest.raises(UsageError, match=said):
        greedy(tiny_network, tiny_tokenizer, [7] * length)
    with pytest.raises(UsageError, match=said):
        greedy_batch(tiny_network, [[1], [7] * length], max_tokens=5, stop_ids=NEVER, end=0)


PROMPTS = [[5], [9] * 61, [1, 2, 3, 4], [200] * 30, [7, 8] * 10]


def test_a_batch_gives_each_row_what_it_gives_alone(tiny_network):
    stop_ids = frozenset(range(100, 140))
    together = greedy_batch(tiny_network, PROMPTS, max_tokens=12, stop_ids=stop_ids, end=0)
    alone = [greedy_batch(tiny_network, [p], max_tokens=12, stop_ids=stop_ids, end=0)[0] for p in PROMPTS]
    assert together == alone
    assert len({len(row) for row in alone}) > 1


def test_a_long_row_takes_no_tokens_from_a_short_one_at_the_contexts_end(tiny_network, tiny_tokenizer):
    together = greedy_batch(tiny_network, PROMPTS, max_tokens=100, stop_ids=NEVER, end=0)
    assert [len(row) for row in together] == [64 - len(prompt) for prompt in PROMPTS]
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert text_of(greedy(tiny_network, tiny_tokenizer, prompt, max_tokens=100)) == tiny_tokenizer.decode(row)


def test_a_batch_of_nothing_is_nothing(tiny_network):
    assert greedy_batch(tiny_network, [], max_tokens=5, stop_ids=NEVER, end=0) == []
    assert greedy_batch(tiny_network, [[1], [2]], max_tokens=0, stop_ids=NEVER, end=0) == [[], []]
