"""One model over many devices: parameters, gradients and optimizer state in shards (PyTorch's FSDP2, `fully_shard`).

`parallel = "ddp"` keeps all of it on every device; `"fsdp"` shards it over all (Zhao et al. 2023; ZeRO stage 3 of
Rajbhandari et al. 2020); `"hsdp"` shards it within each machine and replicates between machines, where links are slow.
Checkpoints hold whole tensors, so that a run goes on with any number of ranks. Nothing here needs a GPU.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chatwright.foundation.devices import Placement, ranks_of_machine
from chatwright.foundation.errors import UsageError
from chatwright.model.network import Network
from chatwright.train.ranks import Ranks

ParallelName = Literal["ddp", "fsdp", "hsdp"]


def shard(
    network: Network,
    *,
    parallel: ParallelName,
    placement: Placement,
    ranks: Ranks,
    values: Iterable[tuple[str, Tensor]] | None = None,
) -> None:
    """Give each rank its shard of every parameter, in place and on its device.

    Args:
        network: with its weights, or without memory; then `values` are its weights.
        parallel: over which ranks.
        placement: of this rank.
        ranks: all of them.
        values: whole tensors by name. Only one is held at a time, so that no rank ever holds the whole network.

    Raises:
        UsageError: the ranks cannot be divided so.
    """
    if not dist.is_initialized():  # one process: a group of its own, so that one path serves any number
        backend = "nccl" if placement.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    with ranks.losses_told():
        mesh = _mesh(parallel, placement.device.type, ranks)
    ranks.limit(mesh.get_all_groups())
    shard_over(network, mesh, precision=placement.autocast_dtype)
    if values is None:
        network.to(placement.device)  # what belongs to no block
    else:
        network.take_memory(placement.device)
        fill(network, values)


def shard_over(network: Network, mesh: Any, *, precision: torch.dtype | None) -> None:
    """Divide the rows of every parameter over a mesh of ranks: a block is gathered when it computes, then let go.

    Args:
        network: changed in place; call `hidden` or `forward` as before.
        mesh: the ranks; over its last dimension is sharded, over the one before replicated.
        precision: the type in which parameters are gathered, None for their own. Gradients are summed in float32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in network.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(network, "hidden")


def _mesh(parallel: ParallelName, kind: str, ranks: Ranks) -> Any:
    """The ranks in a line, or machines by ranks of a machine, for `fully_shard` to shard over the last."""
    from torch.distributed.device_mesh import init_device_mesh

    if parallel == "fsdp":
        return init_device_mesh(kind, (ranks.size,), mesh_dim_names=("shard",))
    per_machine = ranks_of_machine()
    if ranks.size % per_machine or ranks.size == per_machine:
        raise UsageError(
            f'`parallel = "hsdp"` needs several machines with as many ranks each: {ranks.size} ranks, '
            f"{per_machine} on this machine",
            hint='on one machine set `parallel = "fsdp"`',
        )
    return init_device_mesh(kind, (ranks.size // per_machine, per_machine), mesh_dim_names=("replicate", "shard"))


def let_go(*modules: nn.Module) -> None:
    """Each rank holds its shards alone again; what is not in shards stays as it is.

    A forward pass that no backward pass follows leaves what belongs to no block gathered (FSDP2 keeps its root for
    the backward pass): its parameters are then copies, in the type that is computed in, which no update reaches.
    """
    for module in (inner for outer in modules for inner in outer.modules()):
        if hasattr(module, "reshard"):
            cast(Any, module).reshard()


def named_parts(network: nn.Module) -> dict[str, Tensor]:
    """The parameters by name, as this rank holds them for good: never a copy that a pass has gathered."""
    let_go(network)
    return dict(network.named_parameters())


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only a part of it."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of it: a view."""
    return cast(Any, tensor).to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, gathered from the ranks that hold its parts; all of them must call this together."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def in_main_memory(tensors: Mapping[str, Tensor], *, is_kept: bool) -> dict[str, Tensor]:
    """Whole copies where they are kept; shards are gathered one by one, by all ranks together."""
    gathered = ((name, whole(tensor.detach())) for name, tensor in tensors.items())
    return {name: tensor.to("cpu", copy=True) for name, tensor in gathered if is_kept}


def part_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor as this parameter is sharded; every rank has it whole, nothing is sent."""
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    given = tensor.to(local(parameter).device)
    layout: Any = parameter
    return distribute_tensor(given, layout.device_mesh, layout.placements, src_data_rank=None)


@torch.no_grad()
def fill(module: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Give parameters whole values by name, in place; of a shard each rank keeps its part, and nothing is sent."""
    named = named_parts(module)
    for name, value in values:
        named[name].copy_(part_like(named[name], value))
        del value  # before the next one is made


def joined_like(parameter: Tensor, part: Tensor) -> Tensor:
    """This rank's part of something that is sharded as the parameter is, as a sharded tensor."""
    if not is_sharded(parameter):
        return part
    from torch.distributed.tensor import DTensor

    layout: Any = parameter
    return DTensor.from_local(
        part, layout.device_mesh, layout.placements, shape=parameter.shape, stride=parameter.stride()
    )


def shard_group(parameter: Tensor) -> Any:
    """The ranks that hold the parts of this parameter."""
    layout: Any = parameter
    dimension = next(index for index, placed in enumerate(layout.placements) if placed.is_shard())
    return layout.device_mesh.get_group(dimension)


def whole_network(network: Network, *, is_first: bool) -> Network | None:
    """The network with all its weights in main memory, on the first rank; all ranks must call this together."""
    plain = Network.without_values(network.config, "cpu") if is_first else None
    places = {} if plain is None else dict(plain.named_parameters())
    with Ranks().losses_told(), torch.no_grad():
        for name, parameter in named_parts(network).items():
            value = whole(parameter.detach())
            if name in places:
                places[name].copy_(value)
    return plain
