"""Bits per byte: the plain sliding window's sums, each token once, bytes of the raw text."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from chatwright.model.directory import save_model
from chatwright.tokens.shards import TokenDocument
from chatwright.train.heldout import DocumentLoss, HeldoutCheck, by_domain, document_losses, sample_documents, worst

END = 0
CONTEXT = 16


@pytest.fixture(scope="module")
def network(make_network):
    return make_network(context_length=CONTEXT)


def documents(*lengths, vocabulary=300):
    generator = np.random.default_rng(0)
    made = [generator.integers(1, vocabulary, size=length) for length in lengths]
    return [TokenDocument(ids, "ab"[number % 2], 3 * len(ids), number) for number, ids in enumerate(made)]


@torch.inference_mode()
def plain_sliding_window(score, ids, *, stride):
    """Transformers' guide to perplexity, word for word: windows, earlier targets masked, the sum of what is left.

    A window of the context's length predicts as many tokens, so the stream that is cut has one token more.
    """
    stream = torch.tensor([[END, *ids]])
    nats, previous_end = 0.0, 1
    for begin in range(0, stream.size(1), stride):
        end = min(begin + CONTEXT + 1, stream.size(1))
        labels = stream[:, begin:end].clone()
        labels[:, : -(end - previous_end)] = -100
        nats += score(stream[:, begin:end], labels)
        previous_end = end
        if end == stream.size(1):
            break
    return nats


def shifted_loss(scores, labels):
    return float(F.cross_entropy(scores[0, :-1].float(), labels[0, 1:], ignore_index=-100, reduction="sum"))


@pytest.mark.parametrize("stride", [1, 5, 8, CONTEXT])
def test_losses_equal_a_plain_sliding_window(network, make_network, stride):
    wide = make_network(context_length=CONTEXT + 1)  # the guide's windows hold the last target, too
    listed = documents(1, 2, 15, 16, 17, 18, 33, 70)
    found = document_losses(network, listed, begin=END, stride=stride)
    for loss, document in zip(found, listed, strict=True):
        expected = plain_sliding_window(
            lambda ids, labels: shifted_loss(wide(ids), labels), document.ids.tolist(), stride=stride
        )
        assert loss.nats == pytest.approx(expected, rel=1e-5)
        assert loss.tokens == len(document.ids)


@pytest.mark.slow
def test_losses_equal_a_sliding_window_with_transformers_itself(tmp_path, make_network, tiny_tokenizer):
    from transformers import AutoModelForCausalLM

    network = make_network(context_length=CONTEXT)
    save_model(tmp_path / "model", network, tiny_tokenizer, lineage={})
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()

    def score(ids, labels):
        counted = int((labels[:, 1:] != -100).sum())
        return float(reference(ids, labels=labels).loss) * counted

    for stride in (4, CONTEXT):
        (loss,) = document_losses(network, documents(61), begin=END, stride=stride)
        expected = plain_sliding_window(score, documents(61)[0].ids.tolist(), stride=stride)
        assert loss.nats == pytest.approx(expected, rel=1e-5)


def test_documents_in_one_batch_do_not_touch_each_other(network):
    together = document_losses(network, documents(3, 40, 9, 21), begin=END, stride=8)
    one_by_one = [
        document_losses(network, [document], begin=END, stride=8, batch_tokens=1)[0]
        for document in documents(3, 40, 9, 21)
    ]
    assert [loss.nats for loss in together] == pytest.approx([loss.nats for loss in one_by_one], rel=1e-5)


def test_a_batch_never_exceeds_its_tokens_with_padding(network):
    sizes = []
    hook = network.model.embed_tokens.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].numel()))
    document_losses(network, documents(*[2] * 100, *[CONTEXT] * 100), begin=END, stride=CONTEXT, batch_tokens=64)
    hook.remove()
    assert max(sizes) <= 64
    assert len(sizes) <= 30  # and wastes little of them: 100 windows of 2 and 100 of 16


@pytest.mark.parametrize("stride", [0, CONTEXT + 1])
def test_a_stride_that_would_skip_tokens_or_never_move_is_an_error(network, stride):
    with pytest.raises(ValueError, match="stride"):
        document_losses(network, documents(40), begin=END, stride=stride)


def test_an_empty_document_costs_nothing(network):
    (loss,) = document_losses(network, documents(0), begin=END, stride=CONTEXT)
    assert (loss.nats, loss.tokens, loss.bits_per_byte) == (0.0, 0, 0.0)


def test_bits_per_byte_divide_by_the_bytes_of_the_text_not_by_its_tokens():
    loss = DocumentLoss("a", nats=8 * math.log(2), tokens=3, num_bytes=4, number=0)
    assert loss.bits_per_byte == pytest.approx(2.0)


def test_domains_are_totals_over_their_documents():
    losses = [
        DocumentLoss("a", nats=math.log(2) * 10, tokens=10, num_bytes=10, number=0),
        DocumentLoss("a", nats=math.log(2) * 90, tokens=30, num_bytes=30, number=1),
        DocumentLoss("b", nats=0.0, tokens=10, num_bytes=60, number=2),
    ]
    table = by_domain(losses)
    assert list(table) == ["all", "a", "b"]
    assert table["a"]["bits_per_byte"] == 2.5
    assert table["a"]["perplexity"] == pytest.approx(2 ** (100 / 40), abs=1e-4)
    assert table["all"] == {"bits_per_byte": 1.0, "perplexity": 4.0, "documents": 3, "tokens": 50, "bytes": 100}


def test_a_domain_that_is_called_all_is_not_counted_twice():
    losses = [
        DocumentLoss("all", nats=math.log(2) * 90, tokens=30, num_bytes=300, number=0),
        DocumentLoss("b", nats=math.log(2) * 10, tokens=20, num_bytes=700, number=1),
    ]
    table = by_domain(losses)
    assert [(name, row["documents"]) for name, row in table.items()] == [("all", 2), ("all (domain)", 1), ("b", 1)]
    assert table["all"]["bits_per_byte"] == 0.1
    assert worst(losses)["domain"] == "all (domain)"


class Split:
    def documents(self):
        return iter(documents(5, 5, 5, 5, 5, 5))


def test_a_sample_takes_whole_documents_of_each_domain_in_stored_order():
    sample = sample_documents(Split(), tokens_per_domain=6)
    assert [document.number for document in sample] == [0, 1, 2, 3]


def test_the_check_during_training_names_every_domain(network):
    told = HeldoutCheck(network, documents(20, 30), begin=END)()
    assert list(told["bits_per_byte"]) == ["all", "a", "b"]
    assert told["summary"].startswith(f"held-out bits per byte {told['bits_per_byte']['all']:.3f} (a ")


def test_the_worst_domain_and_documents_are_named_and_short_ones_left_out():
    losses = [
        DocumentLoss("web", nats, 10, num_bytes, number)
        for number, (nats, num_bytes) in enumerate(
            [(300.0, 400), (90.0, 300), (500.0, 100), (400.0, 400), (100.0, 900)]
        )
    ] + [DocumentLoss("books", 2000.0, 10, 800, 9)]
    told = worst(losses)
    assert told["domain"] == "books"
    assert [document["number"] for document in told["documents"]] == [9, 3, 0]
    assert told["documents"][1]["bits_per_byte"] == pytest.approx(400 / math.log(2) / 400, abs=1e-5)
