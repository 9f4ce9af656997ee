"""The compiled kernels as matrices, and one step of the network for rows that read one token or many.

`products.c` and `step.c` compute; here their arguments are laid out. Their sums have one order whatever shares a step,
which carries the engine's promise of equal bits.
Legend: N rows, I inputs, O outputs, D width, R half a head's width.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from chatwright.model.engine.cores import kernel_threads
from chatwright.model.engine.matrices import Matrix, WeightFormat, rounded_to_int8
from chatwright.model.engine.memory import Row, RowMemory
from chatwright.model.engine.pages import Shelf

_PANEL = 64  # as in products.c
_GROUP = 64
_COLUMNS = 32  # as in rows.c
_LONGEST = 2048

_Pointer = ctypes.c_void_p
_Number = ctypes.c_int64


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("weights", _Pointer),
        ("scales", _Pointer),
        ("sums", _Pointer),
        ("bias", _Pointer),
        ("inputs", _Number),
        ("outputs", _Number),
    )


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _Pointer), ("bias", _Pointer))


class _Layer(ctypes.Structure):
    _fields_ = (
        ("before", _Norm),
        ("between", _Norm),
        ("heads_norm", _Pointer),
        ("into", _Matrix),
        ("out", _Matrix),
        ("gate", _Matrix),
        ("up", _Matrix),
        ("down", _Matrix),
        ("is_rotated", ctypes.c_int32),
        ("window", ctypes.c_int32),
    )


class _Shape(ctypes.Structure):
    _fields_ = (
        ("width", _Number),
        ("heads", _Number),
        ("key_heads", _Number),
        ("head_width", _Number),
        ("mlp_width", _Number),
        ("layers", _Number),
        ("epsilon", ctypes.c_float),
        ("layer", ctypes.POINTER(_Layer)),
        ("last", _Norm),
    )


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class NativeMatrix(Matrix):
    """A matrix that the compiled kernels multiply.

    In int8 a weight is a whole number of 8 bits with a scale for each output; activations are taken as whole numbers of
    14 bits with a scale for each 64 inputs, so that products of bytes lose next to nothing beside their rounding.

    Args:
        library: the compiled functions.
        weight_OI: copied.
        bias_O: None: none.
        as_format: of the copy.
        shelf: where a model's matrices stand together.
    """

    dtype = torch.float32

    def __init__(
        self,
        library: ctypes.CDLL,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        *,
        as_format: WeightFormat,
        shelf: Shelf | None = None,
    ):
        shelf = shelf or Shelf()
        self._library = library
        outputs, inputs = weight_OI.shape
        panels = -(-outputs // _PANEL)
        self._bias_O = None if bias_O is None else bias_O.float().contiguous()
        self._scale_O = self._sums = None
        sizes = _Number(outputs), _Number(inputs)
        if as_format == "int8":
            whole_OI, scale_O = rounded_to_int8(weight_OI)
            groups = -(-inputs // _GROUP)
            self._scale_O = torch.zeros(panels * _PANEL)
            self._scale_O[:outputs] = scale_O
            self._sums = torch.empty(panels * groups * _PANEL, dtype=torch.int32)
            self._packed = shelf.empty(panels * _PANEL * groups * _GROUP, torch.int8)
            library.pack_int8(_Pointer(_at(whole_OI)), *sizes, _Pointer(_at(self._packed)), _Pointer(_at(self._sums)))
        else:
            self._packed = shelf.empty(panels * _PANEL * inputs, torch.float32)
            library.pack_float32(_Pointer(_at(weight_OI.contiguous())), *sizes, _Pointer(_at(self._packed)))
        tensors = (self._packed, self._scale_O, self._sums, self._bias_O)
        self.described = _Matrix(*(_at(tensor) for tensor in tensors), inputs, outputs)

    def times(self, x_NI: Tensor) -> Tensor:
        """See `Matrix`."""
        x_NI = x_NI.contiguous()
        y_NO = torch.empty((len(x_NI), self.described.outputs))
        failed = self._library.times(
            ctypes.byref(self.described),
            _Pointer(x_NI.data_ptr()),
            _Number(len(x_NI)),
            _Pointer(y_NO.data_ptr()),
            kernel_threads(),
        )
        if failed:
            raise MemoryError("no memory for a product of the engine")
        return y_NO


class NativeLayer:
    """What the compiled step needs of one layer; keeps the tensors alive that it points to.

    Args:
        before: weight and bias of the norm of attention's input.
        between: of the norm of the MLP's input.
        heads_norm: weights of queries' and keys' norms; None: they are not normalised.
        matrices: by their names in the layer; without `gate` the MLP has GELU.
        is_rotated: whether positions turn queries and keys.
        window: tokens that are read; None: all.
    """

    def __init__(
        self,
        before: tuple[Tensor, Tensor | None],
        between: tuple[Tensor, Tensor | None],
        *,
        heads_norm: Tensor | None,
        matrices: dict[str, NativeMatrix],
        is_rotated: bool,
        window: int | None,
    ):
        self._alive = (before, between, heads_norm, matrices)
        self.described = _Layer(
            before=_Norm(*map(_at, before)),
            between=_Norm(*map(_at, between)),
            heads_norm=_at(heads_norm),
            is_rotated=is_rotated,
            window=window or 0,
            **{name: matrix.described for name, matrix in matrices.items()},
        )


class NativeStep:
    """Tokens of many rows, through all layers in one call.

    Args:
        library: the compiled functions.
        layers: in order.
        last: weight and bias of the last norm.
        sizes: width, heads, key_heads, head_width, mlp_width.
        epsilon: of all norms.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        layers: Sequence[NativeLayer],
        last: tuple[Tensor, Tensor | None],
        *,
        sizes: dict[str, int],
        epsilon: float,
    ):
        self._library = library
        self._alive = (layers, last)
        described = (_Layer * len(layers))(*(layer.described for layer in layers))
        self._shape = _Shape(layers=len(layers), epsilon=epsilon, layer=described, last=_Norm(*map(_at, last)), **sizes)
        self._places: tuple[RowMemory, list[Row], Tensor] | None = None

    def read(
        self, memory: RowMemory, places: Sequence[tuple[Row, int]], positions_N: Tensor, turns_NR: Tensor, x_ND: Tensor
    ) -> Tensor:
        """Read tokens into their rows.

        Args:
            memory: holds the rows.
            places: rows that are read into, each once, with how many tokens of those that follow are theirs.
            positions_N: of the tokens.
            turns_NR: cosine and sine of each pair's angle, as complex numbers.
            x_ND: embeddings; becomes the result.

        Returns:
            Normalised states, (N, D).
        """
        rows = [row for row, _ in places]
        counts = torch.tensor([count for _, count in places])
        rows_N = torch.arange(len(rows)).repeat_interleave(counts)
        failed = self._library.read_tokens(
            ctypes.byref(self._shape),
            _Pointer(self._places_of(memory, rows).data_ptr()),
            _Number(len(rows)),
            _Pointer(rows_N.data_ptr()),
            _Pointer(positions_N.data_ptr()),
            _Pointer(turns_NR.data_ptr()),
            _Pointer(x_ND.data_ptr()),
            _Number(len(x_ND)),
            int(len(x_ND) == len(rows)),
            kernel_threads(),
        )
        if failed:
            raise MemoryError("no memory for a step of the engine")
        return x_ND

    def _places_of(self, memory: RowMemory, rows: list[Row]) -> Tensor:
        """Where each row begins in each layer, and its capacity: the same from step to step, mostly."""
        if self._places is None or self._places[0] is not memory or self._places[1] != rows:
            table = []
            for number in range(memory.shape.layers):
                for row in rows:
                    held = memory.layer(row.slab, number)
                    table.append((held.data_ptr() + row.place * held.stride(0) * held.itemsize, held.shape[2]))
            self._places = (memory, rows, torch.tensor(table, dtype=torch.int64))
        return self._places[2]


