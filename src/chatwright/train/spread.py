"""Orthogonalising matrices whose rows lie on several ranks: each matrix is made whole on one owner, then given back.

Newton-Schulz needs whole matrices. Gathering each on every rank would repeat the arithmetic on all; here the matrices
of one shape are shared out, so that arithmetic and memory fall with the number of ranks (the distribution of Jordan et
al. 2024, modded-nanogpt, which owns parameters whole; ours begin and end as FSDP's shards of rows).
Legend: N matrices, R rows, C columns, S rows of a rank, M matrices of an owner.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def orthogonalised_across(
    part_NSC: Tensor, *, rows: int, group: Any, orthogonalise: Callable[[Tensor], Tensor]
) -> Tensor:
    """This rank's rows of the orthogonalised matrices.

    Args:
        part_NSC: this rank's rows of every matrix; all ranks hold the same matrices.
        rows: of a whole matrix.
        group: the ranks among which rows are divided as `torch.chunk` does, in their order.
        orthogonalise: of whole matrices, (M, R, C).
    """
    number, own_rows, columns = part_NSC.shape
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    owned = [number * (owner + 1) // size - number * owner // size for owner in range(size)]
    heights = chunk_heights(rows, size)
    here = [owned[rank] * height * columns for height in heights]
    there = [count * own_rows * columns for count in owned]
    received = _exchanged(part_NSC.flatten(), send=there, receive=here, group=group)
    pieces = torch.split(received, here)
    whole_MRC = torch.cat(
        [piece.view(owned[rank], height, columns) for piece, height in zip(pieces, heights, strict=True)], dim=1
    )
    if owned[rank]:
        whole_MRC = orthogonalise(whole_MRC)
    back = torch.cat([piece_MSC.flatten() for piece_MSC in torch.split(whole_MRC, heights, dim=1)])
    return _exchanged(back, send=here, receive=there, group=group).view(number, own_rows, columns)


def chunk_heights(rows: int, size: int) -> list[int]:
    """Rows of each rank, as `torch.chunk` divides them: the last may have fewer, or none."""
    height = -(-rows // size)
    return [max(0, min(height, rows - rank * height)) for rank in range(size)]


def _exchanged(values: Tensor, *, send: list[int], receive: list[int], group: Any) -> Tensor:
    result = values.new_empty(sum(receive))
    dist.all_to_all_single(result, values, output_split_sizes=receive, input_split_sizes=send, group=group)
    return result
