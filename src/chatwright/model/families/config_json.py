"""How Hugging Face's `config.json` names our shapes, both ways. What is not understood is refused by name."""

from collections.abc import Callable
from typing import Any

from chatwright.foundation import config as configuration
from chatwright.foundation.errors import ConfigError, RefusedError
from chatwright.model.config import MAX_LAYERS, ModelConfig
from chatwright.model.families.rope import read_base, read_scaling, write_rope

Value = dict[str, Any]

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}

# Options that change what a network computes, with the only values we compute. Absent keys have these values.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
    "attention_dropout": (0.0, 0),
    "partial_rotary_factor": (1.0, 1),
    "pretraining_tp": (1,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
    "auto_map": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
}

# What transformers takes for keys that are absent (a key that says null means something else).
_ABSENT: dict[str, Value] = {
    "gpt2": {"tie_word_embeddings": True, "layer_norm_epsilon": 1e-5},
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
    "smollm3": {"num_key_value_heads": 4, "tie_word_embeddings": True, "no_rope_layer_interval": 4},
}
_BASE_WHEN_ABSENT = {"smollm3": 2_000_000.0}

# GPT-2's own words for what all others call alike; transformers reads both.
_GPT2_WORDS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "rms_norm_eps",
}


def to_hugging_face(config: ModelConfig, *, begin: int, ends: list[int], pad: int, dtype: str = "float32") -> Value:
    """The `config.json` of a model of ours."""
    common = {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocabulary_size,
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": begin,
        "eos_token_id": ends,
        "pad_token_id": pad,
        "torch_dtype": dtype,
    }
    return common | (_write_gpt2(config) if config.is_gpt2 else _write_llama_like(config))