def unit_rows(library: ctypes.CDLL, x_ND: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Each row divided by the root of its mean square, times a weight."""
    x_ND = x_ND.contiguous()
    y_ND = torch.empty_like(x_ND)
    sizes = _Number(len(x_ND)), _Number(x_ND.shape[1])
    library.unit_rows(
        _Pointer(_at(x_ND)), *sizes, _Pointer(_at(weight_D)), ctypes.c_float(epsilon), _Pointer(_at(y_ND))
    )
    return y_ND


def turn_heads(
    library: ctypes.CDLL, qkv: Tensor, count: int, *, weights: Tensor | None, epsilon: float, turns_BT1R: Tensor | None
) -> None:
    """Normalise and turn the first `count` heads of each position of contiguous rows, (B, T, heads, K), in place.

    Args:
        library: the compiled functions.
        qkv: contiguous; heads behind the first `count` stay as they are.
        count: of queries' and keys' heads.
        weights: (count, K), of the heads' norms; None: none.
        epsilon: of the norms.
        turns_BT1R: cosine and sine of each pair's angle, as complex numbers, the same for all rows; None: none.
    """
    assert qkv.is_contiguous(), "the kernel walks over memory"  # noqa: S101 - what we promise ourselves
    batch, time, heads, width = qkv.shape
    weights = None if weights is None else weights.contiguous()
    sizes = [_Number(number) for number in (batch * time, count, heads * width, width)]
    turns = _Pointer(_at(turns_BT1R))
    library.turn_heads(
        _Pointer(_at(qkv)), *sizes, _Pointer(_at(weights)), ctypes.c_float(epsilon), turns, _Number(time)
    )


def attends(head_width: int, time: int) -> bool:
    """Whether `attend` is for these: its rows of scores should stay in a cache."""
    return head_width % _COLUMNS == 0 and time <= _LONGEST


def attend(library: ctypes.CDLL, qkv: Tensor, *, heads: int, window: int | None) -> Tensor:
    """Causal attention of whole rows, (B, T, heads, K).

    Args:
        library: the compiled functions.
        qkv: contiguous, (B, T, heads + 2 key heads, K): queries, keys, values.
        heads: of the queries.
        window: positions that are read, the reader's own too; None: all before.
    """
    assert qkv.is_contiguous(), "the kernel walks over memory"  # noqa: S101 - what we promise ourselves
    batch, time, total, width = qkv.shape
    y_BTHK = torch.empty((batch, time, heads, width))
    sizes = (_Number(number) for number in (batch, time, heads, (total - heads) // 2, width, window or 0))
    if library.attend(_Pointer(_at(qkv)), *sizes, _Pointer(_at(y_BTHK))):
        raise MemoryError("no memory for attention")
    return y_BTHK


def log_sums(library: ctypes.CDLL, scores_NV: Tensor) -> Tensor:
    """The logarithm of the sum of each row's exponentials, (N,)."""
    scores_NV = scores_NV.contiguous()
    found_N = torch.empty(len(scores_NV))
    sizes = _Number(len(scores_NV)), _Number(scores_NV.shape[1])
    library.log_sums(_Pointer(_at(scores_NV)), *sizes, _Pointer(_at(found_N)))
    return found_N
