"""Loss of texts: equal to transformers' own on the same windows, each token counted once, intervals that mean it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatwright.evaluate.likelihood import Row, score_rows
from chatwright.evaluate.perplexity import (
    TextLoss,
    Windows,
    by_domain,
    loss_difference,
    rows_of,
    spelled,
    text_losses,
    worst_documents,
    worst_spans,
)
from chatwright.evaluate.texts import Text
from chatwright.foundation.errors import UsageError

TEXTS = [
    Text("ferry", "harbour", "The ferry leaves at nine in the morning and comes back at six. " * 9),
    Text("code", "code", "def area(width, height):\n    return width * height\n" * 5),
    Text("german", "harbour", "Wie weit ist es bis zum Hafen? Zwölf Minuten zu Fuß 😀, sagt der Wirt."),
]


def plainly_with_transformers(directory, texts, windows):
    """Nats and tokens of each text, one window after the other, by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer(text.text)["input_ids"]]
        nats, previous = 0.0, 1
        for begin in range(0, len(ids), windows.stride):
            end = min(begin + windows.context + 1, len(ids))
            inputs = torch.tensor([ids[begin:end]])
            labels = inputs.clone()
            labels[:, : previous - begin] = -100
            with torch.no_grad():
                nats += float(model(inputs, labels=labels).loss) * (end - previous)
            previous = end
            if end == len(ids):
                break
        yield nats, len(ids) - 1


@pytest.mark.parametrize("stride", [64, 32, 7])
def test_perplexity_equals_a_plain_computation_with_transformers(tiny_model, tiny_directory, stride):
    windows = Windows.of(tiny_model, stride=stride)
    losses = text_losses(tiny_model, TEXTS, windows=windows)
    for loss, (nats, tokens) in zip(losses, plainly_with_transformers(tiny_directory, TEXTS, windows), strict=True):
        assert len(loss.ids) == tokens
        ours, theirs = math.exp(loss.total / tokens), math.exp(nats / tokens)
        assert ours == pytest.approx(theirs, rel=1e-4)


@given(length=st.integers(0, 200), context=st.integers(1, 40), data=st.data())
def test_the_windows_score_each_token_once_and_in_order(length, context, data):
    stride = data.draw(st.integers(1, context))
    ids = list(range(1, length + 1))
    rows = rows_of(ids, begin=0, windows=Windows(context, stride))
    assert [token for row in rows for token in row.targets] == ids
    for row in rows:
        assert 1 <= len(row.targets) <= len(row.inputs) <= context
        assert row.inputs[-1] == row.targets[-1] - 1  # what is read stands right before what is predicted
        seen_before = len(row.inputs) - len(row.targets)
        assert row.inputs[0] == 0 or seen_before >= context - stride


def test_tokens_and_bytes_are_counted_exactly(tiny_model):
    losses = text_losses(tiny_model, TEXTS, windows=Windows.of(tiny_model))
    figures = by_domain(losses)
    assert figures["all"]["bytes"] == sum(len(text.text.encode()) for text in TEXTS)
    assert figures["all"]["tokens"] == sum(len(tiny_model.tokenizer.encode(text.text)) for text in TEXTS)
    assert figures["harbour"]["documents"] == 2
    assert figures["harbour"]["nats"] + figures["code"]["nats"] == pytest.approx(figures["all"]["nats"], abs=1e-3)
    bits = figures["all"]["nats"] / math.log(2) / figures["all"]["bytes"]
    assert figures["all"]["bits_per_byte"] == pytest.approx(bits, abs=1e-5)
    assert figures["all"]["byte_perplexity"] == pytest.approx(2**bits, rel=1e-4)
    assert "bits_per_byte_95" not in figures["code"]  # one document cannot be resampled


def loss_of(number, *, nats, num_bytes=100, domain="d"):
    values = np.full(10, nats / 10, dtype=np.float32)
    return TextLoss(id=str(number), domain=domain, num_bytes=num_bytes, ids=np.arange(10, dtype=np.int32), nats=values)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    generator = np.random.Generator(np.random.PCG64(5))
    held = 0
    for trial in range(200):
        losses = [loss_of(number, nats=value) for number, value in enumerate(generator.gamma(4, 25, size=40))]
        low, high = by_domain(losses, seed=trial, resamples=200)["all"]["bits_per_byte_95"]
        held += low <= 100 / math.log(2) / 100 <= high
    assert 0.88 <= held / 200 <= 0.99  # 95 of 100 in the limit; percentiles of 40 documents are a little narrow


