"""Keys and values of what a sequence has read, so that each new token costs one position, not all of them.

Rows of a batch may have different lengths: each row writes at its own next slot, and reads no slot beyond it.
Legend: B batch, T new positions, S slots, G key heads, K head width.
"""

import torch
from torch import Tensor

from chatwright.model.config import ModelConfig


class LayerCache:
    """One layer's slots, written through the network-wide lengths."""

    def __init__(self, keys_BGSK: Tensor, values_BGSK: Tensor, owner: "NetworkCache"):
        self._keys_BGSK = keys_BGSK
        self._values_BGSK = values_BGSK
        self._owner = owner

    def append(self, k_BGTK: Tensor, v_BGTK: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store new keys and values; returns all that may be read, and the mask of who reads what.

        The mask is None where no row needs one: a single row, or equal lengths, with one new position.
        """
        owner, time = self._owner, k_BGTK.shape[2]
        end = owner.longest + time
        if owner.is_even:
            self._keys_BGSK[:, :, owner.longest : end] = k_BGTK
            self._values_BGSK[:, :, owner.longest : end] = v_BGTK
        else:
            slots_BT = owner.lengths_B.unsqueeze(1) + torch.arange(time, device=k_BGTK.device)
            index = slots_BT[:, None, :, None].expand_as(k_BGTK)
            self._keys_BGSK.scatter_(2, index, k_BGTK.to(self._keys_BGSK.dtype))
            self._values_BGSK.scatter_(2, index, v_BGTK.to(self._values_BGSK.dtype))
        return self._keys_BGSK[:, :, :end], self._values_BGSK[:, :, :end], owner.mask(time)


class NetworkCache:
    """Slots of all layers for a batch of rows.

    Args:
        config: the network's shape.
        batch: rows.
        capacity: slots per row; the longest row plus what it will generate.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        shape = (batch, config.key_heads, capacity, config.head_width)
        # One buffer a layer: a single stacked tensor makes every write a strided copy.
        self._layers = [
            LayerCache(
                torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype), self
            )
            for _ in range(config.layers)
        ]
        self.lengths_B = torch.zeros(batch, dtype=torch.long, device=device)
        self.longest = 0
        self.is_even = True
        self._mask: Tensor | None = None
        self._mask_time = -1

    def layer(self, number: int) -> LayerCache:
        """The slots of one layer."""
        return self._layers[number]

    def advance(self, time: int) -> None:
        """Count `time` new positions on every row."""
        self.lengths_B = self.lengths_B + time
        self.longest += time
        self._mask_time = -1

    def set_lengths(self, lengths_B: Tensor) -> None:
        """After reading rows padded at their right: the true lengths, so that padding is overwritten and never read."""
        self.lengths_B = lengths_B.clone()
        self.longest = int(lengths_B.max())
        self.is_even = bool((lengths_B == lengths_B[0]).all())
        self._mask_time = -1

    def mask(self, time: int) -> Tensor | None:
        """True where a new position may read a slot: (B or 1, 1, T, S). The same for all layers of a step."""
        if self.is_even and (time == 1 or self.longest == 0):
            return None  # one new position reads every slot; from an empty cache plain causality says it all
        if self._mask_time != time:
            slots_S = torch.arange(self.longest + time, device=self.lengths_B.device)
            last_BT = self.lengths_B.unsqueeze(1) + torch.arange(time, device=self.lengths_B.device)
            self._mask = (slots_S <= last_BT.unsqueeze(-1)).unsqueeze(1)
            self._mask_time = time
        return self._mask
