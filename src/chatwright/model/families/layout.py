"""Which tensors a family's files hold, and where their numbers stand in our network.

Only GPT-2's files differ from our names: its matrices lie transposed, and queries, keys and values are one.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch

from chatwright.model.config import ModelConfig
from chatwright.model.network import Network

OUTPUT = "lm_head.weight"  # the embedding itself where a model is tied
_GPT2_TOP = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.wpe.weight": "model.embed_positions.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "transformer.ln_f.bias": "model.norm.bias",
    OUTPUT: OUTPUT,
}
_GPT2_BLOCK = {
    "ln_1": ("input_layernorm",),
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "ln_2": ("post_attention_layernorm",),
    "mlp.c_fc": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}

# What older files hold beside the weights and every reader leaves out: masks and tables, computed from the sizes.
_LEFT_OUT = re.compile(
    r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias|model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
)


class StoredTensor(NamedTuple):
    """One tensor of a file, and the parameters whose rows stand in it one after another."""

    name: str
    parts: tuple[str, ...]  # our names
    rows: tuple[int, ...]  # of each part
    shape: tuple[int, ...]  # as stored
    is_transposed: bool = False


def layout(config: ModelConfig) -> list[StoredTensor]:
    """All tensors of a model's files, in our order. A shared output projection is not stored."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Network(config).state_dict().items()}
    if config.tied:
        del shapes[OUTPUT]
    if not config.is_gpt2:
        return [StoredTensor(name, (name,), (shape[0],), shape) for name, shape in shapes.items()]
    return [_stored(name, parts, shapes) for name, parts in _gpt2(config)]


def _gpt2(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    for theirs, ours in _GPT2_TOP.items():
        if not (config.tied and theirs == OUTPUT):
            yield theirs, (ours,)
    for number in range(config.layers):
        for theirs, modules in _GPT2_BLOCK.items():
            for kind in ("weight", "bias"):
                parts = tuple(f"model.layers.{number}.{module}.{kind}" for module in modules)
                yield f"transformer.h.{number}.{theirs}.{kind}", parts


def _stored(name: str, parts: tuple[str, ...], shapes: dict[str, tuple[int, ...]]) -> StoredTensor:
    rows = tuple(shapes[part][0] for part in parts)
    shape = (sum(rows), *shapes[parts[0]][1:])
    is_transposed = ".h." in name and len(shape) == 2
    return StoredTensor(name, parts, rows, shape[::-1] if is_transposed else shape, is_transposed)


def own_name(name: str, config: ModelConfig) -> str | None:
    """A tensor's name as `layout` spells it; None for what is left out.

    The first GPT-2 files lack the prefix `transformer.`, and a shared output projection may stand there once more
    (`weights` looks whether it is the same).
    """
    if _LEFT_OUT.fullmatch(name) or (config.tied and name == OUTPUT):
        return None
    if config.is_gpt2 and name != OUTPUT and not name.startswith("transformer."):
        return f"transformer.{name}"
    return name
