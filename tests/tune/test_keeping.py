"""Guarding the base: zero where nothing is forgotten, and the divergence from the base elsewhere."""

import pytest
import torch
from torch.nn import functional as F

from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.train.objectives import next_token
from chatwright.tune.keeping import KeepingBase

IDS = torch.arange(3, 35).reshape(2, 16)


def batch(*, keeps_base=True):
    targets = IDS.roll(-1, 1).clone()
    targets[:, :5] = IGNORED
    return MicroBatch(IDS, targets, 22, keeps_base=keeps_base)


def moved(module):
    """As after some steps of training."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(params=["adapter", "everything"])
def pair(request, make_network):
    """A network, and what of it is trained."""
    network = make_network()
    if request.param == "everything":
        return network, network
    network.requires_grad_(False)
    adapter = Adapter(network, LoraConfig(rank=2))
    adapter.initialise(torch.Generator().manual_seed(0))
    adapter.attach(network)
    return network, adapter


def test_nothing_is_lost_and_nothing_pulls_before_the_first_step(pair):
    network, trained = pair
    loss = KeepingBase(network, trained)(network, batch())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-5)
    assert all(float(p.grad.abs().max()) < 1e-4 for p in trained.parameters() if p.grad is not None)


def test_it_is_the_divergence_of_the_base_from_the_network_at_the_targets(pair, make_network):
    network, trained = pair
    objective = KeepingBase(network, trained)
    moved(trained)
    base, now = make_network()(IDS)[:, 5:], network(IDS)[:, 5:]
    expected = (F.softmax(base, -1) * (F.log_softmax(base, -1) - F.log_softmax(now, -1))).sum()
    assert float(expected.detach()) > 1e-3
    torch.testing.assert_close(objective(network, batch()), expected)


def test_other_batches_are_learned_from_their_tokens(pair):
    network, trained = pair
    taught = batch(keeps_base=False)
    torch.testing.assert_close(KeepingBase(network, trained)(network, taught), next_token(network, taught))