def _write_gpt2(config: ModelConfig) -> Value:
    return {
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_positions": config.context_length,
        "n_inner": config.mlp_width,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def _write_llama_like(config: ModelConfig) -> Value:
    value = {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        **write_rope(config),
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
    }
    if config.family in ("llama", "smollm3"):
        value["mlp_bias"] = config.mlp_bias
    if config.family == "mistral":
        value["sliding_window"] = config.sliding_window
    if config.family in ("qwen2", "qwen3", "smollm3"):
        kinds = ("full_attention", "sliding_attention")
        value |= {
            "use_sliding_window": bool(config.sliding_layers),
            "sliding_window": config.sliding_window,
            "layer_types": [kinds[layer in config.sliding_layers] for layer in range(config.layers)],
        }
        if config.family != "smollm3":  # version 4 knows only where sliding begins, and a list that goes before it
            value["max_window_layers"] = min(config.sliding_layers, default=config.layers)
    if config.family == "smollm3":
        value["no_rope_layers"] = [int(layer not in config.unrotated_layers) for layer in range(config.layers)]
    return value


def _sliding_layers(value: Value) -> list[int]:
    """Layers that see only the window: all of Mistral's, or those that a list or a border names."""
    layers = _layers(value)
    family, window = value["model_type"], value.get("sliding_window")
    if family == "mistral":
        return list(layers) if window is not None else []
    if family in ("gpt2", "llama"):
        return _of_types(value, layers)  # they have none: a list that says otherwise is refused
    if not value.get("use_sliding_window", False) or window is None:
        return _of_types(value | {"use_sliding_window": False}, layers)
    if value.get("layer_types") is not None:
        return _of_types(value, layers)
    if family == "smollm3":
        return _unrotated_layers(value)
    return [layer for layer in layers if layer >= value["max_window_layers"]]


def _layers(value: Value) -> range:
    """The layers' numbers, their count checked before anything is made as long as it says."""
    count = value["num_hidden_layers"]
    if type(count) is not int or not 1 <= count <= MAX_LAYERS:
        raise ValueError(f"num_hidden_layers should be between 1 and {MAX_LAYERS}, not {count!r}")
    return range(count)


def _of_types(value: Value, layers: range) -> list[int]:
    kinds = value.get("layer_types")
    if kinds is None:
        return []
    allowed = ["full_attention"]
    if value.get("use_sliding_window"):
        allowed.append("sliding_attention")
    wrong = sorted({str(kind) for kind in kinds if kind not in allowed}) if isinstance(kinds, list) else [str(kinds)]
    if wrong:
        raise ValueError(f"layers of type {', '.join(map(repr, wrong))}")
    if len(kinds) != len(layers):
        raise ValueError(f"{len(kinds)} layer_types for {len(layers)} layers")
    return [layer for layer in layers if kinds[layer] == "sliding_attention"]


def _sliding_window(value: Value) -> Any:
    return value.get("sliding_window") if _sliding_layers(value) else None


def _unrotated_layers(value: Value) -> list[int]:
    if value["model_type"] != "smollm3":
        return []
    layers, marks, interval = _layers(value), value.get("no_rope_layers"), value["no_rope_layer_interval"]
    if marks is None:
        return [layer for layer in layers if (layer + 1) % interval == 0]
    if len(marks) < len(layers):
        raise ValueError(f"no_rope_layers has {len(marks)} entries for {len(layers)} layers")
    return [layer for layer in layers if not marks[layer]]


def _attention_bias(value: Value) -> Any:
    """Qwen2 and GPT-2 have theirs whatever this says."""
    return False if value["model_type"] in ("qwen2", "gpt2") else value.get("attention_bias") or False


def _mlp_width(value: Value) -> Any:
    if value["model_type"] == "gpt2":
        return value.get("n_inner") or 4 * value["hidden_size"]
    return value["intermediate_size"]


# Where each of our fields stands.
_FIELDS: dict[str, Callable[[Value], Any]] = {
    "family": lambda value: value["model_type"],
    "width": lambda value: value["hidden_size"],
    "layers": lambda value: value["num_hidden_layers"],
    "heads": lambda value: value["num_attention_heads"],
    "key_heads": lambda value: value.get("num_key_value_heads") or value["num_attention_heads"],
    "head_width": lambda value: value.get("head_dim") or value["hidden_size"] // value["num_attention_heads"],
    "mlp_width": _mlp_width,
    "context_length": lambda value: value["max_position_embeddings"],
    "vocabulary_size": lambda value: value["vocab_size"],
    "tied": lambda value: value.get("tie_word_embeddings", False),
    "attention_bias": _attention_bias,
    "mlp_bias": lambda value: value.get("mlp_bias") or False,
    "norm_epsilon": lambda value: value.get("rms_norm_eps", 1e-6),
    "rope_base": lambda value: read_base(value, absent=_BASE_WHEN_ABSENT.get(value["model_type"], 10_000.0)),
    "rope_scaling": read_scaling,
    "unrotated_layers": _unrotated_layers,
    "sliding_window": _sliding_window,
    "sliding_layers": _sliding_layers,
}


def classifier_of(architecture: str) -> str:
    """The name of the same network with a score for a whole text instead of one for each next token."""
    return architecture.replace("ForCausalLM", "ForSequenceClassification")


def from_hugging_face(value: Value, *, where: str, is_classifier: bool = False) -> ModelConfig:
    """Our shape of a Hugging Face configuration.

    Args:
        value: what `config.json` holds.
        where: its place, for errors.
        is_classifier: whether it must describe a network that scores whole texts.

    Raises:
        RefusedError: an architecture or an option that we would compute wrongly, all of them named.
    """
    family = value.get("model_type")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        raise RefusedError(
            f"`{where}` is of the architecture `{family}`, which chatwright does not compute",
            hint=f"known architectures: {', '.join(sorted(ARCHITECTURES))}",
        )
    wrong = [
        f"{key} = {value[key]!r} (only {allowed[0]!r})"
        for key, allowed in _ONLY.items()
        if value.get(key) is not None and not _is_one_of(value[key], allowed)
    ]
    named = value.get("architectures")
    expected = classifier_of(ARCHITECTURES[family]) if is_classifier else ARCHITECTURES[family]
    if named not in (None, [], [expected]):
        wrong.append(f"architectures = {named!r} (only [{expected!r}])")
    fields, unread = _read_fields(_filled(value, family))
    wrong += unread
    if wrong:
        raise RefusedError(f"`{where}` describes what chatwright does not compute: {'; '.join(dict.fromkeys(wrong))}")
    try:
        return configuration.validate(ModelConfig, fields, where=f"`{where}`")
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise RefusedError(f"`{where}` describes what chatwright does not compute: {problems}") from error


def _is_one_of(met: Any, allowed: tuple[Any, ...]) -> bool:
    """Equality as JSON means it: `true` is not the number 1."""
    return any(met == item and isinstance(met, bool) == isinstance(item, bool) for item in allowed)


def _filled(value: Value, family: str) -> Value:
    """The configuration with the family's words made ours and its absent keys filled in."""
    filled = _ABSENT[family] | value
    if family == "gpt2":
        filled |= {ours: filled[theirs] for theirs, ours in _GPT2_WORDS.items() if theirs in filled}
        filled |= {"rope_theta": None, "rope_scaling": None, "rope_parameters": None}  # it has learned positions
    if family in ("llama", "qwen2", "mistral") and filled.get("head_dim") is None:
        filled.pop("head_dim", None)
    return filled


def _read_fields(value: Value) -> tuple[dict[str, Any], list[str]]:
    fields: dict[str, Any] = {}
    wrong: list[str] = []
    for name, read in _FIELDS.items():
        try:
            fields[name] = read(value)
        except KeyError as error:
            wrong.append(f"lacks {error.args[0]}")
        except (TypeError, ValueError, ZeroDivisionError, AttributeError, OverflowError) as error:
            wrong.append(f"{name}: {error}")
    return fields, wrong
