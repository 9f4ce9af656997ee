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
from chatwright.model.network import Block, Mlp, Network


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


class Masks(NamedTuple):
    """Who may read which slot: zero or minus infinity, to be added to scores."""

    whole: Tensor  # in layers that read everything before
    near: Tensor | None  # in layers that read no further back than the window


class Run(NamedTuple):
    """Rows side by side in one slab that read one token each."""

    slab: int
    places: slice
    tokens: slice  # of the step
    slots: int  # read: whole blocks
    last: int  # position of the furthest token
    masks: "Masks"  # (C, 1, 1, S)


class Tile(NamedTuple):
    """A block's worth of a stretch: at most BLOCK tokens that read all slots up to their block's end."""

    row: Row
    start: int
    tokens: slice
    masks: "Masks"  # (Q * BLOCK, S)


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
class Norm:
    """The weights of a normalisation."""

    weight: Tensor
    bias: Tensor | None  # of a layer normalisation; without one it is by root mean square


@dataclass(frozen=True)
class Layer:
    """A block's weights as the runner multiplies them."""

    before: Norm  # of attention's input
    into: Matrix  # queries, keys and values at once, each head's pairs side by side
    heads_norm: Tensor | None  # (H + G, K)
    out: Matrix
    between: Norm  # of the MLP's input
    gate: Matrix | None  # None: no gate but GELU, in the family of GPT-2
    up: Matrix
    down: Matrix
    is_rotated: bool
    is_sliding: bool


