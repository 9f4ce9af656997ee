"""Gradients of a step's micro-batches, summed over micro-batches and ranks: fast, or in one fixed order.

Floating-point sums depend on their order. `"exact"` adds the micro-batches' gradients along one binary tree over their
numbers, whoever computed them, so that any number of ranks gives the same bits. `"fast"` lets each rank add as it
goes and all-reduces: the least memory and traffic, but each number of ranks has bits of its own.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from chatwright.train.ranks import Ranks

ReductionName = Literal["fast", "exact"]


def share_of(count: int, *, rank: int, size: int) -> range:
    """The micro-batches of a rank: neighbours, so that they meet early in the tree."""
    return range(count * rank // size, count * (rank + 1) // size)


class Span(NamedTuple):
    """A node of the tree: the sum of leaves `start` to `start + size`."""

    start: int
    size: int


class FixedTree:
    """Sums leaves in the order of their numbers, two neighbours at a time, as a binary counter does.

    Two sums are joined only where they are the two halves of an aligned power of two. What is joined does therefore
    not depend on where the leaves were computed, and no more than the logarithm of their number is held at once.
    """

    def __init__(self) -> None:
        self._nodes: list[tuple[Span, Tensor]] = []

    def push(self, span: Span, value: Tensor) -> None:
        """Add the next node; `value` belongs to the tree from here on."""
        self._nodes.append((span, value))
        while len(self._nodes) > 1 and _are_halves(self._nodes[-2][0], self._nodes[-1][0]):
            _, right = self._nodes.pop()
            left_span, left = self._nodes.pop()
            self._nodes.append((Span(left_span.start, 2 * left_span.size), left.add_(right)))

    @property
    def nodes(self) -> list[tuple[Span, Tensor]]:
        """What could not be joined yet, in order."""
        return self._nodes

    def total(self) -> Tensor:
        """The sum of all, incomplete branches from the right."""
        _, total = self._nodes[-1]
        for _, value in reversed(self._nodes[:-1]):
            total = value.add_(total)
        self._nodes = []
        return total


def _are_halves(left: Span, right: Span) -> bool:
    return left.size == right.size and left.start % (2 * left.size) == 0 and right.start == left.start + left.size


def spans_of(leaves: Iterable[int]) -> list[Span]:
    """The nodes that these neighbouring leaves leave in a tree."""
    spans: list[Span] = []
    for leaf in leaves:
        spans.append(Span(leaf, 1))
        while len(spans) > 1 and _are_halves(spans[-2], spans[-1]):
            left = spans[-2]
            spans[-2:] = [Span(left.start, 2 * left.size)]
    return spans


class Reduction(Protocol):
    """How gradients become one."""

    def add(self, index: int) -> None:
        """The parameters' gradients now hold micro-batch `index` (and, with `"fast"`, those before it)."""
        ...

    def forget(self) -> None:
        """The step is begun anew: nothing of it counts."""
        ...

    def finish(self, count: int) -> None:
        """Leave in the parameters the gradient of all `count` micro-batches of all ranks."""
        ...


class FastReduction:
    """Autograd's own accumulation, then one all-reduce."""

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks):
        self._parameters = parameters
        self._ranks = ranks

    def add(self, index: int) -> None:
        """Nothing: the gradients stay where they are added to."""

    def forget(self) -> None:
        """Nothing: the gradients stand in the parameters."""

    def finish(self, count: int) -> None:  # noqa: ARG002 - the other reduction needs it
        """Sum over the ranks."""
        self._ranks.sum_gradients(self._parameters)


class ShardedReduction:
    """Shards are summed over the ranks as soon as they are computed, by the backward pass itself."""

    def add(self, index: int) -> None:
        """Nothing: it is added already."""

    def forget(self) -> None:
        """Nothing: the gradients stand in the parameters."""

    def finish(self, count: int) -> None:
        """Nothing: it is summed already."""


class ExactReduction:
    """A fixed tree over the micro-batches' numbers. Holds a logarithm of them as copies of the gradient."""

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks):
        self._parameters = parameters
        self._ranks = ranks
        self._own = FixedTree()

    def add(self, index: int) -> None:
        """Take this micro-batch's gradient off the parameters, as a leaf."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        self._own.push(Span(index, 1), torch.cat([gradient.flatten() for gradient in gradients]))
        for parameter in self._parameters:
            parameter.grad = None

    def forget(self) -> None:
        """Begin a new tree."""
        self._own = FixedTree()

    def finish(self, count: int) -> None:
        """Every rank meets the nodes of all in their order, and joins them alike."""
        tree = self._own if self._ranks.size == 1 else self._gathered(count)
        self._own = FixedTree()
        flat, start = tree.total(), 0
        for parameter in self._parameters:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def _gathered(self, count: int) -> FixedTree:
        mine = dict(self._own.nodes)
        numel = sum(parameter.numel() for parameter in self._parameters)
        tree = FixedTree()
        for rank in range(self._ranks.size):
            for span in spans_of(share_of(count, rank=rank, size=self._ranks.size)):
                value = mine.pop(span, None)
                if value is None:
                    value = self._parameters[0].new_empty(numel)
                self._ranks.broadcast([value], source=rank)
                tree.push(span, value)
        return tree


def make_reduction(name: ReductionName, parameters: Sequence[nn.Parameter], ranks: Ranks) -> Reduction:
    """The reduction of this name."""
    return ExactReduction(parameters, ranks) if name == "exact" else FastReduction(parameters, ranks)
