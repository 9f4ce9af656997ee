"""A network's shape and tensors as llama.cpp calls them. What it would compute differently is refused by name."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chatwright.foundation.errors import RefusedError
from chatwright.model.config import LinearScaling, Llama3Scaling, ModelConfig, YarnScaling
from chatwright.model.rotary import llama3_divisors

ARCHITECTURES = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
}
# These architectures turn neighbouring numbers, not halves: rows of queries and keys are put in that order.
_NEIGHBOURS = ("llama", "smollm3")
_SMOLLM3_STEP = 4  # llama.cpp leaves every so-manieth layer of SmolLM3 unrotated, and asks no file

_TOP = {
    "model.embed_tokens": "token_embd",
    "model.embed_positions": "position_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class GgufTensor(NamedTuple):
    """One tensor under llama.cpp's name."""

    name: str
    values: Tensor


def refuse_what_differs(config: ModelConfig) -> None:
    """Refuse shapes that llama.cpp has no architecture for.

    Raises:
        RefusedError: all of them, by name.
    """
    wrong = []
    if config.sliding_layers and (config.sliding_window or 0) < config.context_length:
        wrong.append(f"a sliding window of {config.sliding_window} tokens")
    if config.attention_bias and config.family != "llama":
        wrong.append(f"biases in the attention of `{config.family}`")
    if config.mlp_bias and config.family != "llama":
        wrong.append(f"biases in the MLP of `{config.family}`")
    if config.family == "qwen2" and config.heads * config.head_width != config.width:
        wrong.append(f"`qwen2` whose heads are together {config.heads * config.head_width} wide, not {config.width}")
    every_fourth = tuple(range(_SMOLLM3_STEP - 1, config.layers, _SMOLLM3_STEP))
    if config.family == "smollm3" and config.unrotated_layers != every_fourth:
        wrong.append(f"unrotated layers other than each {_SMOLLM3_STEP}th: {list(config.unrotated_layers)}")
    scaling = config.rope_scaling
    if isinstance(scaling, YarnScaling) and scaling != YarnScaling(
        factor=scaling.factor, original_context_length=scaling.original_context_length
    ):
        wrong.append("YaRN with numbers other than its authors'")
    if wrong:
        raise RefusedError(
            f"llama.cpp does not compute {'; '.join(wrong)}",
            hint="serve the model with chatwright, or export it with `--to hf` for other programs",
        )


def shape_facts(config: ModelConfig) -> dict[str, Any]:
    """The keys of a GGUF file that tell the shape, without the architecture's prefix."""
    facts: dict[str, Any] = {
        "vocab_size": config.vocabulary_size,
        "context_length": config.context_length,
        "embedding_length": config.width,
        "block_count": config.layers,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.heads,
    }
    if config.is_gpt2:
        return facts | {"attention.layer_norm_epsilon": float(config.norm_epsilon)}
    facts |= {
        "attention.head_count_kv": config.key_heads,
        "attention.key_length": config.head_width,
        "attention.value_length": config.head_width,
        "attention.layer_norm_rms_epsilon": float(config.norm_epsilon),
        "rope.dimension_count": config.head_width,
        "rope.freq_base": float(config.rope_base),
    }
    scaling = config.rope_scaling
    if isinstance(scaling, LinearScaling | YarnScaling):
        facts |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": float(scaling.factor)}
    if isinstance(scaling, YarnScaling):
        facts["rope.scaling.original_context_length"] = scaling.original_context_length
    return facts


def gguf_tensors(config: ModelConfig, state: dict[str, Tensor]) -> Iterator[GgufTensor]:
    """All tensors in llama.cpp's names and order of rows, one after another; a shared output is left out."""
    if isinstance(config.rope_scaling, Llama3Scaling):
        yield GgufTensor("rope_freqs.weight", llama3_divisors(config))
    for name, values in state.items():
        if name == "lm_head.weight" and config.tied:
            continue
        module, kind = name.rsplit(".", 1)
        if not module.startswith("model.layers."):
            yield GgufTensor(f"{_TOP[module]}.{kind}", values)
            continue
        number, place = module.removeprefix("model.layers.").split(".", 1)
        if config.is_gpt2 and place in ("self_attn.k_proj", "self_attn.v_proj"):
            continue  # stand in `attn_qkv`
        yield GgufTensor(*_block_tensor(config, state, number=number, place=place, kind=kind))


def _block_tensor(
    config: ModelConfig, state: dict[str, Tensor], *, number: str, place: str, kind: str
) -> tuple[str, Tensor]:
    prefix = f"model.layers.{number}"
    if config.is_gpt2 and place == "self_attn.q_proj":
        parts = [state[f"{prefix}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
        return f"blk.{number}.attn_qkv.{kind}", torch.cat(parts)
    values = state[f"{prefix}.{place}.{kind}"]
    if ARCHITECTURES[config.family] in _NEIGHBOURS and place in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config.heads if place == "self_attn.q_proj" else config.key_heads
        values = _as_neighbours(values, heads)
    return f"blk.{number}.{_BLOCK[place]}.{kind}", values


def _as_neighbours(values: Tensor, heads: int) -> Tensor:
    """Rows (head, half, pair) as (head, pair, half)."""
    rows = values.reshape(heads, 2, -1, *values.shape[1:])
    return rows.transpose(1, 2).reshape(values.shape)
