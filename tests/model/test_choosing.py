"""The next token is drawn by its share within the limits asked for, from a counter and nothing else."""

import math
from collections import Counter

import pytest
import torch

from chatwright.model.engine.choosing import Chooser, drawn
from chatwright.model.generation import Sampling

SHARES = [0.4, 0.3, 0.15, 0.1, 0.05]
SCORES = [math.log(share) for share in SHARES]
CHI_SQUARE_LIMITS = {1: 23.9, 2: 27.6, 3: 30.7, 4: 33.4}  # passed by chance once in a million


def draws(scores, count=4000, **fields) -> Counter:
    sampling = Sampling(**{"temperature": 1.0, **fields})
    chooser = Chooser(sampling, seed=1, answer=0, prompt=[])
    return Counter(chooser.choose(torch.tensor(scores)).token for _ in range(count))


def assert_drawn_by(shares: dict[int, float], drawn: Counter) -> None:
    """Pearson's chi-square over all tokens; nothing outside."""
    assert set(drawn) == set(shares)
    expected = {token: share * drawn.total() for token, share in shares.items()}
    if len(shares) > 1:
        distance = sum((drawn[token] - many) ** 2 / many for token, many in expected.items())
        assert distance < CHI_SQUARE_LIMITS[len(shares) - 1]


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
    assert_drawn_by(renormalised(kept), draws(SCORES, **fields))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_and_flattens(temperature):
    assert_drawn_by(renormalised(range(5), temperature), draws(SCORES, temperature=temperature))


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-30, 1e-5])
def test_no_temperature_or_nearly_none_takes_the_likeliest(temperature):
    assert set(draws([1.0, 3.0, 2.0], count=20, temperature=temperature)) == {1}
    assert set(draws([-500.0, 90_000.0, 2.0], count=20, temperature=temperature)) == {1}


@pytest.mark.parametrize("draw", [0.0, 0.3999, 0.5, 1 - 2**-53])
def test_every_draw_falls_on_a_token_that_has_a_share(draw):
    sampling = Sampling(temperature=1.0, top_k=2)
    assert drawn(torch.tensor(SCORES), sampling, draw=draw) == (0 if draw < 0.4 / 0.7 else 1)


def test_a_nucleus_wider_than_the_first_look_is_found_whole():
    scores = torch.zeros(2000)  # 2,000 equal shares: half of them make half
    sampling = Sampling(temperature=1.0, top_p=0.5)
    chosen = {drawn(scores, sampling, draw=step / 4000) for step in range(4000)}
    assert abs(len(chosen) - 1000) <= 1


def chosen_after(history, scores, **fields) -> int:
    chooser = Chooser(Sampling(temperature=0.0, **fields), seed=0, answer=0, prompt=[])
    for token in history:
        forced = torch.full((len(scores),), -100.0)
        forced[token] = 100.0
        assert chooser.choose(forced).token == token
    return chooser.choose(torch.tensor(scores)).token


def test_a_repeated_token_becomes_less_likely_whatever_its_scores_sign():
    assert chosen_after([0], [3.0, 2.0], repetition_penalty=2.0) == 1
    assert chosen_after([0], [-1.0, -1.5], repetition_penalty=2.0) == 1
    assert chosen_after([], [3.0, 2.0], repetition_penalty=2.0) == 0


def test_the_repetition_penalty_counts_the_prompt_and_the_others_do_not():
    scores = torch.tensor([3.0, 2.5])
    for fields, token in ({"repetition_penalty": 2.0}, 1), ({"presence_penalty": 2.0}, 0):
        chooser = Chooser(Sampling(temperature=0.0, **fields), seed=0, answer=0, prompt=[0, 0])
        assert chooser.choose(scores).token == token
    assert scores.tolist() == [3.0, 2.5]


def test_presence_is_taken_once_and_frequency_each_time():
    assert chosen_after([0, 0, 0], [3.0, 1.5], presence_penalty=1.0) == 0
    assert chosen_after([0, 0, 0], [3.0, 1.5], frequency_penalty=1.0) == 1
    assert chosen_after([0], [3.0, 1.5], frequency_penalty=1.0) == 0
    assert chosen_after([1], [3.0, 1.5], frequency_penalty=-2.0) == 1


def test_log_probabilities_are_the_models_own_before_temperature_and_limits():
    sampling = Sampling(temperature=0.5, top_k=1, top_logprobs=3)
    chosen = Chooser(sampling, seed=0, answer=0, prompt=[]).choose(torch.tensor(SCORES))
    assert chosen.token == 0
    assert chosen.top[0] == (0, chosen.logprob)
    assert [token for token, _ in chosen.top] == [0, 1, 2]
    assert [math.exp(value) for _, value in chosen.top] == pytest.approx(SHARES[:3])


def test_draws_depend_on_seed_answer_and_place_only():
    def said(seed, answer):
        chooser = Chooser(Sampling(temperature=1.0), seed=seed, answer=answer, prompt=[])
        return [chooser.choose(torch.tensor(SCORES)).token for _ in range(40)]

    assert said(3, 0) == said(3, 0)
    assert len({tuple(said(3, 0)), tuple(said(4, 0)), tuple(said(3, 1))}) == 3
