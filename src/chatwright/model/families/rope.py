"""Rotary positions in `config.json`: transformers 5 says `rope_parameters`, 4 says `rope_theta` and `rope_scaling`."""

import math
from typing import Any

from chatwright.model.config import LinearScaling, Llama3Scaling, ModelConfig, YarnScaling

Value = dict[str, Any]

_HARMLESS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_KNOWN = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
        *("attention_factor", "mscale", "mscale_all_dim", "truncate"),
    },
}
_REASONS = {
    "dynamic": "its angles depend on how long the text has become, so keys read earlier would be turned wrongly",
    "longrope": "its angles depend on how long the text has become",
}


def rope_parameters(value: Value) -> Value:
    """Rotary positions as either version writes them.

    Raises:
        ValueError: they differ between layers.
    """
    parameters = value.get("rope_scaling") or value.get("rope_parameters") or {}
    if not isinstance(parameters, dict) or any(isinstance(item, dict) for item in parameters.values()):
        raise ValueError("rotary positions that differ between layers")
    if parameters.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ValueError(f"partial_rotary_factor = {parameters['partial_rotary_factor']!r} (only 1.0)")
    return parameters


def read_base(value: Value, *, absent: float) -> Any:
    """The base of the angles: beside the parameters in version 4, among them in version 5."""
    parameters = value.get("rope_parameters")
    inside = parameters.get("rope_theta") if isinstance(parameters, dict) else None
    return value.get("rope_theta") or inside or rope_parameters(value).get("rope_theta") or absent


def read_scaling(value: Value) -> Value | None:
    """Our fields of the scaling, None where there is none.

    Raises:
        ValueError: a kind or an option that is not computed here.
        KeyError: a number is missing.
    """
    scaling = rope_parameters(value)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return None
    if not isinstance(kind, str) or kind not in _KNOWN:
        reason = _REASONS.get(str(kind))
        raise ValueError(f"rotary positions scaled by `{kind}`" + (f": {reason}" if reason else ""))
    unknown = {name for name, item in scaling.items() if item is not None} - _KNOWN[kind] - _HARMLESS
    if unknown:
        raise ValueError(f"rotary positions scaled by `{kind}` with {', '.join(sorted(unknown))}")
    if kind == "linear":
        return {"kind": "linear", "factor": scaling["factor"]}
    original = value.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings")
    if kind == "llama3":
        return {
            "kind": "llama3",
            "factor": scaling["factor"],
            "low_frequency_factor": scaling["low_freq_factor"],
            "high_frequency_factor": scaling["high_freq_factor"],
            "original_context_length": original or value["max_position_embeddings"],
        }
    return _read_yarn(scaling, original or value["max_position_embeddings"])


def _read_yarn(scaling: Value, original: Any) -> Value:
    return {
        "kind": "yarn",
        "factor": scaling["factor"],
        "original_context_length": original,
        "fast_turns": scaling.get("beta_fast") or 32.0,
        "slow_turns": scaling.get("beta_slow") or 1.0,
        "attention_factor": scaling.get("attention_factor") or _from_mscale(scaling),
        "whole_ramp": scaling.get("truncate", True) is not False,
    }


def _from_mscale(scaling: Value) -> float | None:
    """DeepSeek's way to say the attention factor: a quotient of two of the paper's."""
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if not above or not below:
        return None
    log = math.log(scaling["factor"])
    return float((0.1 * above * log + 1.0) / (0.1 * below * log + 1.0))


def write_rope(config: ModelConfig) -> Value:
    """All three spellings.

    `rope_theta` stands beside `rope_parameters`: transformers 4 reads only the first and else silently takes 10,000.
    """
    scaling = _write_scaling(config)
    return {
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base} | (scaling or {}),
        "rope_scaling": scaling,
    }


def _write_scaling(config: ModelConfig) -> Value | None:
    scaling = config.rope_scaling
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    if isinstance(scaling, Llama3Scaling):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }
    if isinstance(scaling, YarnScaling):
        value: Value = {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_context_length,
            "beta_fast": scaling.fast_turns,
            "beta_slow": scaling.slow_turns,
        }
        if scaling.attention_factor is not None:
            value["attention_factor"] = scaling.attention_factor
        if not scaling.whole_ramp:
            value["truncate"] = False
        return value
    return None
