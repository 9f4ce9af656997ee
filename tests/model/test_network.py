"""The network computes what its configuration says, and nothing sees what comes later."""

import jaxtyping
import pytest
import torch

from chatwright.foundation import config as configuration
from chatwright.foundation.errors import ConfigError
from chatwright.model.config import ModelConfig
from chatwright.model.network import Network


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_configuration_counts_the_networks_parameters(make_network, family, tied):
    network = make_network(family=family, tied=tied, key_heads=1)
    assert network.config.num_parameters() == sum(parameter.numel() for parameter in network.parameters())


def test_a_later_token_changes_nothing_before_it(tiny_network):
    ids = torch.arange(24).reshape(2, 12)
    changed = ids.clone()
    changed[:, 7] = 99
    with torch.inference_mode():
        before, after = tiny_network(ids), tiny_network(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_positions_matter_only_by_their_distance(make_network):
    """Rotary positions: the same tokens further on, with nothing else in sight, give the same scores."""
    network = make_network(layers=1)
    ids = torch.tensor([[5, 6, 7, 8]])
    rotary, block = network._rotary, network.model.layers[0]
    x = network.model.embed_tokens(ids)
    outputs = [block(x, rotary(torch.arange(start, start + 4)[None], torch.float32)).detach() for start in (0, 1, 37)]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs[0], outputs[2], atol=1e-5, rtol=1e-5)


def test_the_first_weights_depend_on_the_seed_alone_and_begin_as_the_identity():
    config = ModelConfig(width=16, layers=2, heads=2, key_heads=2, head_width=8, mlp_width=16, vocabulary_size=40)
    first, again, other = (Network(config) for _ in range(3))
    for network, seed in ((first, 1), (again, 1), (other, 2)):
        network.initialise(torch.Generator().manual_seed(seed))
    states = [network.state_dict() for network in (first, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["model.embed_tokens.weight"], states[2]["model.embed_tokens.weight"])
    ids = torch.arange(10)[None]
    expected = first.model.norm(first.model.embed_tokens(ids))
    assert torch.equal(first.hidden(ids), expected)


def test_a_tied_network_has_one_embedding(make_network):
    tied, untied = make_network(tied=True), make_network(tied=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


def test_scores_are_float32_under_lower_precision(tiny_network):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = tiny_network(torch.tensor([[1, 2, 3]]))
    assert scores.dtype == torch.float32


def test_shapes_are_checked_in_tests(tiny_network):
    with pytest.raises(jaxtyping.TypeCheckError, match="ids_BT"):
        tiny_network(torch.tensor([1, 2, 3]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"heads": 6, "key_heads": 4}, "multiple of `key_heads`: 6 and 4"),
        ({"head_width": 7}, "must be even"),
        ({"family": "gpt"}, "'qwen3'"),
        ({"family": "gpt2", "key_heads": 3}, "each head has its own keys"),
        ({"family": "gpt2", "width": 48}, "`heads` times `head_width` is `width`: 192"),
        ({"family": "qwen2", "mlp_bias": True}, "`mlp_bias` has no meaning"),
        ({"family": "mistral", "attention_bias": True}, "`attention_bias` has no meaning"),
        ({"sliding_window": 8}, "go together"),
        ({"sliding_window": 8, "sliding_layers": [6]}, "from 0 to 5"),
        ({"sliding_window": 8, "sliding_layers": [2, 1]}, "in order"),
        ({"family": "llama", "sliding_window": 8, "sliding_layers": [1]}, "no meaning in the family `llama`"),
        ({"family": "mistral", "sliding_window": 8, "sliding_layers": [1]}, "all layers slide or none"),
        ({"unrotated_layers": [1]}, "`unrotated_layers` have no meaning"),
        ({"context_length": 1 << 40}, "less than or equal"),
        ({"layers": 10**9}, "less than or equal"),
        ({"width": 0}, "greater than or equal"),
        ({"norm_epsilon": float("nan")}, "finite"),
        (
            {
                "rope_scaling": {
                    "kind": "llama3",
                    "factor": 8.0,
                    "low_frequency_factor": 4.0,
                    "high_frequency_factor": 4.0,
                    "original_context_length": 32,
                }
            },
            "must be above `low_frequency_factor`",
        ),
    ],
)
def test_an_impossible_shape_is_refused_before_any_work(fields, said):
    with pytest.raises(ConfigError, match=said):
        configuration.validate(ModelConfig, fields, where="model")


def test_training_costs_grow_with_weights_and_context():
    config = ModelConfig(
        width=8, layers=1, heads=1, key_heads=1, head_width=8, mlp_width=8, context_length=4, vocabulary_size=10
    )
    # By hand: attention 4 * 8 * 8, MLP 3 * 8 * 8, output 10 * 8; scores 1 layer * 1 head * 8 * 4.
    assert config.flops_per_token() == 6 * (256 + 192 + 80) + 6 * 32
