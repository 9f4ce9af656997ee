"""One step of the network over many texts: some read a stretch of their prompt, the others one token each.

All tokens of a step go through each matrix together; attention goes row by row of memory. Every shape that a sum's
order depends on is a function of the token's position alone, so a text's numbers are the same bits alone and among
others (float32 on the CPU, wherever `PackedMatrix` holds its own promise).
Legend: N tokens of the step, D width, H query heads, G key heads, Q = H / G, K head width, R = K / 2, S slots, C rows.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatwright.model.attachment import require_plain
from chatwright.model.engine.compiling import kernels
from chatwright.model.engine.cores import for_kernels
from chatwright.model.engine.graphs import RecordedSteps
from chatwright.model.engine.matrices import Matrix, WeightFormat, hold, many_rows_dtype
from chatwright.model.engine.memory import BLOCK, RowMemory, Shape
from chatwright.model.engine.native import NativeLayer, NativeMatrix, NativeStep
from chatwright.model.engine.pages import Shelf
from chatwright.model.engine.planning import Masks, NextToken, Run, Step, Stretch, Tile, plan, whole_slab
from chatwright.model.network import Block, Mlp, Network


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
        compiles: whether kernels may be compiled for this machine's CPU, or steps recorded on its GPU; without it
            each operation is called as PyTorch has it.
        frees: whether each parameter is given up once it is copied, so that the network is not held twice; it can
            compute nothing any more then.

    Raises:
        ValueError: an adapter computes beside the network's own weights, which alone are copied.
    """

    def __init__(
        self, network: Network, *, weights: WeightFormat = "float32", compiles: bool = True, frees: bool = False
    ):
        require_plain(network)
        config = self._config = network.config
        self._embedding_VD = network.model.embed_tokens.weight.detach()
        device = self._embedding_VD.device
        may_compile = compiles and device.type == "cpu" and self._embedding_VD.dtype == torch.float32
        self._kernels = kernels() if may_compile else None
        self._shelf = Shelf()
        self._order_K = torch.arange(config.head_width, device=device).view(2, -1).t().reshape(-1)
        self._layers = []
        for number, block in enumerate(network.model.layers):
            self._layers.append(self._layer(cast(Block, block), number, weights))
            if frees:
                _give_up(block)
        self._positions_SD = network.model.embed_positions.weight.detach() if config.is_gpt2 else None
        self._epsilon = torch.tensor(config.norm_epsilon, device=device)
        self._last_norm = _norm_of(network.model.norm)
        self._head = self._hold(network.lm_head.weight, network.lm_head.bias, weights)
        if frees:
            _give_up(network)
        positions = torch.arange(config.context_length, device=device)
        angles = network._rotary(positions.unsqueeze(0), torch.float32)
        self._turns_SR = torch.complex(angles.cosine_BTR[0], angles.sine_BTR[0])
        is_narrow = self._head.dtype != torch.float32 and many_rows_dtype() == torch.bfloat16
        dtype = torch.bfloat16 if is_narrow else torch.float32
        self.shape = Shape(config.layers, config.key_heads, config.head_width, dtype, device)
        self._step = self._compiled_step()
        is_recorded = compiles and device.type == "cuda"
        self._recorded = RecordedSteps(self.read_slab, context_length=config.context_length) if is_recorded else None

    @property
    def is_compiled(self) -> bool:
        """Whether kernels compiled for this machine do the work."""
        return self._step is not None

    def at_work(self) -> AbstractContextManager[None]:
        """Around many steps: while it lasts the machine's cores are the kernels' where there are any."""
        return for_kernels() if self.is_compiled else nullcontext()

    def _hold(self, weight_OI: Tensor, bias_O: Tensor | None, weights: WeightFormat) -> Matrix:
        if self._kernels is None:
            return hold(weight_OI, bias_O, as_format=weights)
        bias_O = None if bias_O is None else bias_O.detach()
        return NativeMatrix(self._kernels, weight_OI.detach(), bias_O, as_format=weights, shelf=self._shelf)

    def _compiled_step(self) -> NativeStep | None:
        config = self._config
        if self._kernels is None:
            return None
        layers = []
        for layer in self._layers:
            held = {name: getattr(layer, name) for name in ("into", "out", "gate", "up", "down")}
            window = config.sliding_window if layer.is_sliding else None
            layers.append(
                NativeLayer(
                    (layer.before.weight, layer.before.bias),
                    (layer.between.weight, layer.between.bias),
                    heads_norm=layer.heads_norm,
                    matrices={name: matrix for name, matrix in held.items() if isinstance(matrix, NativeMatrix)},
                    is_rotated=layer.is_rotated,
                    window=window,
                )
            )
        names = ("width", "heads", "key_heads", "head_width", "mlp_width")
        sizes = {name: getattr(config, name) for name in names}
        last = (self._last_norm.weight, self._last_norm.bias)
        return NativeStep(self._kernels, layers, last, sizes=sizes, epsilon=config.norm_epsilon)

    def _layer(self, block: Block, number: int, weights: WeightFormat) -> Layer:
        config, attention, mlp = self._config, block.self_attn, block.mlp
        into, bias = _joined((attention.q_proj, attention.k_proj, attention.v_proj), order=self._order_K)
        heads_norm = None
        if config.qk_norm:
            norms = (attention.q_norm.weight[self._order_K], attention.k_norm.weight[self._order_K])
            counts = (config.heads, config.key_heads)
            heads_norm = torch.cat([n.expand(count, -1) for n, count in zip(norms, counts, strict=True)]).detach()

        def held(linear: nn.Linear) -> Matrix:
            return self._hold(linear.weight, linear.bias, weights)

        return Layer(
            before=_norm_of(block.input_layernorm),
            into=self._hold(into, bias, weights),
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
        if self._step is not None:
            return self._read_compiled(self._step, memory, singles, stretches)
        if self._recorded is None or not singles:
            return self._read_all(memory, singles, stretches)
        states_ND = self._recorded.read(memory, singles)
        return torch.cat([states_ND, self._read_all(memory, (), stretches)]) if stretches else states_ND

    def _read_compiled(
        self, step: NativeStep, memory: RowMemory, singles: Sequence[NextToken], stretches: Sequence[Stretch]
    ) -> Tensor:
        """All of it in one call."""
        ids = [single.id for single in singles]
        positions = [single.position for single in singles]
        for stretch in stretches:
            ids += stretch.ids
            positions += range(stretch.start, stretch.start + len(stretch.ids))
        places = [(single.row, 1) for single in singles] + [(stretch.row, len(stretch.ids)) for stretch in stretches]
        positions_N = torch.tensor(positions)
        x_ND = F.embedding(torch.tensor(ids), self._embedding_VD)
        if self._positions_SD is not None:
            x_ND = x_ND + F.embedding(positions_N, self._positions_SD)
        return step.read(memory, places, positions_N, self._turns_SR[positions_N], x_ND)

    def _read_all(self, memory: RowMemory, singles: Sequence[NextToken], stretches: Sequence[Stretch]) -> Tensor:
        """Whatever reads, through each matrix together."""
        config = self._config
        queries = config.heads // config.key_heads
        return self._through_layers(
            plan(singles, stretches, memory=memory, queries=queries, window=config.sliding_window)
        )

    def read_slab(self, memory: RowMemory, slab: int, inputs_2C: Tensor, slots: int) -> Tensor:
        """One token in every row of a slab: what `RecordedSteps` records.

        Args:
            memory: holds the slab.
            slab: its number.
            inputs_2C: ids and positions.
            slots: that are read; no position that matters lies behind.
        """
        window = self._config.sliding_window
        return self._through_layers(
            whole_slab(slab, inputs_2C[0], inputs_2C[1], slots=slots, memory=memory, window=window)
        )

    def _through_layers(self, step: Step) -> Tensor:
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
            return layer.up.gelu_times(normed_ND)
        return layer.up.gated_times(normed_ND, layer.gate)

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


def _give_up(module: nn.Module) -> None:
    """Let go of parameters; what the runner goes on reading, such as norms and embeddings, it holds itself."""
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)


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
        if tokens.stop - tokens.start == 1 and run.last is not None:
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
