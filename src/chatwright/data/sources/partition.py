"""A partition: a bounded set of a source's inputs, the unit in which collecting is spread, kept and resumed."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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


def partitions_of(
    part: str, inputs: Iterable[Input], *, max_bytes: int, max_inputs: int, name: Callable[[Input], str]
) -> list[Partition]:
    """Partitions over inputs in their order, each labelled by its first one."""
    groups = in_groups(inputs, max_bytes=max_bytes, max_inputs=max_inputs)
    return [Partition(label=name(group[0]), part=part, inputs=group) for group in groups]
