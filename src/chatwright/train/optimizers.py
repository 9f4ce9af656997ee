"""Muon for matrices, AdamW for the rest, behind one interface whose state is plain tensors by name."""

import functools
import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from chatwright.foundation.config import Config
from chatwright.train.sharding import is_sharded, joined_like, local, part_like, shard_group
from chatwright.train.spread import orthogonalised_across

# Coefficients of the quintic iteration (Jordan et al. 2024, "Muon: an optimizer for hidden layers").
_A, _B, _C = 3.4445, -4.7750, 2.0315


class OptimizerConfig(Config):
    """Which rule updates which parameters, and how fast."""

    kind: Literal["muon", "adamw"] = "muon"
    learning_rate: float = Field(default=3e-3, gt=0, lt=1)  # AdamW's peak: embeddings, norms; with "adamw" everything
    muon_learning_rate: float = Field(default=0.02, gt=0, lt=1)  # Muon's peak: matrices of the blocks
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: float = Field(default=1e-10, gt=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)  # Muon's
    newton_schulz_steps: int = Field(default=5, ge=1, le=10)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)  # matrices only; follows the learning rate down to zero
    maximum_norm: float = Field(default=1.0, gt=0)  # the gradient's global norm is clipped to this


def orthogonalise(matrices_NRC: Tensor, *, steps: int, in_bfloat16: bool = False) -> Tensor:
    """Push all singular values of each matrix towards one, by Newton-Schulz iteration; (N, rows, columns).

    Args:
        matrices_NRC: any shape; a batch of them is faster than one by one.
        steps: of the iteration.
        in_bfloat16: the products, as the reference has them, on a CPU, which may be slow in it; else they are in the
            matrices' own type. On an accelerator they always are, if it has the type.
    """
    x_NRC = matrices_NRC.bfloat16() if _is_in_bfloat16(matrices_NRC.device, is_asked=in_bfloat16) else matrices_NRC
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    if tall:
        x_NRC = x_NRC.mT
    x_NRC = x_NRC / (x_NRC.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x_NRC @ x_NRC.mT
        update = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        x_NRC = torch.baddbmm(x_NRC, update, x_NRC, beta=_A)
    return (x_NRC.mT if tall else x_NRC).to(matrices_NRC.dtype)


def _is_in_bfloat16(device: torch.device, *, is_asked: bool) -> bool:
    """GPUs older than the type (V100, T4) emulate it slowly or refuse: they have float32, whose range needs no care."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return is_asked


class _Group(NamedTuple):
    """Matrices of one shape, updated together as a batch."""

    names: list[str]
    parameters: list[nn.Parameter]


class Muon:
    """Momentum, orthogonalised (Jordan et al. 2024), with cautious weight decay (Chen et al. 2025).

    Decay is applied only where it pulls in the update's direction, and scaled by the learning rate, so that it ends
    at zero with the schedule.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], config: OptimizerConfig, *, in_bfloat16: bool):
        self._config = config
        self._in_bfloat16 = in_bfloat16
        by_shape: dict[tuple[int, ...], _Group] = {}
        for name, parameter in parameters.items():
            group = by_shape.setdefault(tuple(parameter.shape), _Group([], []))
            group.names.append(name)
            group.parameters.append(parameter)
        self._groups = list(by_shape.values())
        self._momenta = [torch.zeros_like(_stacked(group.parameters)) for group in self._groups]

    @property
    def momenta(self) -> list[Tensor]:
        """The whole state, by group."""
        return self._momenta

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update at this learning rate."""
        config = self._config
        for group, momentum in zip(self._groups, self._momenta, strict=True):
            gradient = _stacked([_gradient(parameter) for parameter in group.parameters])
            momentum.lerp_(gradient, 1 - config.momentum)
            update = self._orthogonalised(gradient.lerp(momentum, config.momentum), group.parameters[0])
            rows, columns = group.parameters[0].shape
            update *= max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(map(local, group.parameters), update, strict=True):
                if config.weight_decay:
                    agrees = change * parameter > 0
                    parameter.sub_(parameter * agrees, alpha=learning_rate * config.weight_decay)
                parameter.sub_(change, alpha=learning_rate)

    def _orthogonalised(self, update: Tensor, like: nn.Parameter) -> Tensor:
        """Of whole matrices here, or of those whose rows are shared with other ranks."""
        steps = self._config.newton_schulz_steps
        orthogonalised = functools.partial(orthogonalise, steps=steps, in_bfloat16=self._in_bfloat16)
        if not is_sharded(like):
            return orthogonalised(update)
        return orthogonalised_across(update, rows=like.shape[0], group=shard_group(like), orthogonalise=orthogonalised)

    def tensors(self) -> dict[str, Tensor]:
        """State by name: `momentum.NAME`, sharded as the parameter is; views, which the next step changes."""
        return {
            f"momentum.{name}": joined_like(parameter, momentum[index])
            for group, momentum in zip(self._groups, self._momenta, strict=True)
            for index, (name, parameter) in enumerate(zip(group.names, group.parameters, strict=True))
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        for group, momentum in zip(self._groups, self._momenta, strict=True):
            for index, (name, parameter) in enumerate(zip(group.names, group.parameters, strict=True)):
                momentum[index].copy_(local(part_like(parameter, tensors[f"momentum.{name}"])))


def _stacked(matrices: Iterable[Tensor]) -> Tensor:
    """What this rank holds of them, (matrices, rows, columns)."""
    return torch.stack([local(matrix.detach()) for matrix in matrices])


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class Optimizer:
    """All trained parameters under their rules; the learning rates of a step are the peaks times one factor.

    Args:
        parameters: by name.
        config: the rules.
        in_bfloat16: Muon's products, as `orthogonalise` has it.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        *,
        in_bfloat16: bool = False,
    ):
        self._config = config
        self._named = dict(parameters)
        matrices = {name: p for name, p in self._named.items() if self._is_muons(name)}
        rest = {name: p for name, p in self._named.items() if name not in matrices}
        self._muon = Muon(matrices, config, in_bfloat16=in_bfloat16) if matrices else None
        decayed = [p for p in rest.values() if p.ndim >= 2 and config.kind == "adamw"]
        plain = [p for p in rest.values() if not (p.ndim >= 2 and config.kind == "adamw")]
        groups = [
            {"params": members, "weight_decay": decay}
            for members, decay in ((decayed, config.weight_decay), (plain, 0.0))
            if members
        ]
        betas = (config.beta1, config.beta2)
        self._names = {id(parameter): name for name, parameter in rest.items()}
        self._adamw = (
            torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)
            if groups
            else None
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return list(self._named.values())

    @property
    def full_bytes(self) -> int:
        """What the state takes once the first step is done: one moment of Muon's matrices, two of the rest."""
        moments = ((1 if self._is_muons(name) else 2, parameter) for name, parameter in self._named.items())
        return sum(count * parameter.numel() * parameter.element_size() for count, parameter in moments)

    def _is_muons(self, name: str) -> bool:
        return self._config.kind == "muon" and _is_block_matrix(name, self._named[name])

    def held(self) -> list[Tensor]:
        """Everything that an update changes, parameters and state, as far as this rank holds it."""
        held = [parameter.detach() for parameter in self._named.values()]
        if self._muon is not None:
            held += self._muon.momenta
        if self._adamw is not None:
            held += [value for state in self._adamw.state.values() for value in state.values()]
        return [local(tensor) for tensor in held]

    def is_finite(self) -> bool:
        """Whether every parameter and all state is, by one norm of each: a square that overflows counts as not."""
        norms = torch._foreach_norm(self.held())
        return math.isfinite(float(torch.stack(norms).sum()))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._named.values():
            parameter.grad = None

    def step(self, factor: float) -> None:
        """One update; `factor` is the schedule's share of the peak learning rates."""
        if self._muon is not None:
            self._muon.step(self._config.muon_learning_rate * factor)
        if self._adamw is not None:
            for group in self._adamw.param_groups:
                group["lr"] = self._config.learning_rate * factor
            self._adamw.step()

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as tensors by name: views, to be copied where they are to last."""
        tensors = {} if self._muon is None else self._muon.tensors()
        if self._adamw is not None:
            for parameter, state in self._adamw.state.items():
                for key, value in state.items():
                    tensors[f"{key}.{self._names[id(parameter)]}"] = value.detach()
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        if self._muon is not None:
            self._muon.load(tensors)
        if self._adamw is not None:
            for group in self._adamw.param_groups:
                for parameter in group["params"]:
                    name = self._names[id(parameter)]
                    keys = ("step", "exp_avg", "exp_avg_sq")
                    found = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
                    if not found:  # a checkpoint of before the first update
                        self._adamw.state.pop(parameter, None)
                    else:
                        # The fused rule wants its step count where the parameter is, unlike the plain one.
                        self._adamw.state[parameter] = {
                            key: (value if key == "step" else part_like(parameter, value)).to(
                                parameter.device, copy=True
                            )
                            for key, value in found.items()
                        }


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Muon is for the matrices between hidden states, not for embeddings, the output projection or norms."""
    return parameter.ndim == 2 and ".layers." in f".{name}" and "embed" not in name and "lm_head" not in name
