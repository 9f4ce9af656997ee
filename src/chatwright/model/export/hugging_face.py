"""What transformers makes of a directory of ours, where it is installed: the same numbers and the same ids."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch

from chatwright.foundation.errors import RefusedError
from chatwright.model.export.hard_texts import hard_texts
from chatwright.model.network import Network
from chatwright.tokens.tokenizer import Tokenizer

_IDS = 32  # read through both


class HubCheck(NamedTuple):
    """What was compared."""

    version: str  # of transformers
    logit_difference: float  # the largest
    texts: int  # whose ids were equal


def check_with_transformers(
    directory: Path, network: Network, tokenizer: Tokenizer, *, tolerance: float
) -> HubCheck | None:
    """Open a directory with transformers and compare; None where transformers is not installed.

    Raises:
        RefusedError: logits differ by more than `tolerance`, or a text has other ids.
    """
    if importlib.util.find_spec("transformers") is None:
        return None
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    time = min(_IDS, network.config.context_length)
    ids = torch.arange(time)[None] * 7 % network.config.vocabulary_size
    with torch.inference_mode():
        difference = float((model(ids).logits - network(ids)).abs().max())
    if difference > tolerance:
        raise RefusedError(f"transformers {transformers.__version__} computes other logits: {difference:.2g} apart")
    # Unlike ours, theirs reads the text of a special token as that token; such texts are not compared.
    special = [token.content for token in theirs.added_tokens_decoder.values()]
    texts = [text for text in hard_texts(300) if not any(token in text for token in special)]
    for text in texts:
        if theirs(text, add_special_tokens=False)["input_ids"] != tokenizer.encode(text):
            raise RefusedError(f"transformers {transformers.__version__} reads {text!r} as other ids")
    return HubCheck(transformers.__version__, difference, len(texts))
