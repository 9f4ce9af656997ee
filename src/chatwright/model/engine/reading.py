"""Whole rows read at once without memory of them: the forward pass of scoring, on the engine's packed matrices.

Not for writing text, which `Runner.read` does with a memory, nor for training: weights are copied when it is made.
Legend: B rows, T positions, N = B * T, D width, H query heads, G key heads, K head width, R = K / 2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from chatwright.model.engine.compiling import kernels
from chatwright.model.engine.matrices import has_onednn
from chatwright.model.engine.native import attend, attends, log_sums, turn_heads, unit_rows
from chatwright.model.engine.runner import Layer, Norm, Runner, pairs_of, unit
from chatwright.model.network import Network, within_window


def suits(network: Network) -> bool:
    """Whether reading goes faster this way: float32 on a CPU whose PyTorch has the packed products."""
    weight = network.lm_head.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and has_onednn()


class Reader(Runner):
    """A network's weights laid out for reading. The numbers are the network's own to float32's rounding."""

    def __init__(self, network: Network):
        super().__init__(network, compiles=False)  # the engine's own products are for few rows, oneDNN's for thousands
        self._rows = kernels()

    @torch.inference_mode()
    def hidden(self, ids_BT: Tensor) -> Tensor:
        """The normalised state at each position, causal within each row, (B, T, D)."""
        batch, time = ids_BT.shape
        x_ND = F.embedding(ids_BT.flatten(), self._embedding_VD)
        if self._positions_SD is not None:
            x_ND = x_ND + self._positions_SD[:time].repeat(batch, 1)
        turns_BT1R = self._turns_SR[:time].unsqueeze(1).unsqueeze(0)
        for layer in self._layers:
            joined = layer.into.times(self._norm(x_ND, layer.before))
            y_ND = self._attended(joined.view(batch, time, -1, self._config.head_width), layer, turns_BT1R)
            x_ND = layer.out.times_onto(y_ND, x_ND)
            x_ND = layer.down.times_onto(self._inner(self._norm(x_ND, layer.between), layer), x_ND)
        return self._norm(x_ND, self._last_norm).view(batch, time, -1)

    def _attended(self, qkv: Tensor, layer: Layer, turns_BT1R: Tensor) -> Tensor:
        """What each position reads, (N, H * K); `qkv` is changed in place."""
        config = self._config
        heads, split = config.heads, config.heads + config.key_heads
        self._turn(qkv, split, layer, turns_BT1R)
        window = config.sliding_window if layer.is_sliding else None
        if self._rows is not None and attends(config.head_width, qkv.shape[1]):
            return attend(self._rows, qkv, heads=heads, window=window).view(-1, heads * config.head_width)
        q_BHTK, k_BGTK, v_BGTK = (
            part.transpose(1, 2) for part in (qkv[:, :, :heads], qkv[:, :, heads:split], qkv[:, :, split:])
        )
        time, mask = qkv.shape[1], None
        if window is not None:
            mask = within_window(None, torch.arange(time)[None], slots=time, window=window)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK,
            k_BGTK,
            v_BGTK,
            attn_mask=mask,
            is_causal=mask is None and time > 1,
            enable_gqa=heads != config.key_heads,
        )
        return y_BHTK.transpose(1, 2).reshape(len(qkv) * time, -1)

    def _turn(self, qkv: Tensor, count: int, layer: Layer, turns_BT1R: Tensor) -> None:
        """Normalise and turn the first heads of each position, in place."""
        if self._rows is not None:
            turn_heads(
                self._rows,
                qkv,
                count,
                weights=layer.heads_norm,
                epsilon=self._config.norm_epsilon,
                turns_BT1R=turns_BT1R if layer.is_rotated else None,
            )
            return
        turned = qk = qkv[:, :, :count]
        if layer.heads_norm is not None:
            qk = unit(qk, self._epsilon).mul_(layer.heads_norm)
        if layer.is_rotated:
            torch.mul(pairs_of(qk), turns_BT1R, out=pairs_of(turned))
        elif qk is not turned:
            turned.copy_(qk)

    def _norm(self, x_ND: Tensor, norm: Norm) -> Tensor:
        if self._rows is None or norm.bias is not None:
            return super()._norm(x_ND, norm)
        return unit_rows(self._rows, x_ND, norm.weight, self._config.norm_epsilon)

    @torch.inference_mode()
    def logprobs(self, states_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """The natural logarithm of each target's probability, (N,), and the scores that it comes from, (N, V)."""
        scores_NV = self.scores(states_ND)
        if self._rows is None:
            return -F.cross_entropy(scores_NV, targets_N, reduction="none"), scores_NV
        wanted_N = scores_NV.gather(1, targets_N.unsqueeze(1)).squeeze(1)
        return wanted_N.sub_(log_sums(self._rows, scores_NV)), scores_NV
