"""Low-rank updates change nothing at first, merge exactly, and load on their own base only."""

import json

import pytest
import torch

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.adapter import ALL_LINEAR, EMBEDDING, Adapter, LoraConfig
from chatwright.model.adapter_files import load_adapter
from chatwright.model.attachment import ADAPTER_CONFIG, ADAPTER_WEIGHTS

IDS = torch.arange(3, 35).reshape(2, 16)
SAME = {"atol": 1e-5, "rtol": 0}
shapes = pytest.mark.parametrize("fields", [{}, {"tied": False}, {"family": "llama", "key_heads": 1}])


def trained(network, config: LoraConfig, *, trained_tokens: tuple[int, ...] = (), seed: int = 0) -> Adapter:
    """An adapter as training would leave it: every number away from zero."""
    adapter = Adapter(network, config, trained_tokens=trained_tokens)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return adapter.eval()


def attached(adapter: Adapter, network) -> torch.Tensor:
    handles = adapter.attach(network)
    with torch.inference_mode():
        scores = network(IDS)
    for handle in handles:
        handle.remove()
    return scores


@shapes
@pytest.mark.parametrize("tokens", [(), (1, 2)])
def test_the_first_forward_is_the_bases_own(make_network, fields, tokens):
    network = make_network(**fields)
    adapter = Adapter(network, LoraConfig(rank=4), trained_tokens=tokens)
    adapter.initialise(torch.Generator().manual_seed(1))
    assert torch.equal(attached(adapter, network), network(IDS).detach())


@shapes
@pytest.mark.parametrize("tokens", [(), (1, 5)])
def test_merged_equals_attached(make_network, fields, tokens):
    network = make_network(std=0.1, **fields)  # weights and scores of a usual size
    adapter = trained(network, LoraConfig(rank=4, alpha=6.0), trained_tokens=tokens)
    base, expected = network(IDS).detach(), attached(adapter, network)
    assert not torch.allclose(base, expected, atol=1e-2)
    adapter.merge(network)
    torch.testing.assert_close(network(IDS).detach(), expected, **SAME)


@shapes
@pytest.mark.parametrize("targets", [ALL_LINEAR, (*ALL_LINEAR, EMBEDDING)])
def test_folded_equals_beside(make_network, monkeypatch, fields, targets):
    """Scores and gradients do not depend on whether an update is folded into the weights or computed beside them."""
    network = make_network(std=0.1, **fields).requires_grad_(False)
    adapter = trained(network, LoraConfig(rank=2, targets=targets), trained_tokens=(1, 5))
    found = []
    for folds in (True, False):
        monkeypatch.setattr(Adapter, "_folds", lambda self, rows, columns, folds=folds: folds)
        handles = adapter.attach(network)
        scores = network(IDS)
        gradients = torch.autograd.grad(scores.square().mean(), list(adapter.parameters()))
        found.append((scores.detach(), gradients))
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(found[0][0], found[1][0], **SAME)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 8])  # beside the layers, folded into them
def test_switched_off_the_network_is_its_base_and_detached_it_is_again(make_network, rank):
    network = make_network()
    base = network(IDS).detach()
    adapter = trained(network, LoraConfig(rank=rank, targets=(*ALL_LINEAR, EMBEDDING)), trained_tokens=(3,))
    handles = adapter.attach(network)
    with adapter.switched_off():
        assert torch.equal(network(IDS).detach(), base)
    assert not torch.equal(network(IDS).detach(), base)
    for handle in handles:
        handle.remove()
    assert torch.equal(network(IDS).detach(), base)


def test_the_update_is_that_of_the_paper_and_of_peft(make_network):
    """y = W x + (alpha / r) B A x, for each target and for nothing else."""
    network = make_network()
    adapter = trained(network, LoraConfig(rank=3, alpha=12.0, targets=("q_proj",)))
    layer = network.model.layers[1].self_attn.q_proj
    update = adapter.updates["model/layers/1/self_attn/q_proj"]
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    handles = adapter.attach(network)
    a, b = update.down.detach(), update.up.detach()
    assert (a.shape, b.shape) == ((3, 32), (32, 3))
    torch.testing.assert_close(layer(x).detach(), x @ layer.weight.T.detach() + 12.0 / 3 * (x @ a.T) @ b.T, **SAME)
    other = network.model.layers[1].self_attn.k_proj
    assert torch.equal(other(x), x @ other.weight.T)
    for handle in handles:
        handle.remove()
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight))


