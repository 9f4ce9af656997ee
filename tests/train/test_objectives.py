"""The next-token loss equals plain cross-entropy, with masks, and taken in pieces."""

import pytest
import torch
from tiny_training import VOCABULARY, DrawnSource, new_network
from torch.nn import functional as F

from chatwright.train import objectives
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.train.objectives import next_token


def plain_loss(network, batch):
    scores = network(batch.ids_BT).flatten(0, 1)
    return F.cross_entropy(scores, batch.targets_BT.flatten(), ignore_index=IGNORED, reduction="sum")


def masked_batch():
    return DrawnSource(rows=4, micro_rows=4).step(3)[0]


def full_batch():
    ids = torch.randint(VOCABULARY, (4, 13), generator=torch.Generator().manual_seed(0))
    return MicroBatch(ids[:, :-1], ids[:, 1:], 48)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("batch", [full_batch(), masked_batch()], ids=["full", "masked"])
@pytest.mark.parametrize("scores_at_once", [64 << 20, 5 * VOCABULARY, 1], ids=["whole", "pieces of five", "one by one"])
def test_loss_and_gradient_equal_plain_cross_entropy(monkeypatch, batch, scores_at_once):
    monkeypatch.setattr(objectives, "_MAX_SCORES", scores_at_once)
    network = new_network(deep=True)
    plain = plain_loss(network, batch)
    loss = next_token(network, batch)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    expected = gradients(network, plain)
    assert float((gradients(network, loss) - expected).norm() / expected.norm()) < 1e-6


def test_masked_positions_cost_no_output_projection():
    network, rows = new_network(), []
    network.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    batch = masked_batch()
    next_token(network, batch)
    assert sum(rows) == batch.num_targets < batch.targets_BT.numel()


def test_documents_that_share_a_row_are_read_as_if_each_stood_alone():
    network = new_network(deep=True)
    ids = torch.randint(VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(5))
    row = torch.cat([ids[0, :4], ids[1, :3]]).unsqueeze(0)
    together = network.hidden(row, documents_BT=torch.tensor([[0, 0, 0, 0, 1, 1, 1]]))
    torch.testing.assert_close(together[:, :4], network.hidden(ids[:1, :4]))
    torch.testing.assert_close(together[:, 4:], network.hidden(ids[1:, :3]))


def test_packed_documents_lose_what_they_lose_in_rows_of_their_own():
    network = new_network(deep=True)
    batch = full_batch()
    ids, targets = batch.ids_BT[:2], batch.targets_BT[:2]
    documents = torch.arange(2).repeat_interleave(ids.shape[1]).unsqueeze(0)
    packed = MicroBatch(ids.reshape(1, -1), targets.reshape(1, -1), targets.numel(), documents_BT=documents)
    apart = MicroBatch(ids, targets, targets.numel())
    torch.testing.assert_close(next_token(network, packed), next_token(network, apart))
