"""How Hugging Face's `config.json` names our shapes, both ways. What is not understood is refused by name."""

from collections.abc import Callable
from typing import Any

from chatwright.foundation import config as configuration
from chatwright.foundation.errors import ConfigError, RefusedError
from chatwright.model.config import ModelConfig

_ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}

# Options that change what a network computes, with the only values we compute. Absent keys have these defaults.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "attention_dropout": (0.0, 0),
    "partial_rotary_factor": (1.0, 1),
    "pretraining_tp": (1,),
    "quantization_config": (None,),
}


def to_hugging_face(config: ModelConfig, *, begin: int, ends: list[int], pad: int) -> dict[str, Any]:
    """The `config.json` of a model of ours.

    `rope_theta` stands beside `rope_parameters`: transformers 4 reads only the first and else silently takes 10,000.
    """
    rope = {"rope_type": "default", "rope_theta": config.rope_base}
    if config.rope_scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_frequency_factor,
            "high_freq_factor": config.rope_scaling.high_frequency_factor,
            "original_max_position_embeddings": config.rope_scaling.original_context_length,
        }
    return {
        "architectures": [_ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_base,
        "rope_parameters": rope,
        "rope_scaling": None if config.rope_scaling is None else {k: v for k, v in rope.items() if k != "rope_theta"},
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": begin,
        "eos_token_id": ends,
        "pad_token_id": pad,
        "torch_dtype": "float32",
    }


def _layer_types(value: dict[str, Any]) -> list[str]:
    kinds = value.get("layer_types") or []
    return sorted({str(kind) for kind in kinds}) if isinstance(kinds, list) else [str(kinds)]


def _rope_parameters(value: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions as transformers 5 writes them, or as 4 did."""
    parameters = value.get("rope_scaling") or value.get("rope_parameters") or {}
    if not isinstance(parameters, dict) or any(isinstance(item, dict) for item in parameters.values()):
        raise ValueError("rotary positions that differ between layers")
    return parameters


def _rope_scaling(value: dict[str, Any]) -> dict[str, Any] | None:
    scaling = _rope_parameters(value)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"rotary positions scaled by `{kind}`")
    return {
        "factor": scaling["factor"],
        "low_frequency_factor": scaling["low_freq_factor"],
        "high_frequency_factor": scaling["high_freq_factor"],
        "original_context_length": scaling["original_max_position_embeddings"],
    }


# Where each of our fields stands.
_FIELDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "family": lambda value: value["model_type"],
    "width": lambda value: value["hidden_size"],
    "layers": lambda value: value["num_hidden_layers"],
    "heads": lambda value: value["num_attention_heads"],
    "key_heads": lambda value: value.get("num_key_value_heads") or value["num_attention_heads"],
    "head_width": lambda value: value.get("head_dim") or value["hidden_size"] // value["num_attention_heads"],
    "mlp_width": lambda value: value["intermediate_size"],
    "context_length": lambda value: value["max_position_embeddings"],
    "vocabulary_size": lambda value: value["vocab_size"],
    "tied": lambda value: value.get("tie_word_embeddings", False),
    "norm_epsilon": lambda value: value.get("rms_norm_eps", 1e-6),
    "rope_base": lambda value: value.get("rope_theta") or _rope_parameters(value).get("rope_theta") or 10_000.0,
    "rope_scaling": _rope_scaling,
}


def from_hugging_face(value: dict[str, Any], *, where: str) -> ModelConfig:
    """Our shape of a Hugging Face configuration.

    Raises:
        RefusedError: an architecture or an option that we would compute wrongly, all of them named.
    """
    family = value.get("model_type")
    if not isinstance(family, str) or family not in _ARCHITECTURES:
        raise RefusedError(
            f"`{where}` is of the architecture `{family}`, which chatwright does not compute",
            hint=f"known architectures: {', '.join(sorted(_ARCHITECTURES))}",
        )
    wrong = [
        f"{key} = {value[key]!r} (only {allowed[0]!r})"
        for key, allowed in _ONLY.items()
        if value.get(key) is not None and value[key] not in allowed
    ]
    wrong += [f"layers of type {kind!r}" for kind in _layer_types(value) if kind != "full_attention"]
    fields: dict[str, Any] = {}
    for name, read in _FIELDS.items():
        try:
            fields[name] = read(value)
        except KeyError as error:
            wrong.append(f"lacks {error.args[0]}")
        except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
            wrong.append(f"{name}: {error}")
    if wrong:
        raise RefusedError(f"`{where}` describes what chatwright does not compute: {'; '.join(dict.fromkeys(wrong))}")
    try:
        return configuration.validate(ModelConfig, fields, where=f"`{where}`")
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise RefusedError(f"`{where}` describes what chatwright does not compute: {problems}") from error