def test_the_first_weights_are_bounded_as_in_the_papers_code_and_depend_on_the_seed_alone(make_network):
    network = make_network()
    first, again = (Adapter(network, LoraConfig(rank=8)) for _ in range(2))
    for adapter in (first, again):
        adapter.initialise(torch.Generator().manual_seed(4))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        if name.endswith("up"):
            assert not parameter.any()
        else:
            bound = parameter.shape[1] ** -0.5  # Kaiming's uniform bound with a = sqrt(5)
            assert 0.8 * bound < parameter.abs().max() <= bound


def test_only_the_adapter_gets_a_gradient_and_the_base_keeps_its_bits(make_network):
    network = make_network()
    network.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapter = Adapter(network, LoraConfig(rank=2), trained_tokens=(3,))
    adapter.initialise(torch.Generator().manual_seed(0))
    adapter.attach(network)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(2):  # at first B is zero, and A has no gradient
        optimizer.zero_grad()
        network(IDS).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapter.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_its_size_is_what_is_trained(make_network):
    network = make_network()
    adapter = Adapter(network, LoraConfig(rank=4, targets=("q_proj", "down_proj")), trained_tokens=(1, 2))
    # Two layers: q_proj 32 to 32, down_proj 48 to 32; two embedding rows of 32.
    assert adapter.num_parameters() == 2 * 4 * (32 + 32 + 48 + 32) + 2 * 32


def test_dropout_acts_in_training_only(make_network):
    network = make_network()
    adapter = trained(network, LoraConfig(rank=4, dropout=0.5))
    still = attached(adapter, network)
    assert torch.equal(still, attached(adapter, network))
    torch.manual_seed(0)
    assert not torch.equal(still, attached(adapter.train(), network))


@pytest.mark.parametrize(
    ("targets", "said"), [(("q_prj",), "q_prj"), (("q_proj", "gate"), "gate"), ((), "nothing there would be trained")]
)
def test_a_target_without_a_layer_is_refused(make_network, targets, said):
    with pytest.raises(UsageError, match=said):
        Adapter(make_network(), LoraConfig(targets=targets))


def test_an_output_projection_that_shares_its_weights_is_no_target(make_network):
    with pytest.raises(UsageError, match="shares its weights"):
        Adapter(make_network(), LoraConfig(targets=("lm_head",)))
    network = make_network(tied=False)
    adapter = trained(network, LoraConfig(rank=2, targets=("lm_head",)))
    expected = attached(adapter, network)
    adapter.merge(network)
    torch.testing.assert_close(network(IDS).detach(), expected, **SAME)


@pytest.mark.parametrize("tokens", [(-1,), (1, 10_000)])
def test_a_token_outside_the_vocabulary_is_refused(make_network, tokens):
    with pytest.raises(UsageError, match="outside the vocabulary"):
        Adapter(make_network(), LoraConfig(), trained_tokens=tokens)


def test_a_saved_adapter_comes_back_on_its_base(make_network, tmp_path):
    network = make_network()
    config = LoraConfig(rank=4, alpha=7.0, dropout=0.25, targets=("q_proj", "up_proj"))
    adapter = trained(network, config, trained_tokens=(1, 2))
    adapter.save(tmp_path / "adapter", base_digest="b" * 64)
    loaded = load_adapter(tmp_path / "adapter", network, base_digest="b" * 64).eval()
    assert (loaded.config, loaded.trained_tokens) == (config, (1, 2))
    assert torch.equal(attached(loaded, network), attached(adapter, network))


@pytest.fixture
def saved(make_network, tmp_path):
    trained(make_network(), LoraConfig(rank=4)).save(tmp_path / "adapter", base_digest="b" * 64)
    return tmp_path / "adapter"


def test_an_adapter_is_refused_on_another_base(saved, make_network):
    with pytest.raises(RefusedError, match="another base model"):
        load_adapter(saved, make_network(), base_digest="c" * 64)


def test_a_damaged_adapter_is_refused(saved, make_network):
    data = bytearray((saved / ADAPTER_WEIGHTS).read_bytes())
    data[-1] ^= 1
    (saved / ADAPTER_WEIGHTS).write_bytes(data)
    with pytest.raises(RefusedError, match="damaged"):
        load_adapter(saved, make_network(), base_digest="b" * 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "peft"}, "no adapter"),
        ({"version": 9}, "no adapter"),
        ({"lora": {"rank": 0}}, "does not fit"),
        ({"lora": None}, "does not fit"),
        ({"lora": {"rank": 8}}, "does not fit"),
        ({"trained_tokens": [99_999]}, "does not fit"),
        ({"trained_tokens": "ab"}, "does not fit"),
    ],
)
def test_an_adapter_whose_record_makes_no_sense_is_refused(saved, make_network, changes, said):
    path = saved / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    storage.write_manifest(saved)
    with pytest.raises(RefusedError, match=said):
        load_adapter(saved, make_network(), base_digest="b" * 64)
