"""One step of the network over many texts: some read a stretch of their prompt, the others one token each.

All tokens of a step go through each matrix together; attention goes row by row of memory. Every shape that a sum's
order depends on is a function of the token's position alone, so a text's numbers are the same bits alone and among
others (float32 on the CPU, wherever `PackedMatrix` holds its own promise).
Legend: N tokens of the step, D width, H query heads, G key heads, Q = H / G, K head width, R = K / 2, S slots, C rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatwright.model.engine.matrices import Matrix, WeightFormat, hold, many_rows_dtype
from chatwright.model.engine.memory import BLOCK, Row, RowMemory, Shape
from chatwright.model.network import Block, Network


class Stretch(NamedTuple):
    """Tokens that a row reads next; the first stands at `start`, a multiple of the block."""

    row: Row
    start: int
    ids: Sequence[int]


class NextToken(NamedTuple):
    """The one token that a row reads next."""

    row: Row
    position: int
    id: int


class Run(NamedTuple):
    """Rows side by side in one slab that read one token each."""

    slab: int
    places: slice
    tokens: slice  # of the step
    slots: int  # read: whole blocks
    last: int  # position of the furthest token
    mask_C11S: Tensor  # noqa: N815 - the shape suffix of this file's legend


class Tile(NamedTuple):
    """A block's worth of a stretch: at most BLOCK tokens that read all slots up to their block's end."""

    row: Row
    start: int
    tokens: slice
    mask_QBS: Tensor  # noqa: N815


@dataclass(frozen=True)
class Step:
    """What one pass computes: single tokens first, then stretches, in the order of their tokens."""

    ids_N: Tensor  # noqa: N815
    positions_N: Tensor  # noqa: N815
    singles: tuple[Tensor, Tensor]  # slots' and rows' index for writing single tokens
    runs: list[Run]
    tiles: list[Tile]
    stretches: list[tuple[Stretch, slice]]
    memory: RowMemory


@dataclass(frozen=True)
class Layer:
    """A block's weights as the runner multiplies them."""

    before: Tensor  # norm of attention's input
    into: Matrix  # queries, keys and values at once, each head's pairs side by side
    heads_norm: Tensor | None  # (H + G, K)
    out: Matrix
    between: Tensor  # norm of the MLP's input
    gate: Matrix
    up: Matrix
    down: Matrix


