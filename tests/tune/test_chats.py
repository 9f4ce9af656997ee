"""Conversations as batches: what is learned, what is left out, and an order that the step alone decides."""

import itertools

import numpy as np
import pytest
import torch

from chatwright.feedback.conversations import Conversation, Message, read_conversations
from chatwright.foundation.errors import DataError
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.order import WindowOrder
from chatwright.train.batches import IGNORED
from chatwright.tune.chats import ChatSource, Sample, collate, encode_samples, leave_out, opening, pack
from chatwright.tune.measuring import answers_of


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    return ChatEncoder(tiny_tokenizer)


def conversation(*contents, system=None, source="chats.jsonl:7"):
    roles = ("user", "assistant") * len(contents)
    turns = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    head = [] if system is None else [Message("system", system)]
    return Conversation(messages=(*head, *turns), source=source)


def encode(encoder, *conversations, context_length=200):
    return encode_samples(conversations, encoder, context_length=context_length)


def learned(tokenizer, sample):
    """The text of the targets, turn by turn."""
    turns, text = [], []
    for target in [*sample.targets, IGNORED]:
        if target != IGNORED:
            text.append(target)
        elif text:
            turns.append(tokenizer.decode(text))
            text = []
    return turns


def test_only_the_assistant_s_words_and_their_end_are_learned(encoder, tiny_tokenizer):
    (sample,) = encode(encoder, conversation("When?", "At nine.", "And back?", "At six.", system="Be brief."))
    assert learned(tiny_tokenizer, sample) == ["At nine.", "At six."]
    ends = [target for target in sample.targets if target == encoder.end]
    assert len(ends) == 2


def test_each_target_is_the_next_input(encoder):
    (sample,) = encode(encoder, conversation("When?", "At nine."))
    assert len(sample.inputs) == len(sample.targets)
    pairs = zip(sample.targets[:-1], sample.inputs[1:], strict=True)
    assert all(target in (IGNORED, following) for target, following in pairs)


def test_a_conversation_that_is_too_long_loses_whole_oldest_turns_and_keeps_the_system_s(encoder, tiny_tokenizer):
    exchanges = [text for number in range(6) for text in (f"question {number}", f"answer {number}")]
    whole = conversation(*exchanges, system="Be brief.")
    full = len(encode(encoder, whole)[0].inputs)
    for length in range(60, full + 1):
        (sample,) = encode(encoder, whole, context_length=length)
        turns = learned(tiny_tokenizer, sample)
        assert turns == [f"answer {number}" for number in range(6 - len(turns), 6)]
        assert len(sample.inputs) <= length
        assert sample.dropped_turns == 12 - 2 * len(turns)
        text = tiny_tokenizer.decode(sample.inputs)
        assert text.startswith("system\nBe brief.\nuser\nquestion")
    assert sample.dropped_turns == 0


def test_as_many_turns_stay_as_fit(encoder):
    whole = conversation("a", "b", "c", "d")
    full = len(encode(encoder, whole)[0].inputs)
    assert encode(encoder, whole, context_length=full)[0].dropped_turns == 0
    assert encode(encoder, whole, context_length=full - 1)[0].dropped_turns == 2


def test_a_last_exchange_that_does_not_fit_is_named_by_file_and_line(encoder, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text('{"question": "Hi", "answer": "Hello"}\n{"question": "' + "long " * 80 + '", "answer": "x"}\n')
    with pytest.raises(DataError, match=r"chats\.jsonl:2: the last exchange has \d+ tokens.* context is 40"):
        encode_samples(read_conversations(path), encoder, context_length=40)


def test_a_conversation_without_a_word_of_the_assistant_is_named_by_file_and_line(encoder):
    with pytest.raises(DataError, match=r"chats\.jsonl:7: nothing to learn"):
        encode(encoder, conversation("asked"))


def samples(count):
    """Samples that can be told apart: number n has n + 1 tokens of n."""
    return [Sample([number] * (number + 1), [number] * (number + 1)) for number in range(count)]


def source(count=7, **fields):
    settings = {"rows": 3, "micro_tokens": 8, "context_length": 64, "seed": 4, "fingerprint": "f"} | fields
    return ChatSource(samples(count), **settings)


def numbers(batches):
    """The samples of a step, each found by its number once."""
    rows = [
        zip(*pair, strict=True)
        for batch in batches
        for pair in zip(batch.ids_BT.tolist(), documents(batch), strict=True)
    ]
    return [number for row in rows for number, _ in dict.fromkeys(place for place in row if place[1] >= 0)]


def documents(batch):
    if batch.documents_BT is not None:
        return batch.documents_BT.tolist()
    return torch.where(batch.targets_BT == IGNORED, -1, 0).tolist()


def test_a_step_is_a_pure_function_of_its_number():
    straight, again = source(), source()
    steps = [numbers(straight.step(step)) for step in range(20)]
    assert [numbers(again.step(step)) for step in reversed(range(20))] == steps[::-1]
    assert [numbers(source(seed=5).step(step)) for step in range(20)] != steps


def test_every_sample_comes_once_in_each_epoch():
    seen = [number for step in range(14) for number in sorted(numbers(source(rows=1).step(step)))]
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))
    assert seen[:7] != seen[7:]  # and in another order


def test_epochs_that_end_within_a_step_lose_no_sample():
    seen = [number for step in range(7) for number in numbers(source(rows=3).step(step))]
    assert sorted(seen) == sorted(list(range(7)) * 3)


