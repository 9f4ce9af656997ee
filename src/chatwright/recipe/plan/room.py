"""Whether a training fits the memory of a device: whole, or in shards over several, with as many rows as it holds."""

from chatwright.recipe.plan import cost
from chatwright.recipe.plan.machine import Machine
from chatwright.recipe.plan.proposal import Candidate
from chatwright.recipe.plan.sharded import in_shards
from chatwright.train.footprint import static_bytes
from chatwright.train.sharding import ParallelName


def room_of(machine: Machine) -> float:
    """Bytes of one device that a plan may take."""
    return cost.MEMORY_SHARE * machine.memory_bytes


def fitted(one: Candidate, machine: Machine) -> Candidate | None:
    """As a device holds it: whole, or in shards over all devices where there are several; None where neither fits."""
    room = room_of(machine)
    ways: tuple[tuple[ParallelName, int], ...] = (("ddp", 1), ("fsdp", machine.num_devices))
    for parallel, shards in ways[: 1 if machine.num_devices == 1 else 2]:
        if machine.process_bytes + static_bytes(one.shape) / shards > room:
            continue
        fewer = _within(one._replace(parallel=parallel), machine, room)
        if fewer is not None:
            return fewer
    return None


def memory_of(candidate: Candidate, machine: Machine) -> cost.Memory:
    """Of one device."""
    whole = _whole(candidate, machine)
    if candidate.parallel == "ddp":
        return whole
    return in_shards(whole, candidate.shape, num_devices=machine.num_devices, precision=machine.precision)


def _within(one: Candidate, machine: Machine, room: float) -> Candidate | None:
    """With as many rows at once as fit; those that a row's activations rule out are not counted one by one."""
    least = _whole(one._replace(micro_rows=1), machine)
    if one.parallel != "ddp":  # counting shards takes seconds
        least = least._replace(weights=static_bytes(one.shape) // machine.num_devices, gradients=0, moments=0)
    if least.total > room:
        return None
    single = memory_of(one._replace(micro_rows=1), machine)
    if single.total > room:
        return None
    base = single.process + single.weights + single.moments
    held = {name: getattr(single, name) for name in ("weights", "gradients", "moments", "gathered")}
    for rows in _divisors_down(one.micro_rows):
        fewer = one._replace(micro_rows=rows)
        if base + rows * single.activations <= room and _whole(fewer, machine)._replace(**held).total <= room:
            return fewer
    return one._replace(micro_rows=1)


def _divisors_down(rows: int) -> list[int]:
    """Rows at once and fewer, the batch always a multiple: gradients are accumulated, the result stays."""
    return [fewer for fewer in range(rows, 0, -1) if rows % fewer == 0]


def _whole(candidate: Candidate, machine: Machine) -> cost.Memory:
    """Of a device that holds the whole model."""
    return cost.memory(
        candidate.shape,
        micro_rows=candidate.micro_rows,
        precision=machine.precision,
        process=machine.process_bytes,
    )