class Runner:
    """A network's weights laid out for inference.

    Args:
        network: of a family with RMSNorm, rotary positions and SwiGLU; its parameters are copied.
        weights: the number format of the matrices.
    """

    def __init__(self, network: Network, *, weights: WeightFormat = "float32"):
        config = self._config = network.config
        self._embedding_VD = network.model.embed_tokens.weight.detach()
        device = self._embedding_VD.device
        self._order_K = torch.arange(config.head_width, device=device).view(2, -1).t().reshape(-1)
        self._layers = [self._layer(cast(Block, block), weights) for block in network.model.layers]
        self._last_norm_D = network.model.norm.weight.detach()
        self._head = hold(network.lm_head.weight, network.lm_head.bias, as_format=weights)
        positions = torch.arange(config.context_length, device=device)
        angles = network._rotary(positions.unsqueeze(0), torch.float32)
        self._turns_SR = torch.complex(angles.cosine_BTR[0], angles.sine_BTR[0])
        is_narrow = self._head.dtype != torch.float32 and many_rows_dtype() == torch.bfloat16
        dtype = torch.bfloat16 if is_narrow else torch.float32
        self.shape = Shape(config.layers, config.key_heads, config.head_width, dtype, device)

    def _layer(self, block: Block, weights: WeightFormat) -> Layer:
        attention, mlp = block.self_attn, block.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        joined, bias = _joined(projections, order=self._order_K)
        heads_norm = None
        if self._config.qk_norm:
            norms = (attention.q_norm.weight[self._order_K], attention.k_norm.weight[self._order_K])
            counts = (self._config.heads, self._config.key_heads)
            heads_norm = torch.cat([n.expand(count, -1) for n, count in zip(norms, counts, strict=True)]).detach()
        return Layer(
            before=block.input_layernorm.weight.detach(),
            into=hold(joined, bias, as_format=weights),
            heads_norm=heads_norm,
            out=hold(attention.o_proj.weight, attention.o_proj.bias, as_format=weights),
            between=block.post_attention_layernorm.weight.detach(),
            gate=hold(mlp.gate_proj.weight, mlp.gate_proj.bias, as_format=weights),
            up=hold(mlp.up_proj.weight, mlp.up_proj.bias, as_format=weights),
            down=hold(mlp.down_proj.weight, mlp.down_proj.bias, as_format=weights),
        )

    @torch.inference_mode()
    def read(self, memory: RowMemory, singles: Sequence[NextToken], stretches: Sequence[Stretch]) -> Tensor:
        """Read tokens into their rows; returns each one's normalised state, (N, D).

        Args:
            memory: holds the rows.
            singles: sorted by row.
            stretches: their states stand behind those of the singles, in order.
        """
        step = plan(singles, stretches, memory=memory, queries=self._config.heads // self._config.key_heads)
        x_ND = F.embedding(step.ids_N, self._embedding_VD)
        turns_N1R = self._turns_SR[step.positions_N].unsqueeze(1)
        for number, layer in enumerate(self._layers):
            normed_ND = self._norm(x_ND, layer.before).to(layer.into.dtype)
            q_NHK = self._queries(layer.into.times(normed_ND), layer, number, turns_N1R, step)
            x_ND = layer.out.times_onto(self._attend(q_NHK, number, step).to(layer.out.dtype), x_ND)
            normed_ND = self._norm(x_ND, layer.between).to(layer.gate.dtype)
            gated = layer.up.times_into(normed_ND, layer.gate.swish_times(normed_ND))
            x_ND = layer.down.times_onto(gated, x_ND)
        return self._norm(x_ND, self._last_norm_D)

    @torch.inference_mode()
    def scores(self, states_ND: Tensor) -> Tensor:
        """Scores of each next token, (N, V), in float32."""
        return self._head.times(states_ND.to(self._head.dtype)).float()

    def _norm(self, x_ND: Tensor, weight_D: Tensor) -> Tensor:
        return F.rms_norm(x_ND, (self._config.width,), weight_D, self._config.norm_epsilon)

    def _queries(self, joined: Tensor, layer: Layer, number: int, turns_N1R: Tensor, step: Step) -> Tensor:
        """Normalise and turn queries and keys, store keys and values, and give the queries: (N, H, K)."""
        config = self._config
        split = config.heads + config.key_heads
        qkv = joined.view(len(joined), split + config.key_heads, config.head_width).float()
        turned = qk = qkv[:, :split]
        if layer.heads_norm is not None:
            qk = F.rms_norm(qk, (config.head_width,), None, config.norm_epsilon).mul_(layer.heads_norm)
        torch.mul(_pairs(qk), turns_N1R, out=_pairs(turned))
        qkv = qkv.to(self.shape.dtype)
        _store(qkv[:, config.heads :], number, step)
        return qkv[:, : config.heads]

    def _attend(self, q_NHK: Tensor, number: int, step: Step) -> Tensor:
        """What each token reads, (N, H * K)."""
        q_NGQK = q_NHK.view(len(q_NHK), self._config.key_heads, -1, self._config.head_width)
        layer = step.memory.layer
        parts = [self._read_run(q_NGQK[run.tokens], layer(run.slab, number), run) for run in step.runs]
        parts += [self._read_tile(q_NGQK[tile.tokens], layer(tile.row.slab, number), tile) for tile in step.tiles]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _read_run(self, q_CGQK: Tensor, memory_CGSK: Tensor, run: Run) -> Tensor:
        """Queries of one key head stand where `scaled_dot_product_attention` has time: keys are read once for all."""
        heads = self._config.key_heads
        kv = memory_CGSK[run.places, :, : run.slots]
        y_CGQK = F.scaled_dot_product_attention(q_CGQK, kv[:, :heads], kv[:, heads:], attn_mask=run.mask_C11S)
        return y_CGQK.reshape(len(q_CGQK), -1)

    def _read_tile(self, q_TGQK: Tensor, memory_CGSK: Tensor, tile: Tile) -> Tensor:
        """Always a whole block of queries, the missing ones zero."""
        heads, count = self._config.key_heads, len(q_TGQK)
        q_TGQK = F.pad(q_TGQK, (0, 0, 0, 0, 0, 0, 0, BLOCK - count))
        q_GMK = q_TGQK.permute(1, 2, 0, 3).reshape(heads, -1, q_TGQK.shape[-1])  # M = Q * BLOCK
        kv = memory_CGSK[tile.row.place, :, : tile.start + BLOCK]
        mask_MS = tile.mask_QBS.flatten(0, 1)
        y_GMK = F.scaled_dot_product_attention(q_GMK[None], kv[None, :heads], kv[None, heads:], attn_mask=mask_MS)
        y_TGQK = y_GMK.view(heads, -1, BLOCK, y_GMK.shape[-1]).permute(2, 0, 1, 3)
        return y_TGQK[:count].reshape(count, -1)


def _store(kv_NGK: Tensor, number: int, step: Step) -> None:
    """Write keys and values of the step's tokens into their rows."""
    places, slots = step.singles
    for run in step.runs:
        target, tokens = step.memory.layer(run.slab, number), run.tokens
        if tokens.stop - tokens.start == 1:
            target[run.places.start, :, run.last] = kv_NGK[tokens.start]
        else:
            heads = torch.arange(kv_NGK.shape[1], device=kv_NGK.device)
            target[places[tokens].unsqueeze(1), heads, slots[tokens].unsqueeze(1)] = kv_NGK[tokens]
    for stretch, tokens in step.stretches:
        target = step.memory.layer(stretch.row.slab, number)
        end = stretch.start + len(stretch.ids)
        target[stretch.row.place, :, stretch.start : end] = kv_NGK[tokens].transpose(0, 1)


def _pairs(x_NGK: Tensor) -> Tensor:
    """Neighbours as complex numbers, (N, G, R), in the same memory."""
    return torch.view_as_complex(x_NGK.view(*x_NGK.shape[:-1], -1, 2))


def _joined(projections: Sequence[nn.Linear], *, order: Tensor) -> tuple[Tensor, Tensor | None]:
    """Queries', keys' and values' weights in one; in queries and keys the pairs that turn together become neighbours.

    Both are reordered alike, so their products are what they were, and a turn is one product of complex numbers.
    """
    width = len(order)

    def ordered(parameter: Tensor, *, turns: bool) -> Tensor:
        heads = parameter.detach().view(-1, width, *parameter.shape[1:])
        return (heads[:, order] if turns else heads).flatten(0, 1)

    is_turned = (True, True, False)
    pairs = list(zip(projections, is_turned, strict=True))
    joined = torch.cat([ordered(projection.weight, turns=turns) for projection, turns in pairs])
    biases = [ordered(p.bias, turns=turns) for p, turns in pairs if p.bias is not None]
    return joined, torch.cat(biases) if biases else None


def plan(singles: Sequence[NextToken], stretches: Sequence[Stretch], *, memory: RowMemory, queries: int) -> Step:
    """The step's index tensors, made once for all layers."""
    shape = memory.shape
    ids = [single.id for single in singles]
    positions = [single.position for single in singles]
    tiles: list[Tile] = []
    placed: list[tuple[Stretch, slice]] = []
    for stretch in stretches:
        begin = len(ids)
        ids += stretch.ids
        positions += range(stretch.start, stretch.start + len(stretch.ids))
        placed.append((stretch, slice(begin, len(ids))))
        for offset in range(0, len(stretch.ids), BLOCK):
            tokens = slice(begin + offset, min(begin + offset + BLOCK, len(ids)))
            start = stretch.start + offset
            tiles.append(Tile(stretch.row, start, tokens, _tile_mask(start, queries, shape)))
    device = shape.device
    positions_N = torch.tensor(positions, device=device)
    places = torch.tensor([single.row.place for single in singles], device=device)
    return Step(
        torch.tensor(ids, device=device),
        positions_N,
        (places, positions_N[: len(singles)]),
        _runs(singles, positions_N, shape),
        tiles,
        placed,
        memory,
    )


def _runs(singles: Sequence[NextToken], positions_N: Tensor, shape: Shape) -> list[Run]:
    runs: list[Run] = []
    begin = 0
    for end in range(1, len(singles) + 1):
        last = singles[end - 1].row
        if end < len(singles) and singles[end].row == Row(last.slab, last.place + 1):
            continue
        first = singles[begin].row
        furthest = max(single.position for single in singles[begin:end])
        slots = (furthest // BLOCK + 1) * BLOCK
        beyond_CS = torch.arange(slots, device=shape.device) > positions_N[begin:end].unsqueeze(1)
        mask_CS = torch.zeros(beyond_CS.shape, dtype=shape.dtype, device=shape.device)
        mask_C11S = mask_CS.masked_fill_(beyond_CS, -torch.inf)[:, None, None]
        places, tokens = slice(first.place, last.place + 1), slice(begin, end)
        runs.append(Run(first.slab, places, tokens, slots, furthest, mask_C11S))
        begin = end
    return runs


def _tile_mask(start: int, queries: int, shape: Shape) -> Tensor:
    """(Q, BLOCK, S): minus infinity where a slot lies behind the reader."""
    slots_S = torch.arange(start + BLOCK, device=shape.device)
    readers_B1 = torch.arange(start, start + BLOCK, device=shape.device).unsqueeze(1)
    mask_BS = torch.zeros((BLOCK, start + BLOCK), dtype=shape.dtype, device=shape.device)
    return mask_BS.masked_fill_(slots_S > readers_B1, -torch.inf).expand(queries, -1, -1)
