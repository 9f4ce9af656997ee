"""Documents that share a window are read as if each stood alone: in scores, in gradients, and in the stage `pretrain`."""

import pytest
import torch
from tiny_training import VOCABULARY, new_network

from chatwright.train.batches import MicroBatch
from chatwright.train.objectives import next_token
from chatwright.train.separated import SeparatedSource

END = 0


class Rows:
    """One micro-batch of given ids."""

    fingerprint = "rows"

    def __init__(self, ids):
        self._ids = torch.tensor(ids)

    def step(self, number):
        return [MicroBatch(self._ids[:, :-1], self._ids[:, 1:], self._ids[:, 1:].numel())]

    def longest(self):
        return self.step(0)[0]


def separated(ids):
    return SeparatedSource(source=Rows(ids), end_of_text=END, fingerprint="separated")


def nats(network, batch):
    return float(next_token(network, batch).detach())


def test_a_document_begins_where_the_end_of_the_one_before_is_read():
    (batch,) = separated([[5, 6, END, 7, 8, END, END, 9], [1, 2, 3, 4, 5, 6, 7, 8]]).step(0)
    assert batch.documents_BT.tolist() == [[0, 0, 1, 1, 1, 2, 3], [0] * 7]


def test_the_loss_of_a_window_is_the_sum_of_its_documents_losses_alone():
    network = new_network(deep=True)
    parts = [[4, 9, 13, 2], [END, 7, 7, 21, 3], [END, 30, 1, 17, 5, 2]]  # each with what follows as its last target
    ids = [token for part in parts for token in part] + [11]
    (together,) = separated([ids]).step(0)
    following = [*(part[0] for part in parts[1:]), 11]
    alone = 0.0
    for part, after in zip(parts, following, strict=True):
        row = torch.tensor([[*part, after]])
        alone += nats(network, MicroBatch(row[:, :-1], row[:, 1:], len(part)))
    assert nats(network, together) == pytest.approx(alone, rel=1e-6)
    (mixed,) = Rows([ids]).step(0)
    assert abs(nats(network, mixed) - alone) > 1e-3  # without the mask they do read each other


def test_no_gradient_flows_from_a_document_to_the_one_before_it():
    network = new_network(deep=True)
    (batch,) = separated([[4, 9, 13, END, 7, 8, 21, 3]]).step(0)
    only_last = torch.full_like(batch.targets_BT, -100)
    only_last[0, -1] = 3
    next_token(network, batch._replace(targets_BT=only_last, num_targets=1)).backward()
    touched = network.model.embed_tokens.weight.grad.abs().sum(dim=1)
    scored = network.lm_head.weight is network.model.embed_tokens.weight  # tied: every row has the output's gradient
    assert scored
    alone = new_network(deep=True)
    row = torch.tensor([[END, 7, 8, 21]])
    target = torch.tensor([[-100, -100, -100, 3]])
    next_token(alone, MicroBatch(row, target, 1)).backward()
    assert torch.allclose(touched, alone.model.embed_tokens.weight.grad.abs().sum(dim=1), rtol=1e-5, atol=1e-7)


def test_windows_without_a_boundary_are_left_to_plain_causality():
    source = separated([[END, *range(1, 10)], [*range(2, 12)]])
    (batch,) = source.step(0)
    assert batch.documents_BT is None
    assert source.longest().documents_BT is not None  # what fits is searched with the mask
    assert int(batch.ids_BT.max()) < VOCABULARY


def test_parts_of_a_micro_batch_keep_their_documents():
    (batch,) = separated([[1, END, 2, 3], [4, 5, 6, 7], [END, 8, END, 9]]).step(0)
    parts = batch.split(2 * 3)
    assert [part.documents_BT.tolist() for part in parts] == [[[0, 1, 1], [0, 0, 0]], [[1, 1, 2]]]
