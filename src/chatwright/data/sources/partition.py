"""A partition: a bounded set of a source's inputs, the unit in which collecting is spread, kept and resumed."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from chatwright.data.stretch import Stretch
from chatwright.foundation import storage

Input = dict[str, Any]  # JSON: what names one input and tells whether it changed


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """Inputs that are read together.

    Args:
        label: for a person.
        part: which of a source's readers takes it.
        inputs: in reading order.
    """

    label: str
    part: str
    inputs: tuple[Input, ...]

    def key(self, version: int, source: Any) -> str:
        """Digest of everything the documents of this partition depend on."""
        return storage.digest_json([version, source, self.part, list(self.inputs)])[:32]


class Listing(Stretch):
    """The stretch in which a source is listed."""

    names_suffice = False  # no file is looked into any more: what is listed from here on is not read


def in_groups(inputs: Iterable[Input], *, max_bytes: int, max_inputs: int) -> Iterator[tuple[Input, ...]]:
    """Consecutive inputs together, as long as their `bytes` and number stay within the limits."""
    group: list[Input] = []
    size = 0
    for entry in inputs:
        if group and (size + entry["bytes"] > max_bytes or len(group) >= max_inputs):
            yield tuple(group)
            group, size = [], 0
        group.append(entry)
        size += entry["bytes"]
    if group:
        yield tuple(group)


def each_partition_of(
    part: str, inputs: Iterable[Input], *, max_bytes: int, max_inputs: int, name: Callable[[Input], str]
) -> Iterator[Partition]:
    """Partitions over inputs in their order, each labelled by its first one; inputs are taken as they are needed."""
    for group in in_groups(inputs, max_bytes=max_bytes, max_inputs=max_inputs):
        yield Partition(label=name(group[0]), part=part, inputs=group)


def partitions_of(
    part: str, inputs: Iterable[Input], *, max_bytes: int, max_inputs: int, name: Callable[[Input], str]
) -> list[Partition]:
    """All of them."""
    return list(each_partition_of(part, inputs, max_bytes=max_bytes, max_inputs=max_inputs, name=name))
