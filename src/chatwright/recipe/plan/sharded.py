"""What a training holds and sends on each of many devices, counted by running its own code on tensors without memory.

The group is PyTorch's fake one, which exchanges nothing, and tensors have shapes only (`FakeTensorMode`); sharding,
objective and optimizer are those of the training. So what is counted is what the code does, not what a formula says
of it. Two small depths are run, the rest is linear in the layers. Not counted: the CUDA context, fragments of the
allocator, and speed.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from chatwright.foundation.devices import autocast_dtype
from chatwright.foundation.errors import UsageError
from chatwright.foundation.memory import bytes_of
from chatwright.model.config import ModelConfig
from chatwright.model.directory import read_config
from chatwright.model.network import Network
from chatwright.recipe.plan.accelerators import ACCELERATORS, FREE_SHARE, Accelerator, Fleet, fleet_of
from chatwright.recipe.plan.cost import MEMORY_SHARE, Memory
from chatwright.recipe.plan.shapes import shape_of
from chatwright.recipe.recipe import load_recipe
from chatwright.train.batches import MicroBatch
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import Optimizer, OptimizerConfig
from chatwright.train.sharding import ParallelName, local, shard_over

_FLOAT = 4
_NAMES = {
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "alltoall_base_": "all_to_all",
    "allreduce_": "all_reduce",
}

_LLAMA_70B = {"width": 8192, "layers": 80, "heads": 64, "key_heads": 8, "head_width": 128, "mlp_width": 28_672}
_SIZES = {
    "124m": shape_of(768, 12, vocabulary_size=50_304, context_length=1024),
    "1b": shape_of(2048, 18, vocabulary_size=65_536, context_length=2048),
    "7b": shape_of(4096, 32, vocabulary_size=128_256, context_length=4096),
    "70b": ModelConfig(**_LLAMA_70B, vocabulary_size=128_256, context_length=4096, tied=False),  # type: ignore[arg-type]
}


class Shape(NamedTuple):
    """A training on many devices."""

    model: ModelConfig
    num_ranks: int
    per_machine: int
    parallel: ParallelName
    micro_rows: int  # at once, on each device
    num_micro: int  # micro-batches of a step, on each device
    precision: str
    recompute: bool


class Sharding(NamedTuple):
    """What one device holds whole, and with weights, gradients and moments in shards over all of them."""

    replicated_bytes: int
    sharded_bytes: int
    advice: str


class PerRank(NamedTuple):
    """Bytes on one device, and bytes that it sends in a step, by what they are for."""

    weights: int
    gradients: int
    moments: int
    activations: int
    gathered: int  # the whole parameters of two blocks, and of embedding and projection, while they compute
    scores: int
    sent: dict[str, int]
    messages: int  # of a step

    @property
    def memory(self) -> int:
        """At the peak of a step."""
        return self.weights + self.gradients + self.moments + self.activations + self.gathered + self.scores


def count(shape: Shape) -> PerRank:
    """Memory and traffic of one rank.

    Raises:
        RuntimeError: this process is a rank of a real training already.
    """
    if dist.is_initialized():
        raise RuntimeError("a plan cannot be counted within a training of several processes")
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=shape.num_ranks)
    try:
        two, three = (_run(shape, layers) for layers in (2, 3))
    finally:
        dist.destroy_process_group()
    return _extended(two, three, shape.model.layers - 2)


def _extended(two: PerRank, three: PerRank, more: int) -> PerRank:
    """What `more` further layers make of it: each adds as much as the third did."""

    def line(name: str) -> int:
        begin = getattr(two, name)
        return int(begin + more * (getattr(three, name) - begin))

    sent = {kind: two.sent[kind] + more * (three.sent[kind] - two.sent[kind]) for kind in two.sent}
    numbers = {name: line(name) for name in PerRank._fields if name != "sent"}
    return PerRank(sent=sent, **numbers)


def _run(shape: Shape, layers: int) -> PerRank:
    """One step of so many layers on rank 0."""
    mesh = _mesh(shape)
    low = autocast_dtype(shape.precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = Network(shape.model.model_copy(update={"layers": layers}))
        network.recompute_blocks(is_on=shape.recompute)
        network.train()
        if shape.parallel != "ddp":
            shard_over(network, mesh, precision=low)
        optimizer = Optimizer(list(network.named_parameters()), OptimizerConfig())
        ids_BT = torch.zeros(shape.micro_rows, shape.model.context_length, dtype=torch.long)
        traffic = _Traffic(shape)
        with traffic:
            kept = _backward(network, MicroBatch(ids_BT, ids_BT, ids_BT.numel()), low)
            passing = traffic.taken()
            _update(optimizer, shape)
        per_step = {kind: shape.num_micro * passing.sent[kind] + traffic.sent[kind] for kind in _NAMES.values()}
        held = [local(parameter) for parameter in network.parameters()]
        return PerRank(
            weights=bytes_of(held),
            gradients=bytes_of(held),
            moments=bytes_of(local(tensor) for tensor in optimizer.tensors().values()),
            activations=kept,
            gathered=_gathered(network, shape, low),
            scores=_score_bytes(shape),
            sent=per_step,
            messages=shape.num_micro * passing.messages + traffic.messages,
        )


def _mesh(shape: Shape) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    if shape.parallel == "hsdp":
        machines = shape.num_ranks // shape.per_machine
        return init_device_mesh("cpu", (machines, shape.per_machine), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh("cpu", (shape.num_ranks,), mesh_dim_names=("shard",))


def _backward(network: Network, batch: MicroBatch, low: torch.dtype | None) -> int:
    """Forward and backward; gives the bytes that autograd kept between them, parameters left out."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=low or torch.bfloat16, enabled=low is not None):
        loss = next_token(network, batch)
    parameters = {local(parameter).untyped_storage()._cdata for parameter in network.parameters()}
    shapes = {tuple(parameter.shape) for parameter in network.parameters()}
    # Gathered parameters are saved as what they are, or transposed; they are counted by themselves.
    size = sum(
        tensor.untyped_storage().nbytes()
        for key, tensor in kept.items()
        if key not in parameters and tuple(tensor.shape) not in shapes and tuple(tensor.shape[::-1]) not in shapes
    )
    loss.backward()  # type: ignore[no-untyped-call]
    return size


