"""Fine-tuning some of a network's own parameters: the last layers, biases, embeddings and norms, or a pattern.

Nothing is added to the network, so the result is a model like any other. Low-rank updates are adapter.py's.
"""

import re

from torch import nn

from chatwright.foundation.errors import UsageError
from chatwright.model.network import Network

# What `method` may say beside "lora" and "all".
SELECTIONS = r"last-[1-9][0-9]{0,3}|biases|embeddings-and-norms|pattern:.{1,500}"
_PATTERNS = {"biases": r"\.bias$", "embeddings-and-norms": r"embed_|norm|lm_head"}


class Selected(nn.Module):
    """Some parameters of a network under the names that they have there."""

    def __init__(self, parameters: dict[str, nn.Parameter]):
        super().__init__()
        for name, parameter in parameters.items():
            *folders, leaf = name.split(".")
            place: nn.Module = self
            for folder in folders:
                if folder not in place._modules:
                    place.add_module(folder, nn.Module())
                place = place.get_submodule(folder)
            place.register_parameter(leaf, parameter)


def select(network: Network, method: str) -> Selected:
    """Freeze a network but for what `method` names.

    Args:
        network: its parameters' `requires_grad` is set.
        method: "last-N" (layers, and the norm after them), "biases", "embeddings-and-norms", or "pattern:" and a
            regular expression that is searched in each parameter's name.

    Raises:
        UsageError: nothing in this network is named so.
    """
    named = dict(network.named_parameters())
    expression = _expression(network, method)
    chosen = {name: parameter for name, parameter in named.items() if expression.search(name)}
    if not chosen:
        raise UsageError(
            f"`{method}` names no parameter of this network (family `{network.config.family}`)",
            hint=f"names are like {', '.join(list(named)[:3])}",
        )
    network.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return Selected(chosen)


def _expression(network: Network, method: str) -> re.Pattern[str]:
    if method.startswith("last-"):
        count, layers = int(method.removeprefix("last-")), network.config.layers
        if count > layers:
            raise UsageError(f"`{method}` asks for more layers than the network has: {layers}")
        numbers = "|".join(str(number) for number in range(layers - count, layers))
        return re.compile(rf"^model\.(layers\.({numbers})|norm)\.")
    try:
        return re.compile(_PATTERNS.get(method) or method.removeprefix("pattern:"))
    except re.error as error:
        raise UsageError(f"`{method}` is not a regular expression: {error}") from None
