"""Answers are the same whatever shares the engine with them, end where they should, and leave nothing behind."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.foundation.errors import UsageError
from chatwright.model.engine.engine import Engine, EngineSettings
from chatwright.model.engine.memory import BLOCK
from chatwright.model.generation import GenerationRequest, Sampling

CONTEXT = 256
LONG = tuple(range(5, 205))  # three whole blocks and a part


@pytest.fixture(scope="module")
def network(make_network):
    return make_network(context_length=CONTEXT)


@pytest.fixture(scope="module")
def engine(network, tiny_tokenizer):
    """One engine for tests that leave it empty."""
    return Engine(network, tiny_tokenizer)


@pytest.fixture(scope="module")
def speech(engine, tiny_tokenizer):
    """What the tiny network says to a prompt, long and of many characters."""
    prompt = tuple(tiny_tokenizer.encode("The ferry"))
    ((written,),) = engine.run([request(prompt, max_tokens=40)])
    assert len(set(written.text)) > 10
    return prompt, written


def request(prompt, *, stop_ids=frozenset(), num_answers=1, echo=False, **fields):
    sampling = Sampling(**{"max_tokens": 12, "temperature": 0.0, **fields})
    return GenerationRequest(
        prompt=tuple(prompt), sampling=sampling, stop_ids=frozenset(stop_ids), num_answers=num_answers, echo=echo
    )


def alone(network, tokenizer, asked):
    """The answers of an engine that never saw anything else."""
    return Engine(network, tokenizer).run([asked])[0]


def assert_is_empty(engine):
    load = engine.load()
    assert (load.running, load.waiting, load.used_blocks) == (0, 0, 0)


MIXED = [
    request([5]),
    request([9] * 61, max_tokens=40),
    request(LONG, temperature=1.0, seed=7, top_p=0.9),
    request(LONG[:130], temperature=1.0, seed=8, top_logprobs=3),
    request([200] * 30, temperature=1.3, seed=9, repetition_penalty=1.2, frequency_penalty=0.5),
    request([7, 8] * 10, num_answers=3, temperature=1.0, seed=10),
    request(LONG[:129], echo=True, top_logprobs=2),
    request([3, 4], stop_ids=range(100, 300), temperature=1.0, seed=11),
]


def test_greedy_text_is_the_likeliest_token_of_the_whole_text_each_time(network, engine):
    ids = list(LONG[:62])
    for _ in range(15):
        with torch.inference_mode():
            ids.append(int(network(torch.tensor([ids]))[0, -1].argmax()))
    ((written,),) = engine.run([request(ids[:62], max_tokens=15)])
    assert written.ids == ids[62:]
    assert_is_empty(engine)


def test_answers_are_the_same_bits_alone_and_among_others(network, tiny_tokenizer):
    together = Engine(network, tiny_tokenizer, settings=EngineSettings(max_answers=4)).run(MIXED)
    assert together == [alone(network, tiny_tokenizer, asked) for asked in MIXED]
    assert len({len(answer.ids) for answers in together for answer in answers}) > 1


@given(order=st.permutations(range(len(MIXED))), joins=st.lists(st.integers(0, 3), min_size=8, max_size=8))
@settings(max_examples=5)
def test_requests_may_join_at_any_step(network, tiny_tokenizer, order, joins):
    engine = Engine(network, tiny_tokenizer)
    texts, numbers = {}, {}
    for place, pause in zip(order, joins, strict=True):
        numbers[engine.submit(MIXED[place])] = place
        for _ in range(pause):
            collect(engine.step(), texts)
    while engine.load().running or engine.load().waiting:
        collect(engine.step(), texts)
    for number, place in numbers.items():
        for answer, written in enumerate(alone(network, tiny_tokenizer, MIXED[place])):
            assert texts[number, answer] == (written.text, written.tokens, written.finish)
    assert_is_empty(engine)


def collect(pieces, texts):
    for number, piece in pieces:
        text, tokens, _ = texts.get((number, piece.answer), ("", (), None))
        texts[number, piece.answer] = (text + piece.text, tokens + piece.tokens, piece.finish)


@pytest.mark.parametrize("shared", [1, BLOCK, BLOCK + 1, 3 * BLOCK, len(LONG)])
def test_a_shared_beginning_is_not_read_again_and_changes_no_bit(network, tiny_tokenizer, shared):
    engine = Engine(network, tiny_tokenizer)
    engine.run([request(LONG)])
    before = engine.load()
    asked = request((*LONG[:shared], 33, 34), top_logprobs=2, temperature=1.0, seed=1)
    assert engine.run([asked])[0] == alone(network, tiny_tokenizer, asked)
    assert engine.load().shared_tokens == min(shared, 3 * BLOCK) // BLOCK * BLOCK
    assert engine.load().prompt_tokens - before.prompt_tokens == shared + 2 - engine.load().shared_tokens


def test_what_is_shared_is_forgotten_when_its_room_is_needed(network, tiny_tokenizer):
    engine = Engine(network, tiny_tokenizer, settings=EngineSettings(shared_blocks=3))
    for prompt in (LONG, LONG[::-1], LONG):
        engine.run([request(prompt)])
    assert engine.load().shared_tokens == 0
    engine.run([request(LONG)])
    assert engine.load().shared_tokens == 3 * BLOCK
    nothing = Engine(network, tiny_tokenizer, settings=EngineSettings(shared_blocks=0))
    nothing.run([request(LONG), request(LONG)])
    assert nothing.load().shared_tokens == 0


def test_other_answers_to_a_prompt_draw_otherwise_and_do_not_read_it_again(network, tiny_tokenizer):
    engine = Engine(network, tiny_tokenizer)
    answers = engine.run([request(LONG, num_answers=4, temperature=1.5, seed=5)])[0]
    assert len({tuple(answer.ids) for answer in answers}) == 4
    assert engine.load().prompt_tokens == len(LONG) + 3 * (len(LONG) - 3 * BLOCK)


def test_the_same_seed_gives_the_same_text_and_another_another(engine):
    def said(seed):
        return engine.run([request([5, 6], max_tokens=20, temperature=1.5, seed=seed)])[0][0].text

    assert said(3) == said(3)
    assert len({said(3), said(4), said(None), said(None)}) == 4


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 6])
def test_a_cancelled_request_ends_with_the_next_step_also_while_it_is_read(network, tiny_tokenizer, steps):
    engine = Engine(network, tiny_tokenizer)
    engine._read_seconds = 10.0  # a slow machine: the fewest tokens a step, so that reading takes four steps
    number = engine.submit(request(LONG, num_answers=2, max_tokens=50))
    other = engine.submit(request([1, 2, 3], max_tokens=50))
    for _ in range(steps):
        engine.step()
    engine.cancel(number)
    engine.cancel(number + 100)
    ended = [piece for of, piece in engine.step() if of == number]
    assert [(piece.finish, piece.answer) for piece in ended] == [("cancelled", 0), ("cancelled", 1)]
    assert engine.load().running == 1
    engine.cancel(other)
    assert [piece.finish for _, piece in engine.step()] == ["cancelled"]
    assert_is_empty(engine)
    assert engine.step() == []


def test_random_cancels_leave_nothing_behind(network, tiny_tokenizer):
    engine = Engine(network, tiny_tokenizer, settings=EngineSettings(max_answers=3))
    chance = random.Random(4)
    open_numbers = []
    for _ in range(60):
        open_numbers.append(engine.submit(chance.choice(MIXED)))
        engine.step()
        if chance.random() < 0.7:
            engine.cancel(chance.choice(open_numbers))
    for number in open_numbers:
        engine.cancel(number)
    engine.step()
    assert_is_empty(engine)
    assert all(not slab.layers or len(slab.free) == slab.num_rows for slab in engine.memory._slabs.values())


def test_a_reader_who_goes_away_frees_the_row(engine):
    for piece in engine.stream(request([5, 6, 7], max_tokens=50)):
        assert piece.finish is None
        break
    assert_is_empty(engine)


def test_a_stream_is_cancelled_when_it_is_told_so(engine):
    asked = itertools.count()
    pieces = list(engine.stream(request([5], max_tokens=40), cancelled=lambda: next(asked) >= 3))
    assert pieces[-1].finish == "cancelled"
    assert pieces[-1].completion_tokens == 3


def test_more_than_the_memory_holds_waits_for_its_turn(network, tiny_tokenizer):
    engine = Engine(network, tiny_tokenizer, settings=EngineSettings(memory_blocks=4, shared_blocks=0))
    asked = [request(LONG, max_tokens=30), request([1] * 100), request([2] * 100), request([3])]
    for each in asked:
        engine.submit(each)
    engine.step()
    assert (engine.load().running, engine.load().waiting) == (1, 3)
    engine.reset()
    assert_is_empty(engine)
    assert engine.run(asked) == [alone(network, tiny_tokenizer, each) for each in asked]
    small = Engine(network, tiny_tokenizer, settings=EngineSettings(memory_blocks=2))
    with pytest.raises(UsageError, match="memory holds 128"):
        small.submit(request(LONG))


def test_pieces_count_tokens_and_the_last_one_says_why_it_ended(engine, speech):
    prompt, written = speech
    pieces = list(engine.stream(request(prompt, max_tokens=40)))
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == ("length", 40)
    assert {piece.prompt_tokens for piece in pieces} == {len(prompt)}
    assert "".join(piece.text for piece in pieces) == written.text
    assert all(piece.text for piece in pieces[:-1])


def test_a_stop_token_ends_the_text_and_is_not_shown(engine, tiny_tokenizer, speech):
    prompt, written = speech
    row = written.ids
    position = next(index for index in range(5, 40) if row[index] not in row[:index])
    (((stopped),),) = engine.run([request(prompt, max_tokens=40, stop_ids={row[position]}, top_logprobs=0)])
    assert stopped.text == tiny_tokenizer.decode(row[:position])
    assert (stopped.finish, stopped.ids) == ("stop", row[:position])
    assert [scored.token.id for scored in stopped.tokens] == row[:position]


@pytest.mark.parametrize("length", [1, 2, 5, 9])
@pytest.mark.parametrize("start", [0, 3, 11])
def test_a_stop_text_ends_the_text_before_it_and_no_part_of_it_is_shown(engine, speech, start, length):
    prompt, written = speech
    stop = written.text[start : start + length]
    pieces = list(engine.stream(request(prompt, max_tokens=40, stop=("never said", stop))))
    assert "".join(piece.text for piece in pieces) == written.text[: written.text.index(stop)]
    assert pieces[-1].finish == "stop"


def test_a_stop_text_that_never_comes_holds_nothing_back_in_the_end(engine, speech):
    prompt, written = speech
    ((whole,),) = engine.run([request(prompt, max_tokens=40, stop=(written.text[-3:] + "more",))])
    assert (whole.text, whole.finish) == (written.text, "length")


@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT - 4])
def test_a_text_ends_where_the_context_ends(engine, length):
    ((written,),) = engine.run([request([7] * length, max_tokens=100)])
    assert (written.finish, len(written.ids)) == ("length", CONTEXT - length)


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 35])
def test_a_prompt_that_fills_the_context_is_refused_before_anything_is_begun(engine, length):
    with pytest.raises(UsageError, match=f"{length} tokens, the model's context is {CONTEXT}"):
        engine.run([request([1]), request([7] * length)])
    assert_is_empty(engine)


def test_a_batch_of_nothing_is_nothing(engine):
    assert engine.run([]) == []


@pytest.mark.parametrize("length", [1, 2, BLOCK, BLOCK + 1, 200, CONTEXT + 1])
def test_an_echoed_prompt_has_the_networks_log_probabilities(network, engine, tiny_tokenizer, length):
    ids = (LONG * 2)[:length]
    asked = request(ids, echo=True, max_tokens=0, top_logprobs=2)
    ((written,),) = engine.run([asked])
    assert (written.text, written.finish, written.ids) == (tiny_tokenizer.decode(ids), "length", [])
    assert [scored.token.id for scored in written.tokens] == list(ids)
    assert [scored.is_first for scored in written.tokens] == [True] + [False] * (length - 1)
    if length > 1:
        with torch.inference_mode():
            expected = torch.log_softmax(network(torch.tensor([ids[:-1]]))[0], -1)
        for place, scored in enumerate(written.tokens[1:]):
            assert scored.token.logprob == pytest.approx(float(expected[place, scored.token.id]), abs=1e-4)
            assert [item.id for item in scored.top] == expected[place].topk(2).indices.tolist()
    assert_is_empty(engine)


def test_every_answer_to_an_echoed_prompt_brings_the_whole_prompt(engine, tiny_tokenizer):
    answers = engine.run([request(LONG[:70], echo=True, num_answers=2, top_logprobs=1, temperature=1.0, seed=1)])[0]
    assert answers[0].tokens[:70] == answers[1].tokens[:70]
    assert all(answer.text.startswith(tiny_tokenizer.decode(LONG[:70])) for answer in answers)


def test_an_echo_alone_is_the_same_when_its_blocks_are_known(network, tiny_tokenizer):
    engine = Engine(network, tiny_tokenizer)
    asked = request(LONG[: BLOCK + 1], echo=True, max_tokens=0)
    first, again = engine.run([asked]), engine.run([asked])
    assert first == again
    assert [(written.ids, written.text) for written in again[0]] == [([], tiny_tokenizer.decode(LONG[: BLOCK + 1]))]
    assert_is_empty(engine)


def test_two_answers_that_only_echo_are_equal(network, tiny_tokenizer):
    asked = request(LONG[: BLOCK + 1], echo=True, max_tokens=0, top_logprobs=0, num_answers=2)
    first, second = alone(network, tiny_tokenizer, asked)
    assert first == second
    assert (first.ids, len(first.tokens)) == ([], BLOCK + 1)


def test_the_chosen_tokens_log_probability_is_the_very_one_among_the_likeliest(engine):
    ((written,),) = engine.run([request([5, 6], top_logprobs=5)])
    for scored in written.tokens:
        assert scored.token == scored.top[0]


def test_a_step_that_breaks_can_be_recovered_from(network, tiny_tokenizer, monkeypatch):
    engine = Engine(network, tiny_tokenizer)
    engine.submit(request(LONG))
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "read", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    engine.reset()
    assert_is_empty(engine)
    assert engine.run([request(LONG)]) == [alone(network, tiny_tokenizer, request(LONG))]


@pytest.mark.parametrize("fields", [{}, {"family": "llama", "key_heads": 4}, {"key_heads": 1, "tied": False}])
def test_whole_numbers_of_eight_bits_give_nearly_the_same_scores(make_network, tiny_tokenizer, fields):
    # Of a usual size of weights: rounding errors grow with it.
    network = make_network(std=0.1, context_length=CONTEXT, width=64, mlp_width=96, head_width=16, **fields)
    exact = Engine(network, tiny_tokenizer)
    rounded = Engine(network, tiny_tokenizer, settings=EngineSettings(weights="int8"))
    asked = request(LONG[:100], echo=True, max_tokens=8, top_logprobs=0)
    values = [
        [scored.token.logprob for scored in engine.run([asked])[0][0].tokens][:100] for engine in (exact, rounded)
    ]
    errors = (torch.tensor(values[0]) - torch.tensor(values[1])).abs()
    assert 0 < errors.max() < 0.15
    assert errors.mean() < 0.03
