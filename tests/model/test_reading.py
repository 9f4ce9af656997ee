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


def test_only_float32_on_a_cpu_is_read_so(make_network):
    network = make_network()
    assert suits(network)
    assert not suits(network.bfloat16())
