"""Reading whole rows on packed matrices gives the network's own states and scores, whatever its family."""

import pytest
import torch

from chatwright.model.config import YarnScaling
from chatwright.model.engine.reading import Reader, suits

FAMILIES = [
    {},
    {"key_heads": 2, "tied": False},
    {"family": "llama", "attention_bias": True},
    {"family": "qwen2", "sliding_window": 5, "sliding_layers": (1,)},
    {"family": "smollm3", "unrotated_layers": (0,)},
    {"family": "gpt2", "key_heads": 4},
    {"rope_scaling": YarnScaling(factor=2.0, original_context_length=32)},
    # the compiled attention is for heads of 32, 64, ... numbers
    {"head_width": 32},
    {"head_width": 64, "key_heads": 1},
    {"head_width": 32, "family": "qwen2", "sliding_window": 5, "sliding_layers": (1,)},
    {"head_width": 32, "family": "qwen2", "sliding_window": 40, "sliding_layers": (0, 1)},
    {"head_width": 32, "family": "smollm3", "unrotated_layers": (0,)},
]


@pytest.mark.parametrize("fields", FAMILIES)
@pytest.mark.parametrize("length", [1, 2, 23, 64])
def test_states_and_scores_are_the_network_s(make_network, fields, length):
    network = make_network(**fields)
    ids_BT = torch.randint(0, network.config.vocabulary_size, (3, length), generator=torch.Generator().manual_seed(1))
    reader = Reader(network)
    with torch.inference_mode():
        expected = network.hidden(ids_BT)
    found = reader.hidden(ids_BT)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    with torch.inference_mode():
        torch.testing.assert_close(reader.scores(found[:, -1]), network.lm_head(expected[:, -1]), rtol=1e-4, atol=2e-4)


def logprobs_by_torch(reader, states_ND, targets_N):
    return torch.log_softmax(reader.scores(states_ND), -1).gather(1, targets_N[:, None])[:, 0]


@pytest.mark.parametrize("vocabulary", [1, 7, 16, 33, 100])
def test_logprobs_of_targets_are_those_of_the_softmax(make_network, vocabulary):
    reader = Reader(make_network(vocabulary_size=vocabulary, tied=False))
    states_ND = 30 * torch.randn(9, 32, generator=torch.Generator().manual_seed(2))
    targets_N = torch.arange(9) % vocabulary
    with torch.inference_mode():
        found, _ = reader.logprobs(states_ND, targets_N)
        torch.testing.assert_close(found, logprobs_by_torch(reader, states_ND, targets_N), rtol=1e-5, atol=1e-5)


def test_without_a_compiler_reading_is_pytorch_s(make_network, monkeypatch):
    network = make_network(head_width=32)
    ids_BT = torch.randint(0, network.config.vocabulary_size, (2, 23), generator=torch.Generator().manual_seed(1))
    compiled = Reader(network)
    monkeypatch.setattr("chatwright.model.engine.reading.kernels", lambda: None)
    plain = Reader(network)
    states = [reader.hidden(ids_BT).flatten(0, 1) for reader in (compiled, plain)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=2e-5)
    found = [reader.logprobs(states[0], ids_BT.flatten())[0] for reader in (compiled, plain)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_only_float32_on_a_cpu_is_read_so(make_network):
    network = make_network()
    assert suits(network)
    assert not suits(network.bfloat16())
