"""What a model lost on the documents of its pretraining: bits per byte before and after, by domain."""

from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.model.network import Network
from chatwright.tokens.shards import TokenData
from chatwright.train.heldout import by_domain, document_losses, sample_documents

BEFORE = "before.json"


def heldout_bits(network: Network, data: TokenData | None, *, begin: int, tokens_per_domain: int) -> dict[str, Any]:
    """Bits per byte by domain on held-out documents, or nothing where there are none."""
    if data is None:
        return {}
    sample = sample_documents(data.split("heldout"), tokens_per_domain=tokens_per_domain)
    if not sample:
        return {}
    network.eval()
    losses = document_losses(network, sample, begin=begin, stride=network.config.context_length)
    return {name: values["bits_per_byte"] for name, values in by_domain(losses).items()}


def kept(path: Path, measure: Any) -> dict[str, Any]:
    """A measurement that is taken once, even if the stage is killed and goes on."""
    if not path.is_file():
        with storage.publish_file(path) as scratch:
            storage.write_json(scratch, measure())
    value: dict[str, Any] = storage.read_json(path)
    return value


def forgotten(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Bits per byte lost by domain; positive means forgotten."""
    return {name: round(after[name] - value, 5) for name, value in before.items()}