class Runner:
    """A network's weights laid out for inference.

    Args:
        network: its matrices are copied.
        weights: the number format of the matrices.
    """

    def __init__(self, network: Network, *, weights: WeightFormat = "float32"):
        config = self._config = network.config
        self._embedding_VD = network.model.embed_tokens.weight.detach()
        device = self._embedding_VD.device
        self._order_K = torch.arange(config.head_width, device=device).view(2, -1).t().reshape(-1)
        self._layers = [self._layer(cast(Block, block), n, weights) for n, block in enumerate(network.model.layers)]
        self._positions_SD = network.model.embed_positions.weight.detach() if config.is_gpt2 else None
        self._epsilon = torch.tensor(config.norm_epsilon, device=device)
        self._last_norm = _norm_of(network.model.norm)
        self._head = hold(network.lm_head.weight, network.lm_head.bias, as_format=weights)
        positions = torch.arange(config.context_length, device=device)
        angles = network._rotary(positions.unsqueeze(0), torch.float32)
        self._turns_SR = torch.complex(angles.cosine_BTR[0], angles.sine_BTR[0])
        is_narrow = self._head.dtype != torch.float32 and many_rows_dtype() == torch.bfloat16
        dtype = torch.bfloat16 if is_narrow else torch.float32
        self.shape = Shape(config.layers, config.key_heads, config.head_width, dtype, device)

    def _layer(self, block: Block, number: int, weights: WeightFormat) -> Layer:
        config, attention, mlp = self._config, block.self_attn, block.mlp
        into, bias = _joined((attention.q_proj, attention.k_proj, attention.v_proj), order=self._order_K)
        heads_norm = None
        if config.qk_norm:
            norms = (attention.q_norm.weight[self._order_K], attention.k_norm.weight[self._order_K])
            counts = (config.heads, config.key_heads)
            heads_norm = torch.cat([n.expand(count, -1) for n, count in zip(norms, counts, strict=True)]).detach()

        def held(linear: nn.Linear) -> Matrix:
            return hold(linear.weight, linear.bias, as_format=weights)

        return Layer(
            before=_norm_of(block.input_layernorm),
            into=hold(into, bias, as_format=weights),
            heads_norm=heads_norm,
            out=held(attention.o_proj),
            between=_norm_of(block.post_attention_layernorm),
            gate=held(mlp.gate_proj) if isinstance(mlp, Mlp) else None,
            up=held(mlp.up_proj),
            down=held(mlp.down_proj),
            is_rotated=not config.is_gpt2 and number not in config.unrotated_layers,
            is_sliding=number in config.sliding_layers,
        )

    @torch.inference_mode()
    def read(self, memory: RowMemory, singles: Sequence[NextToken], stretches: Sequence[Stretch]) -> Tensor:
        """Read tokens into their rows; returns each one's normalised state, (N, D).

        Args:
            memory: holds the rows.
            singles: sorted by row.
            stretches: their states stand behind those of the singles, in order.
        """
        config = self._config
        queries = config.heads // config.key_heads
        step = plan(singles, stretches, memory=memory, queries=queries, window=config.sliding_window)
        x_ND = F.embedding(step.ids_N, self._embedding_VD)
        if self._positions_SD is not None:
            x_ND = x_ND + F.embedding(step.positions_N, self._positions_SD)
        turns_N1R = self._turns_SR[step.positions_N].unsqueeze(1)
        for number, layer in enumerate(self._layers):
            normed_ND = self._norm(x_ND, layer.before).to(layer.into.dtype)
            q_NHK = self._queries(layer.into.times(normed_ND), layer, number, turns_N1R, step)
            x_ND = layer.out.times_onto(self._attend(q_NHK, layer, number, step).to(layer.out.dtype), x_ND)
            normed_ND = self._norm(x_ND, layer.between).to(layer.up.dtype)
            x_ND = layer.down.times_onto(self._inner(normed_ND, layer), x_ND)
        return self._norm(x_ND, self._last_norm)

    @torch.inference_mode()
    def scores(self, states_ND: Tensor) -> Tensor:
        """Scores of each next token, (N, V), in float32."""
        return self._head.times(states_ND.to(self._head.dtype)).float()

    def _norm(self, x_ND: Tensor, norm: Norm) -> Tensor:
        if norm.bias is None:
            return unit(x_ND, self._epsilon).mul_(norm.weight)
        return F.layer_norm(x_ND, (self._config.width,), norm.weight, norm.bias, self._config.norm_epsilon)

    def _inner(self, normed_ND: Tensor, layer: Layer) -> Tensor:
        """The MLP up to its inner width."""
        if layer.gate is None:
            return F.gelu(layer.up.times(normed_ND), approximate="tanh")
        return layer.up.times_into(normed_ND, layer.gate.swish_times(normed_ND))

    def _queries(self, joined: Tensor, layer: Layer, number: int, turns_N1R: Tensor, step: Step) -> Tensor:
        """Normalise and turn queries and keys, store keys and values, and give the queries: (N, H, K)."""
        config = self._config
        split = config.heads + config.key_heads
        qkv = joined.view(len(joined), split + config.key_heads, config.head_width).float()
        turned = qk = qkv[:, :split]
        if layer.heads_norm is not None:
            qk = unit(qk, self._epsilon).mul_(layer.heads_norm)
        if layer.is_rotated:
            torch.mul(pairs_of(qk), turns_N1R, out=pairs_of(turned))
        elif qk is not turned:
            turned.copy_(qk)
        qkv = qkv.to(self.shape.dtype)
        _store(qkv[:, config.heads :], number, step)
        return qkv[:, : config.heads]

    def _attend(self, q_NHK: Tensor, layer: Layer, number: int, step: Step) -> Tensor:
        """What each token reads, (N, H * K)."""
        q_NGQK = q_NHK.view(len(q_NHK), self._config.key_heads, -1, self._config.head_width)
        held = step.memory.layer
        parts = []
        for run in step.runs:
            mask = _mask(run.masks, layer)
            parts.append(self._read_run(q_NGQK[run.tokens], held(run.slab, number), run, mask))
        for tile in step.tiles:
            mask = _mask(tile.masks, layer)
            parts.append(self._read_tile(q_NGQK[tile.tokens], held(tile.row.slab, number), tile, mask))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _read_run(self, q_CGQK: Tensor, memory_CGSK: Tensor, run: Run, mask_C11S: Tensor) -> Tensor:
        """Queries of one key head stand where `scaled_dot_product_attention` has time: keys are read once for all."""
        heads = self._config.key_heads
        kv = memory_CGSK[run.places, :, : run.slots]
        y_CGQK = F.scaled_dot_product_attention(q_CGQK, kv[:, :heads], kv[:, heads:], attn_mask=mask_C11S)
        return y_CGQK.reshape(len(q_CGQK), -1)

    def _read_tile(self, q_TGQK: Tensor, memory_CGSK: Tensor, tile: Tile, mask_MS: Tensor) -> Tensor:
        """Always a whole block of queries, the missing ones zero."""
        heads, count = self._config.key_heads, len(q_TGQK)
        q_TGQK = F.pad(q_TGQK, (0, 0, 0, 0, 0, 0, 0, BLOCK - count))
        q_GMK = q_TGQK.permute(1, 2, 0, 3).reshape(heads, -1, q_TGQK.shape[-1])  # M = Q * BLOCK
        kv = memory_CGSK[tile.row.place, :, : tile.start + BLOCK]
        y_GMK = F.scaled_dot_product_attention(q_GMK[None], kv[None, :heads], kv[None, heads:], attn_mask=mask_MS)
        y_TGQK = y_GMK.view(heads, -1, BLOCK, y_GMK.shape[-1]).permute(2, 0, 1, 3)
        return y_TGQK[:count].reshape(count, -1)


