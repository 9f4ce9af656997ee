"""What the network writes while it learns: a few words after fixed beginnings, the likeliest token each time.

Nothing is drawn, so the training's random streams stay as they are. Each token reads the whole text again, without a
cache: a sample is a few dozen tokens, and a network in shards can write it too.
"""

from collections.abc import Sequence
from typing import Any

import torch

from chatwright.model.network import Network
from chatwright.tokens.tokenizer import Tokenizer


class Samples:
    """Continuations of prompts, taken at each measurement.

    Args:
        network: writes.
        tokenizer: of the network.
        prompts: beginnings.
        tokens: of a continuation, at most.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer, prompts: Sequence[str], *, tokens: int = 40):
        self._network = network
        self._tokenizer = tokenizer
        self._prompts = list(prompts)
        self._tokens = tokens

    def __call__(self) -> dict[str, Any]:
        """Each prompt with what follows it."""
        return {"samples": [{"prompt": prompt, "text": self._continued(prompt)} for prompt in self._prompts]}

    def _continued(self, prompt: str) -> str:
        end, length = self._tokenizer.end_of_text, self._network.config.context_length
        device = self._network.lm_head.weight.device
        ids = [self._tokenizer.begin_of_text, *self._tokenizer.encode(prompt)]
        begin = len(ids)
        for _ in range(self._tokens):
            ids_BT = torch.tensor([ids[-length:]], device=device)
            hidden_BTD = self._network.hidden(ids_BT)
            following = int(self._network.lm_head(hidden_BTD[:, -1]).argmax())
            if following == end:
                break
            ids.append(following)
        return self._tokenizer.decode(ids[begin:])
