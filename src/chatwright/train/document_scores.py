"""How hard each document of a split is, for a curriculum: from the token shards, or by a smaller model's loss.

Not for the text scores themselves, which cleaning computes (data/scores.py). Higher is harder throughout.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import RefusedError
from chatwright.model.directory import load_model
from chatwright.tokens.shards import TokenSplit
from chatwright.tokens.tokenizer import Tokenizer
from chatwright.train.curriculum import CurriculumConfig
from chatwright.train.heldout import document_losses

LOSSES = "document_losses.json"
# Which way each stored score points: reading ease and compression are high where text is easy.
_STORED = {
    "compression": ("compression", -1),
    "flesch": ("flesch", -1),
    "mtld": ("mtld", 1),
    "length": ("characters", 1),
}
_AT_ONCE = 4096  # documents whose beginnings are in memory together


def document_scores(
    split: TokenSplit, config: CurriculumConfig, *, tokenizer: Tokenizer, directory: Path, device: torch.device
) -> NDArray[np.float64]:
    """One score for each document of the split, in stored order.

    Args:
        split: the training tokens.
        config: which score.
        tokenizer: that the tokens were made with.
        directory: where a model's losses are kept, so that a run that goes on has the same ones.
        device: on which the scorer reads.

    Raises:
        RefusedError: the shards hold no scores, or the scorer reads other tokens.
    """
    if config.scorer is None:
        name, sign = _STORED[config.score]
        return sign * split.scores(name)
    path = directory / LOSSES
    if not path.is_file():
        losses = _losses(split, config, tokenizer, device)
        with storage.publish_file(path) as scratch:
            storage.write_json(scratch, losses)
    return np.array(storage.read_json(path, max_bytes=1 << 32), dtype=np.float64)


def _losses(split: TokenSplit, config: CurriculumConfig, tokenizer: Tokenizer, device: torch.device) -> list[float]:
    """Nats per token of each document's beginning; 0 for a document without tokens.

    Per token, not per byte, since how many bytes the beginning has is not known; tokens of one tokenizer compare.
    """
    assert config.scorer is not None, "checked by the configuration"  # noqa: S101
    scorer = load_model(Path(config.scorer))
    if scorer.tokenizer.digest != tokenizer.digest:
        raise RefusedError(
            f"the scorer `{config.scorer}` reads other tokens than the run's",
            hint="take a smaller model that was pretrained on these token shards",
        )
    say(f"  scoring documents by {scorer.network.config.num_parameters():,} parameters")
    network = scorer.network.to(device).eval()
    beginnings = (document._replace(ids=document.ids[: config.scorer_tokens]) for document in split.documents())
    found: list[float] = []
    while group := list(itertools.islice(beginnings, _AT_ONCE)):
        length = network.config.context_length
        losses = document_losses(network, group, begin=tokenizer.begin_of_text, stride=length)
        found += [round(loss.nats / max(1, loss.tokens), 5) for loss in losses]
    return found
