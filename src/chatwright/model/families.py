"""How Hugging Face's `config.json` names our shapes, both ways. What is not understood is refused by name."""

from collections.abc import Callable
from typing import Any

from chatwright.foundation import config as configuration
from chatwright.foundation.errors import RefusedError
from chatwright.model.config import ModelConfig

_ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}

# Options that change what a network computes, with the only values we compute. Absent keys have these defaults.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "attention_dropout": (0.0, 0),
    "pretraining_tp": (1,),
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


def from_hugging_face(value: dict[str, Any], *, where: str) -> ModelConfig:
    """Our shape of a Hugging Face configuration.

    Raises:
        RefusedError: an architecture or an option that we would compute wrongly, all of them named.
    """
    family = value.get("model_type")
    if family not in _ARCHITECTURES:
        raise RefusedError(
            f"`{where}` is of the architecture `{family}`, which chatwright does not compute",
            hint=f"known architectures: {', '.join(sorted(_ARCHITECTURES))}",
        )
    wrong = [
        f"{key} = {value[key]!r} (only {allowed[0]!r})"
        for key, allowed in _ONLY.items()
        if value.get(key) is not None and value[key] not in allowed
    ]
    if wrong:
        raise RefusedError(f"`{where}` uses options that chatwright does not compute: {'; '.join(wrong)}")
    rope = _rope(value, where)
    wanted: dict[str, Callable[[], Any]] = {
        "family": lambda: family,
        "width": lambda: value["hidden_size"],
        "layers": lambda: value["num_hidden_layers"],
        "heads": lambda: value["num_attention_heads"],
        "key_heads": lambda: value.get("num_key_value_heads") or value["num_attention_heads"],
        "head_width": lambda: value.get("head_dim") or value["hidden_size"] // value["num_attention_heads"],
        "mlp_width": lambda: value["intermediate_size"],
        "context_length": lambda: value["max_position_embeddings"],
        "vocabulary_size": lambda: value["vocab_size"],
        "tied": lambda: bool(value.get("tie_word_embeddings", False)),
        "norm_epsilon": lambda: float(value.get("rms_norm_eps", 1e-6)),
    }
    missing = []
    fields: dict[str, Any] = dict(rope)
    for name, read in wanted.items():
        try:
            fields[name] = read()
        except KeyError as error:
            missing.append(str(error.args[0]))
    if missing:
        raise RefusedError(f"`{where}` lacks {', '.join(missing)}")
    return configuration.validate(ModelConfig, fields, where=f"`{where}`")


def _rope(value: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = value.get("rope_parameters") or {}
    scaling = value.get("rope_scaling") or parameters
    base = float(value.get("rope_theta") or parameters.get("rope_theta") or 10_000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return {"rope_base": base}
    if kind != "llama3":
        raise RefusedError(f"`{where}` scales rotary positions by `{kind}`, which chatwright does not compute")
    try:
        return {
            "rope_base": base,
            "rope_scaling": {
                "factor": float(scaling["factor"]),
                "low_frequency_factor": float(scaling["low_freq_factor"]),
                "high_frequency_factor": float(scaling["high_freq_factor"]),
                "original_context_length": scaling["original_max_position_embeddings"],
            },
        }
    except KeyError as error:
        raise RefusedError(f"`{where}` lacks `{error.args[0]}` in its rope scaling") from None
