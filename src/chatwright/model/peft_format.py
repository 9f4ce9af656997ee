"""Low-rank adapters in PEFT's format, both ways: `adapter_config.json` and `adapter_model.safetensors`.

PEFT names no digest of the base, so that an adapter of another base of the same shape cannot be told apart here; ours
carry one in `chatwright.adapter`. What PEFT computes and we do not is refused by name.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from chatwright.foundation import config as configuration
from chatwright.foundation import storage
from chatwright.foundation.errors import ConfigError, RefusedError, UsageError
from chatwright.model.adapter import EMBEDDING, Adapter, LoraConfig
from chatwright.model.foreign import require_own_files
from chatwright.model.network import Network
from chatwright.model.tensors import FLOATS, TensorFile

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_DIGEST = "chatwright_base"  # PEFT passes unknown keys over with a warning
_MAX_CONFIG_BYTES = 1 << 20

# Options that change what an adapter computes, with the only values we compute; absent keys have them too.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "trainable_token_indices": (None, [], {}),
    "lora_bias": (False,),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "target_parameters": (None, []),
    # Other beginnings (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA) change the base's weights too, and the file lacks those.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "kasa_config": (None,),
    "arrow_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "use_bdlora": (None, False),
}


def save_peft(directory: Path, adapter: Adapter, network: Network, *, base: str, base_digest: str) -> None:
    """Write an adapter for PEFT, whole or not at all.

    Args:
        directory: where.
        adapter: on this network.
        network: its base.
        base: the base's name or path, for the reader.
        base_digest: of the base's directory.

    Raises:
        UsageError: an adapter that PEFT would compute differently.
    """
    _require_expressible(adapter, network)
    with storage.publish(directory) as scratch:
        save_file(_weights(adapter), scratch / PEFT_WEIGHTS, metadata={"format": "pt"})
        storage.write_json(scratch / PEFT_CONFIG, _config(adapter, base=base))
        storage.write_json(scratch / f"{_DIGEST}.json", {"base": base_digest})


def _weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Every update under PEFT's name."""
    weights: dict[str, torch.Tensor] = {}
    for name, update in adapter.named_updates():
        weights[f"{_PREFIX}{name}.lora_A.weight"] = update.down.detach().cpu().contiguous()
        weights[f"{_PREFIX}{name}.lora_B.weight"] = update.up.detach().cpu().contiguous()
        if update.magnitude is not None:
            weights[f"{_PREFIX}{name}.lora_magnitude_vector"] = update.magnitude.detach().cpu().contiguous()
    if adapter.embedding is not None:
        place = f"{_PREFIX}model.{EMBEDDING}"
        weights[f"{place}.lora_embedding_A"] = adapter.embedding.up.detach().cpu().T.contiguous()
        weights[f"{place}.lora_embedding_B"] = adapter.embedding.down.detach().cpu().T.contiguous()
    return weights


def _config(adapter: Adapter, *, base: str) -> dict[str, Any]:
    """What PEFT reads of an adapter."""
    config = adapter.config
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(_target_names(adapter)),
        "use_rslora": config.rank_stabilised,
        "use_dora": config.magnitudes,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _target_names(adapter: Adapter) -> set[str]:
    names = {name.rsplit(".", 1)[-1] for name, _ in adapter.named_updates()}
    return names | ({EMBEDDING} if adapter.embedding is not None else set())


def _require_expressible(adapter: Adapter, network: Network) -> None:
    reasons = []
    if adapter.trained_tokens:
        reasons.append("it trains the embedding rows of single tokens")
    if adapter.embedding is not None and network.config.tied:
        reasons.append("it adapts an embedding that is the output projection too, and PEFT adapts the input side alone")
    if network.config.is_gpt2:
        reasons.append("GPT-2's queries, keys and values are one layer in transformers")
    if reasons:
        raise UsageError(
            f"PEFT cannot express this adapter: {'; '.join(reasons)}",
            hint="merge it, and export the model with `chatwright export --to hf`",
        )