def _update(optimizer: Optimizer, shape: Shape) -> None:
    """What follows the last backward pass: with whole replicas the gradients' sum, then the optimizer."""
    if shape.parallel == "ddp":
        dist.all_reduce(torch.cat([parameter.grad.flatten() for parameter in optimizer.parameters]))  # type: ignore[union-attr]
    nn.utils.clip_grad_norm_(optimizer.parameters, 1.0)
    optimizer.step(1.0)


def _gathered(network: Network, shape: Shape, low: torch.dtype | None) -> int:
    """Whole parameters at once: the block that computes, the one that is fetched, and what belongs to no block."""
    if shape.parallel == "ddp":
        return 0
    width = _FLOAT if low is None else low.itemsize
    block = sum(parameter.numel() for parameter in network.model.layers[0].parameters())
    others = sum(parameter.numel() for parameter in network.parameters()) - len(network.model.layers) * block
    return int(width * (2 * block + others) + _FLOAT * block)  # and a block's gradient before it is reduced


def _score_bytes(shape: Shape) -> int:
    """Around the loss: scores, their exponentials and gradient, for the positions taken at once."""
    from chatwright.train.scores import _GPU_SCORES

    held = min(shape.micro_rows * shape.model.context_length * shape.model.vocabulary_size, _GPU_SCORES)
    return 3 * _FLOAT * held


class _Taken(NamedTuple):
    """What was exchanged in a part of the step."""

    sent: Counter[str]
    messages: int


class _Traffic(TorchDispatchMode):
    """Counts exchanges: bytes that one rank sends, as rings and direct exchanges send them."""

    def __init__(self, shape: Shape):
        super().__init__()  # type: ignore[no-untyped-call]
        is_split = shape.parallel == "hsdp"
        self._sharers = shape.per_machine if is_split else shape.num_ranks
        self._replicas = shape.num_ranks // self._sharers if is_split else shape.num_ranks
        self.sent: Counter[str] = Counter()
        self.messages = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if func.namespace == "c10d" and name in _NAMES:
            self.messages += 1
            size = self._replicas if name == "allreduce_" else self._sharers
            self.sent[_NAMES[name]] += round(_payload(name, args) * (size - 1) / size)
        return func(*args, **(kwargs or {}))

    def taken(self) -> _Taken:
        """What was counted up to here; counting begins anew."""
        before = _Taken(self.sent, self.messages)
        self.sent, self.messages = Counter(), 0
        return before