def test_rows_of_a_micro_batch_are_padded_at_the_right_without_a_target():
    batch = collate([[Sample([5, 6], [IGNORED, 7])], [Sample([1, 2, 3, 4], [2, 3, 4, 5])]])
    assert batch.ids_BT.tolist() == [[5, 6, 0, 0], [1, 2, 3, 4]]
    assert batch.targets_BT.tolist() == [[IGNORED, 7, IGNORED, IGNORED], [2, 3, 4, 5]]
    assert batch.num_targets == 5


def test_samples_that_share_a_row_are_told_apart():
    batch = collate([[Sample([5, 6], [IGNORED, 7]), Sample([1], [2])], [Sample([8], [9])]])
    assert batch.ids_BT.tolist() == [[5, 6, 1], [8, 0, 0]]
    assert batch.targets_BT.tolist() == [[IGNORED, 7, 2], [9, IGNORED, IGNORED]]
    assert batch.documents_BT.tolist() == [[0, 0, 1], [0, -1, -1]]


def test_packing_keeps_every_sample_and_wastes_little():
    drawn = np.random.default_rng(3).integers(1, 60, 200)
    rows = pack([Sample([1] * int(length), [1] * int(length)) for length in drawn], length=128)
    lengths = [[len(sample.inputs) for sample in row] for row in rows]
    assert sorted(itertools.chain(*lengths)) == sorted(drawn.tolist())
    assert all(sum(row) <= 128 for row in lengths)
    assert sum(drawn) / (128 * len(rows)) > 0.97


def test_a_sample_longer_than_a_row_gets_one_of_its_length():
    rows = pack([Sample([1] * 9, [1] * 9), Sample([1], [1]), Sample([1] * 8, [1] * 8)], length=4)
    assert [[len(sample.inputs) for sample in row] for row in rows] == [[9], [8, 1]]


def test_micro_batches_hold_at_most_their_tokens():
    assert all(batch.ids_BT.numel() <= 8 for batch in source(rows=5, micro_tokens=8).step(0))
    assert len(source(rows=5, micro_tokens=1000).step(0)) == 1


def test_rows_never_exceed_the_context():
    batches = source(count=20, rows=20, micro_tokens=1000, context_length=24).step(0)
    assert max(batch.ids_BT.shape[1] for batch in batches) <= 24


class Stream:
    """Base text: the numbers from 1000 on."""

    def __len__(self):
        return 200

    def slice(self, start, length):
        return np.arange(1000 + start, 1000 + start + length)


def test_base_text_is_replayed_beside_the_conversations_with_every_token_learned():
    order = WindowOrder(Stream(), length=8, seed=1)
    mixed = source(replay=order, replay_rows=2)
    for step in range(6):
        rows = [batch for batch in mixed.step(step) if int(batch.ids_BT.min()) >= 1000]
        assert sum(len(batch.ids_BT) for batch in rows) == 2
        for batch in rows:
            assert (batch.targets_BT == batch.ids_BT + 1).all()
            assert batch.ids_BT.shape[1] == 8
        assert numbers(mixed.step(step))[:3] == numbers(source().step(step))


def test_replayed_windows_move_on_from_step_to_step():
    mixed = source(replay=WindowOrder(Stream(), length=8, seed=1), replay_rows=2)
    windows = [batch.ids_BT.reshape(-1, 8) for step in range(8) for batch in mixed.step(step) if batch.keeps_base]
    firsts = torch.cat(windows)[:, 0].tolist()
    assert len(set(firsts)) == len(firsts) == 16


def test_word_dropout_leaves_out_the_users_words_only_and_keeps_targets_in_place() -> None:
    sample = Sample([9, 1, 2, 3, 4, 8, 5, 6], [IGNORED] * 5 + [5, 6, 7], 0, (False, *[True] * 4, False, False, False))
    thinned = [leave_out(sample, 0.5, seed=seed) for seed in range(20)]
    assert {len(one.inputs) for one in thinned} > {6}
    for one in thinned:
        assert one.inputs[0] == 9
        assert one.inputs[-3:] == [8, 5, 6]
        assert one.targets[-3:] == [5, 6, 7]
        assert len(one.inputs) == len(one.targets)
    assert leave_out(sample, 0.5, seed=3) == leave_out(sample, 0.5, seed=3)


def test_an_opening_ends_after_the_first_tokens_of_the_last_answer() -> None:
    sample = Sample([1, 2, 3, 4, 5, 6], [IGNORED, 3, IGNORED, 5, 6, 7])
    assert opening(sample, 2) == Sample([1, 2, 3, 4, 5], [IGNORED, 3, IGNORED, 5, 6])
    assert opening(sample, 9) == sample


def test_bytes_of_answers_are_counted_of_the_turns_that_are_scored(tiny_tokenizer):
    encoder = ChatEncoder(tiny_tokenizer)
    turns = [
        message
        for number in range(6)
        for message in (Message("user", f"Number {number}?"), Message("assistant", "Yes."))
    ]
    long = Conversation(messages=(Message("system", "Be brief."), *turns), source="x:1")
    (answers,) = [answers_of([long], encoder, context_length=120)]
    (sample,) = answers.samples
    assert 0 < sample.dropped_turns < 10
    kept = Conversation(messages=(Message("system", "Be brief."), *turns[sample.dropped_turns :]), source="x:1")
    assert answers == answers_of([kept], encoder, context_length=120)._replace(samples=answers.samples)
    assert answers.num_bytes == 4 * (12 - sample.dropped_turns) // 2
