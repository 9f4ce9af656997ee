"""Saved adapters read again: on exactly the base that they were trained on, or not at all."""

from pathlib import Path
from typing import Any

import torch

from chatwright.foundation import config as configuration
from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.attachment import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FORMAT, VERSION, Attachment
from chatwright.model.bottleneck import BottleneckConfig, Bottlenecks
from chatwright.model.network import Network
from chatwright.model.tensors import TensorFile

_MAX_CONFIG_BYTES = 1 << 20


def read_record(directory: Path) -> dict[str, Any]:
    """What a saved adapter says of itself; its files are held against their digests first.

    Raises:
        RefusedError: it is damaged, or none of ours.
    """
    storage.verify(directory)
    facts = storage.read_json(directory / ADAPTER_CONFIG, max_bytes=_MAX_CONFIG_BYTES)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or facts.get("version") != VERSION:
        raise RefusedError(f"`{directory}` is no adapter that this version reads")
    return facts


def load_adapter(directory: Path, network: Network, *, base_digest: str) -> Attachment:
    """Read an adapter for exactly this base.

    Raises:
        RefusedError: it was trained on another base, or is damaged.
    """
    facts = read_record(directory)
    if facts.get("base") != base_digest:
        raise RefusedError(
            f"adapter `{directory}` was trained on another base model",
            hint="use the base model named in its lineage, or fine-tune again",
        )
    try:
        with torch.device("meta"):  # its shapes are known before any memory is taken
            adapter = _made(facts, network, where=f"`{directory / ADAPTER_CONFIG}`")
        with TensorFile(directory / ADAPTER_WEIGHTS) as file:
            _read(adapter, file)
    except (UsageError, RuntimeError, OSError, KeyError, TypeError, ValueError) as error:
        raise RefusedError(f"adapter `{directory}` does not fit its base: {error}", hint="fine-tune again") from error
    return adapter


def _read(adapter: Attachment, file: TensorFile) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    found = {name: entry.shape for name, entry in file.entries.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(f"its tensors are not those of its record: {', '.join(differing[:4])[:200]}")
    adapter.to_empty(device="cpu")
    for name, tensor in adapter.state_dict().items():
        file.read_into(name, tensor)


def _made(facts: dict[str, Any], network: Network, *, where: str) -> Attachment:
    tokens = tuple(int(token) for token in facts["trained_tokens"])
    kind = facts.get("kind", Adapter.kind)  # the first ones were all low-rank and did not say so
    if kind == Adapter.kind:
        lora = configuration.validate(LoraConfig, facts["lora"], where=where)
        return Adapter(network, lora, trained_tokens=tokens)
    if kind == Bottlenecks.kind:
        bottleneck = configuration.validate(BottleneckConfig, facts["bottleneck"], where=where)
        return Bottlenecks(network, bottleneck, trained_tokens=tokens)
    raise ValueError(f"its kind is not known here: {str(kind)[:40]!r}")