def load_peft(directory: Path, network: Network, *, base_digest: str | None = None) -> Adapter:
    """An adapter from PEFT's files, on a network that has the layers which it names.

    Args:
        directory: with `adapter_config.json` and `adapter_model.safetensors`.
        network: the base.
        base_digest: of the base's directory; compared where the adapter was written by `save_peft`.

    Raises:
        RefusedError: damaged or foreign files, options that are not computed here, tensors that do not fit.
    """
    require_own_files(directory)
    path = directory / PEFT_CONFIG
    value = storage.read_json(path, max_bytes=_MAX_CONFIG_BYTES)
    if not isinstance(value, dict):
        raise RefusedError(f"`{path}` is not an object")
    _require_same_base(directory, base_digest)
    wrong = [f"{key} = {value[key]!r}" for key, allowed in _ONLY.items() if value.get(key, allowed[0]) not in allowed]
    if wrong:
        raise RefusedError(f"`{path}` asks for what chatwright does not compute: {'; '.join(wrong)}")
    if not (directory / PEFT_WEIGHTS).is_file():
        raise RefusedError(f"`{directory}` has no `{PEFT_WEIGHTS}`", cause="only safetensors are read")
    with TensorFile(directory / PEFT_WEIGHTS) as file:
        adapter = _adapter(value, file, network, where=f"`{path}`")
        _fill(adapter, file)
    return adapter


def _require_same_base(directory: Path, base_digest: str | None) -> None:
    path = directory / f"{_DIGEST}.json"
    if base_digest is None or not path.is_file():
        return
    told = storage.read_json(path, max_bytes=_MAX_CONFIG_BYTES)
    if not isinstance(told, dict) or told.get("base") != base_digest:
        raise RefusedError(f"adapter `{directory}` was trained on another base model")


def _adapter(value: dict[str, Any], file: TensorFile, network: Network, *, where: str) -> Adapter:
    """An adapter over all layers of the names that the weights have; `target_modules` may be a pattern."""
    layers = {name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in file.entries}
    fields = {
        "rank": value.get("r"),
        "alpha": value.get("lora_alpha"),
        "dropout": value.get("lora_dropout", 0.0),
        "rank_stabilised": value.get("use_rslora", False),
        "magnitudes": value.get("use_dora", False),
        "targets": sorted({layer.rsplit(".", 1)[-1] for layer in layers}),
    }
    _require_rank(value.get("r"), file, where=where)
    if EMBEDDING in fields["targets"] and network.config.tied:
        raise RefusedError(
            f"{where} adapts an embedding that is the output projection too in this base, "
            "and PEFT adapts the input side alone",
            hint="merge it with PEFT into a model whose input and output are not tied, and import that",
        )
    try:
        return Adapter(network, configuration.validate(LoraConfig, fields, where=where))
    except ConfigError as error:
        raise RefusedError(f"{where} makes no sense here: {'; '.join(error.problems)}") from error
    except UsageError as error:
        raise RefusedError(f"{where} does not fit the base: {error.what}") from error


def _require_rank(rank: Any, file: TensorFile, *, where: str) -> None:
    """The rank that is told must be that of the weights, or it would decide how much memory is taken."""
    sides = (".lora_A.weight", ".lora_embedding_A")
    found = {entry.shape[0] for name, entry in file.entries.items() if name.endswith(sides) and entry.shape}
    if found and type(rank) is int and found != {rank}:
        raise RefusedError(f"{where} says `r = {rank}`, expected {sorted(found)[:4]}: so many rows have its weights")


def _fill(adapter: Adapter, file: TensorFile) -> None:
    """Copy the weights; layers that the file does not name keep an update of zero."""
    places: dict[str, torch.Tensor] = {}
    for name, update in adapter.named_updates():
        places[f"{_PREFIX}{name}.lora_A.weight"] = update.down.data
        places[f"{_PREFIX}{name}.lora_B.weight"] = update.up.data
        if update.magnitude is not None:
            places[f"{_PREFIX}{name}.lora_magnitude_vector"] = update.magnitude.data
    if adapter.embedding is not None:
        place = f"{_PREFIX}model.{EMBEDDING}"
        places[f"{place}.lora_embedding_A"] = adapter.embedding.up.data.T
        places[f"{place}.lora_embedding_B"] = adapter.embedding.down.data.T
    problems = [f"unknown `{name[:200]}`" for name in sorted(file.entries.keys() - places.keys())]
    for name, entry in file.entries.items():
        if name in places and (entry.shape != tuple(places[name].shape) or entry.dtype not in FLOATS):
            problems.append(f"`{name}` is {entry.dtype} of {entry.shape}, expected {tuple(places[name].shape)}")
    if problems:
        raise RefusedError(f"`{file.path}` does not fit the base: {'; '.join(problems[:8])}")
    for name in file.entries:
        values = torch.empty(tuple(places[name].shape))
        file.read_into(name, values)
        places[name].copy_(values)