def _payload(name: str, args: Any) -> int:
    """Bytes of the whole that is gathered, scattered or exchanged; an all-reduce is a scatter and a gather."""
    if name == "allreduce_":
        return 2 * bytes_of(args[0])
    return max(bytes_of(args[:1]), bytes_of(args[1:2]))


def in_shards(memory: Memory, model: ModelConfig, *, num_devices: int, precision: str) -> Memory:
    """What one of many devices holds where weights, gradients and moments lie in shards over all of them.

    Args:
        memory: of a training that each device holds whole; its activations and scores stay.
        model: the shape.
        num_devices: that share it.
        precision: of the computing.
    """
    held = count(Shape(model, num_devices, num_devices, "fsdp", 1, 1, precision, False))
    parts = {"weights": held.weights, "gradients": held.gradients, "moments": held.moments}
    return memory._replace(**parts, gathered=held.gathered)


def advise(fleet: Fleet, model: ModelConfig, memory: Memory) -> Sharding:
    """Whether a model must be in shards over a fleet, and what that leaves on each device.

    Args:
        fleet: the devices.
        model: the shape.
        memory: of a training that holds it whole.
    """
    device = ACCELERATORS[fleet.name]
    room = MEMORY_SHARE * FREE_SHARE * device.memory_bytes
    sharded = memory.total
    if fleet.num_devices > 1:
        sharded = in_shards(memory, model, num_devices=fleet.num_devices, precision=device.precision).total
    if memory.total <= room:
        advice = "none needed: every device holds the whole model and a share of each batch"
    elif sharded <= room:
        advice = 'needed: the model does not fit one device whole, and fits in shards (`pretrain.parallel = "fsdp"`)'
    else:
        advice = "not enough: even in shards over all devices it does not fit; take more of them or a smaller model"
    return Sharding(memory.total, sharded, advice)


def model_of(size: str) -> ModelConfig:
    """The model of a named size, or of a recipe: of the base that it begins from, or its own shape.

    Raises:
        UsageError: neither of the two, or the recipe's base is not there.
    """
    if size in _SIZES:
        return _SIZES[size]
    if not size.endswith(".toml"):
        raise UsageError(f"no such size: `{size}`", hint=f"known: {', '.join(_SIZES)}; or the file of a recipe")
    recipe = load_recipe(Path(size))
    if recipe.base is not None:  # pretraining goes on with it, too, so that no `[model]` may stand beside it
        base = Path(recipe.base.model)
        if not base.is_dir():
            raise UsageError(
                f"`{size}` begins from a model that is not there: `{base}`",
                hint="`chatwright import` brings one; or name a recipe with a shape of its own",
            )
        return read_config(base)
    vocabulary = recipe.model.vocabulary_size or recipe.tokenizer.vocabulary_size
    return recipe.model.model_copy(update={"vocabulary_size": vocabulary})


def fleet_and_device(text: str) -> tuple[Fleet, Accelerator]:
    """The devices that `h100x8` and the like name."""
    fleet = fleet_of(text)
    return fleet, ACCELERATORS[fleet.name]


def as_dict(shape: Shape, counted: PerRank, device: Accelerator) -> dict[str, Any]:
    """The plan for machines."""
    parts = {name: getattr(counted, name) for name in PerRank._fields if name not in ("sent", "messages")}
    rows = shape.micro_rows * shape.num_micro * shape.num_ranks
    return {
        "parameters": shape.model.num_parameters(),
        "parallel": shape.parallel,
        "devices": shape.num_ranks,
        "tokens_per_step": rows * shape.model.context_length,
        "memory_bytes": {**parts, "total": counted.memory},
        "device_bytes": int(device.memory_bytes),
        "fits": counted.memory <= FREE_SHARE * device.memory_bytes,
        "sent_bytes": counted.sent,
        "messages": counted.messages,
    }
