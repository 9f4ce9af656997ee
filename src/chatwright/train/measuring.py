"""Measuring the network between steps, so that training notices nothing of it.

What is measured comes in as a function (heldout.py, samples.py); when, and what follows, is the loop's affair.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import nn

from chatwright.foundation.console import say
from chatwright.train.heldout import heldout_loss
from chatwright.train.ranks import Ranks
from chatwright.train.sharding import let_go


class Measuring(NamedTuple):
    """A measurement with what it needs of a training; without one it gives no figures."""

    evaluate: Callable[[], dict[str, Any]] | None
    modules: tuple[nn.Module, ...]  # put into evaluation first; each step puts them back
    autocast: Callable[[], AbstractContextManager[Any]]
    is_sharded: bool

    def values(self) -> dict[str, Any]:
        """The figures of the parameters as they are."""
        if self.evaluate is None:
            return {}
        for module in self.modules:
            module.eval()
        let_go(*self.modules)  # else a pass would compute with what an earlier one gathered
        # Inference mode forbids what gathers shards.
        quiet = torch.no_grad() if self.is_sharded else torch.inference_mode()
        with self.autocast(), quiet:
            values: dict[str, Any] = _sound(self.evaluate())
        let_go(*self.modules)
        return values


def _sound(value: Any) -> Any:
    """Without numbers that are not finite: they compare with nothing, and no log can hold them."""
    if isinstance(value, dict):
        return {key: _sound(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_sound(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Agreed(NamedTuple):
    """What a measurement decides, alike on all ranks."""

    values: dict[str, Any]
    score: float | None  # held-out loss


def agreed(values: dict[str, Any], ranks: Ranks, device: torch.device) -> Agreed:
    """The first rank's verdict on all of them: unlike devices may measure unlike figures, and then end apart."""
    own = heldout_loss(values)
    score, finished = ranks.firsts([math.nan if own is None else own, float(bool(values.get("finished")))], device)
    if "finished" in values:
        values = values | {"finished": finished > 0}
    return Agreed(values, None if math.isnan(score) else score)


def tell(values: dict[str, Any], *, where: str) -> None:
    """A measurement's own line for the person, where it has one."""
    if "summary" in values:
        say(f"  {where}: {values['summary']}")