def test_a_difference_between_models_is_found_and_none_is_not():
    generator = np.random.Generator(np.random.PCG64(7))
    base = generator.gamma(4, 25, size=60)
    first = [loss_of(number, nats=value) for number, value in enumerate(base)]
    better = [loss_of(number, nats=value * 0.97) for number, value in enumerate(base)]
    noise = [loss_of(number, nats=value + shift) for number, (value, shift) in enumerate(zip(base, generator.normal(0, 3, 60), strict=True))]  # fmt: skip
    found = loss_difference(first, better)
    assert found.difference < 0
    assert found.interval.high < 0
    assert found.p_value < 0.01
    assert loss_difference(first, noise).p_value > 0.05
    with pytest.raises(UsageError, match="same documents"):
        loss_difference(first, better[:-1])


def test_two_documents_prove_no_difference_however_large():
    first, better = ([loss_of(number, nats=nats) for number in range(2)] for nats in (100, 50))
    assert loss_difference(first, better).p_value == 0.5


def test_the_hardest_passage_is_where_the_surprise_stands(tiny_model):
    losses = text_losses(tiny_model, TEXTS, windows=Windows.of(tiny_model))
    planted = losses[0]
    planted.nats[:] = 0.5
    planted.nats[70:90] = 30.0
    span = worst_spans([planted, losses[1]], tiny_model.tokenizer, count=1, length=20)[0]
    assert span["id"] == "ferry"
    assert span["first_token"] == 70
    assert span["nats_per_token"] == pytest.approx(30.0)
    shown = "".join(text for text, _ in span["tokens"])
    assert shown == tiny_model.tokenizer.decode(planted.ids[70:90].tolist())
    assert worst_documents(losses, count=5, min_bytes=500)[0]["id"] == "ferry"


def test_spelled_tokens_are_the_text_and_their_nats_the_sum(tiny_model):
    text = "Zwölf 😀 Fuß"
    ids = tiny_model.tokenizer.encode(text)
    pairs = spelled(tiny_model.tokenizer, ids, [1.0] * len(ids))
    assert "".join(piece for piece, _ in pairs) == text
    assert sum(nats for _, nats in pairs) == pytest.approx(len(ids))
    assert len(pairs) < len(ids)  # the face's four bytes are one character


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_scoring_gives_each_group_a_thread_and_leaves_the_number_of_threads_as_it_was(tiny_model, two_threads):
    rows = [Row([1, 2, 3 + number], [number + 3]) for number in range(12)]
    by_two = score_rows(tiny_model.network, rows, batch_tokens=6)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    by_one = score_rows(tiny_model.network, rows, batch_tokens=6)
    assert [float(scored.logprobs[0]) for scored in by_two] == [float(scored.logprobs[0]) for scored in by_one]


def test_rows_of_many_lengths_get_what_each_gets_alone(tiny_model):
    generator = torch.Generator().manual_seed(3)
    size = tiny_model.network.config.vocabulary_size
    rows = []
    for length in (1, 60, 13, 64, 2, 33):
        ids = torch.randint(0, size, (length + 1,), generator=generator).tolist()
        rows.append(Row(ids[:-1], ids[-max(1, length // 2) :]))
    together = score_rows(tiny_model.network, rows, with_greedy=True, batch_tokens=128)
    for row, scored in zip(rows, together, strict=True):
        alone = score_rows(tiny_model.network, [row], with_greedy=True)[0]
        np.testing.assert_allclose(scored.logprobs, alone.logprobs, atol=1e-4)
        full = torch.log_softmax(tiny_model.network(torch.tensor([row.inputs]))[0], -1)
        wanted = full[-len(row.targets) :].gather(1, torch.tensor(row.targets)[:, None])[:, 0]
        np.testing.assert_allclose(scored.logprobs, wanted.detach().numpy(), atol=1e-4)
        assert scored.is_greedy == bool((full[-len(row.targets) :].argmax(-1) == torch.tensor(row.targets)).all())


def test_rows_and_windows_that_cannot_be_are_refused(tiny_model):
    with pytest.raises(UsageError, match="exceeds the model's context of 64"):
        score_rows(tiny_model.network, [Row([1] * 65, [1])])
    with pytest.raises(UsageError, match="cannot have 0 scored"):
        score_rows(tiny_model.network, [Row([1], [])])
    with pytest.raises(UsageError, match="stride"):
        Windows.of(tiny_model, stride=65)
    with pytest.raises(UsageError, match="context"):
        Windows.of(tiny_model, context=65)