def unit(x_K: Tensor, epsilon: Tensor) -> Tensor:
    """Divided by the root of the mean square: what `F.rms_norm` computes in more than twice as many calls."""
    norm_1 = torch.linalg.vector_norm(x_K, dim=-1, keepdim=True)
    return x_K * torch.addcmul(epsilon, norm_1, norm_1, value=1 / x_K.shape[-1]).rsqrt_()


def _norm_of(norm: nn.Module) -> Norm:
    parameters = dict(norm.named_parameters())
    bias = parameters.get("bias")
    return Norm(parameters["weight"].detach(), None if bias is None else bias.detach())


def _mask(masks: Masks, layer: Layer) -> Tensor:
    return masks.near if layer.is_sliding and masks.near is not None else masks.whole


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


def pairs_of(x_NGK: Tensor) -> Tensor:
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


def plan(
    singles: Sequence[NextToken],
    stretches: Sequence[Stretch],
    *,
    memory: RowMemory,
    queries: int,
    window: int | None,
) -> Step:
    """The step's index tensors, made once for all layers.

    Args:
        singles: sorted by row.
        stretches: in any order.
        memory: holds their rows.
        queries: heads that share a key head.
        window: tokens that sliding layers read, the reader itself too.
    """
    device = memory.shape.device
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
            readers_M = torch.arange(start, start + BLOCK, device=device).repeat(queries)
            tiles.append(Tile(stretch.row, start, tokens, _masks(readers_M, start + BLOCK, window, memory.shape)))
    positions_N = torch.tensor(positions, device=device)
    places = torch.tensor([single.row.place for single in singles], device=device)
    runs = _runs(singles, positions_N, window, memory.shape)
    singles_index = (places, positions_N[: len(singles)])
    return Step(torch.tensor(ids, device=device), positions_N, singles_index, runs, tiles, placed, memory)


def _runs(singles: Sequence[NextToken], positions_N: Tensor, window: int | None, shape: Shape) -> list[Run]:
    runs: list[Run] = []
    begin = 0
    for end in range(1, len(singles) + 1):
        last = singles[end - 1].row
        if end < len(singles) and singles[end].row == Row(last.slab, last.place + 1):
            continue
        first = singles[begin].row
        furthest = max(single.position for single in singles[begin:end])
        slots = (furthest // BLOCK + 1) * BLOCK
        whole, near = _masks(positions_N[begin:end], slots, window, shape)
        masks = Masks(whole[:, None, None], None if near is None else near[:, None, None])
        runs.append(Run(first.slab, slice(first.place, last.place + 1), slice(begin, end), slots, furthest, masks))
        begin = end
    return runs


def _masks(readers_M: Tensor, slots: int, window: int | None, shape: Shape) -> Masks:
    """(M, S) for readers at these positions: minus infinity at slots that they must not read."""
    slots_S = torch.arange(slots, device=shape.device)
    readers_M1 = readers_M.unsqueeze(1)
    nothing = torch.zeros((len(readers_M), slots), dtype=shape.dtype, device=shape.device)
    behind_MS = slots_S > readers_M1
    whole = nothing.masked_fill(behind_MS, -torch.inf)
    if window is None:
        return Masks(whole, None)
    return Masks(whole, nothing.masked_fill_(behind_MS | (slots_S <= readers_M1 - window), -torch.inf))
