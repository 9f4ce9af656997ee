"""`config.json` is read as transformers means it; what we would compute wrongly is refused by name."""

import pytest

from chatwright.foundation.errors import RefusedError
from chatwright.model.config import LinearScaling, ModelConfig, YarnScaling
from chatwright.model.config import Llama3Scaling as RopeScaling
from chatwright.model.families import from_hugging_face, to_hugging_face

SCALING = RopeScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context_length=32)


def written(**fields) -> dict:
    return to_hugging_face(ModelConfig(vocabulary_size=40, **fields), begin=0, ends=[2, 0], pad=0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"family": "llama", "tied": False, "key_heads": 2},
        {"family": "llama", "rope_scaling": SCALING, "rope_base": 500_000.0},
        {"head_width": 64, "norm_epsilon": 1e-5},
        {"family": "qwen2", "sliding_window": 7, "sliding_layers": (2, 3, 4, 5)},
        {"family": "qwen3", "sliding_window": 7, "sliding_layers": (0, 3), "attention_bias": True},
        {"family": "mistral", "sliding_window": 7, "sliding_layers": tuple(range(6))},
        {"family": "mistral", "rope_scaling": LinearScaling(factor=2.0)},
        {"family": "smollm3", "unrotated_layers": (1, 5), "mlp_bias": True},
        {"family": "gpt2", "norm_epsilon": 1e-5, "mlp_width": 100},
        {"rope_scaling": YarnScaling(factor=4.0, original_context_length=64, attention_factor=1.5, whole_ramp=False)},
    ],
)
def test_what_is_written_is_read_back(fields):
    value = written(**fields)
    assert from_hugging_face(value, where="config.json") == ModelConfig(vocabulary_size=40, **fields)


def test_old_and_new_spellings_of_rotary_positions_mean_the_same():
    value = written(family="llama", rope_scaling=SCALING, rope_base=500_000.0)
    old = {key: item for key, item in value.items() if key != "rope_parameters"}
    new = {key: item for key, item in value.items() if key not in ("rope_theta", "rope_scaling")}
    legacy = {**old, "rope_scaling": {("type" if k == "rope_type" else k): v for k, v in old["rope_scaling"].items()}}
    read = [from_hugging_face(form, where="x") for form in (value, old, new, legacy)]
    assert read[0] == read[1] == read[2] == read[3]


def test_absent_keys_have_the_defaults_of_transformers():
    value = written(family="llama")
    for key in (
        "head_dim",
        "num_key_value_heads",
        "tie_word_embeddings",
        "rope_theta",
        "rope_parameters",
        "rms_norm_eps",
    ):
        value.pop(key)
    read = from_hugging_face(value, where="x")
    assert (read.head_width, read.key_heads, read.tied) == (32, 6, False)
    assert (read.rope_base, read.norm_epsilon) == (10_000.0, 1e-6)


@pytest.mark.parametrize("kind", ["mamba2", "mixtral", "gpt_neox", None, ["llama"], "LLAMA"])
def test_an_unknown_architecture_is_named_with_the_known_ones(kind):
    with pytest.raises(RefusedError, match="architecture") as caught:
        from_hugging_face({**written(), "model_type": kind}, where="x")
    assert "gpt2, llama, mistral, qwen2, qwen3, smollm3" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification"),
        ({"layer_types": ["full_attention"]}, "1 layer_types for 6 layers"),
        (
            {"use_sliding_window": 1, "sliding_window": "x", "layer_types": None, "max_window_layers": 0},
            "sliding_window",
        ),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers of type 'sliding_attention'"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "tilt": 1}}, "scaled by `yarn` with tilt"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "scaled by `dynamic`: its angles depend"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "scaled by `longrope`"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "scaled by"),
        ({"rope_scaling": {"type": "linear"}}, "lacks factor"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "lacks factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differ between layers"),
        ({"rope_scaling": "yarn"}, "differ between layers"),
        ({"hidden_size": "64"}, "width"),
        ({"hidden_size": True}, "width"),
        ({"num_attention_heads": 0, "head_dim": None}, "head_width"),
        ({"rms_norm_eps": "tiny"}, "norm_epsilon"),
        ({"rope_theta": [1]}, "rope_base"),
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"max_position_embeddings": 10**15}, "context_length"),
        ({"num_key_value_heads": 4}, "multiple of `key_heads`"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused_by_name(changes, said):
    with pytest.raises(RefusedError, match=said):
        from_hugging_face({**written(), **changes}, where="x")


def test_all_that_is_wrong_is_named_at_once():
    value = {**written(), "attn_logit_softcapping": 50.0, "hidden_act": "gelu"}
    del value["vocab_size"], value["intermediate_size"]
    with pytest.raises(RefusedError) as caught:
        from_hugging_face(value, where="config.json")
    for name in ("attn_logit_softcapping", "gelu", "vocab_size", "intermediate_size"):
        assert name in caught.value.what
