"""What this machine can do, measured in seconds: matrix products, memory, and real training steps of small models."""

import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.devices import Placement, PrecisionName, place
from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.recipe.plan.cost import FIRST_USE_BYTES, step_flops
from chatwright.recipe.plan.energy import EnergyMeter
from chatwright.recipe.plan.shapes import shape_of
from chatwright.train.batches import MicroBatch
from chatwright.train.fitting import free_bytes
from chatwright.train.habits import LoopConfig
from chatwright.train.loop import Trainer
from chatwright.train.metrics import METRICS
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.schedule import ScheduleConfig

_MATMUL_SIZES = (256, 1024)
_PROBES = ((64, 2), (128, 4), (256, 4))  # width and layers: from bound by overhead to bound by arithmetic
_PROBING_S = 20.0  # no further probe is begun after so long
_PROBE_TOKENS = 4096
_PROBE_STEPS = 3  # the first warms up and is left out
_COPY_BYTES = 128 << 20
_CAUTIOUS_BYTES = 8 << 30  # where the system does not say what is free (it is not Linux)


class StepRate(NamedTuple):
    """A measured training step."""

    width: int
    layers: int
    seconds: float
    flops_per_second: float


class Machine(NamedTuple):
    """What was measured."""

    device: str
    kind: Literal["cpu", "cuda"]
    precision: PrecisionName
    precision_reason: str
    threads: int
    matmul: dict[str, float]  # "float32 1024" -> operations a second
    bytes_per_second: float  # reading and writing memory
    memory_bytes: int  # free for a training now
    process_bytes: int  # of this program without a network
    rates: tuple[StepRate, ...]  # smallest width first
    seconds: float  # that the measurement took
    num_devices: int = 1  # devices; rates are those of all together, memory that of one
    watts: float | None = None  # drawn during the probes, or a table's most; None: not known
    asked: str = "auto"  # the device that was asked for, which a planned recipe then names

    def flops_per_second(self, width: int) -> float:
        """Training operations a second at a width, between the probes on a line over the width's logarithm."""
        return rate_at(self.rates, width)

    def slowed(self, times: float) -> "Machine":
        """The same with every training rate divided."""
        rates = tuple(rate._replace(flops_per_second=rate.flops_per_second / times) for rate in self.rates)
        return self._replace(rates=rates)


def rate_at(rates: tuple[StepRate, ...], width: int) -> float:
    """Piecewise linear in log(width); beyond the probes, the nearest one's."""
    widths = torch.tensor([float(rate.width) for rate in rates]).log()
    wanted = torch.tensor(float(width)).log()
    after = int(torch.searchsorted(widths, wanted))
    if after == 0:
        return rates[0].flops_per_second
    if after == len(rates):
        return rates[-1].flops_per_second
    share = float((wanted - widths[after - 1]) / (widths[after] - widths[after - 1]))
    return rates[after - 1].flops_per_second * (1 - share) + rates[after].flops_per_second * share


def measure_machine(*, device: str = "auto", threads: int = 0) -> Machine:
    """Measure the device that a training here would use; takes well under a minute.

    Args:
        device: "auto", "cpu" or "cuda".
        threads: for the CPU; 0 means all usable cores.
    """
    began = time.monotonic()
    placement = place(device=device, threads=threads)
    process = resident_bytes()
    meter = EnergyMeter(placement.device)
    rates = tuple(_probes(placement, began))
    watts = meter.watts()
    return Machine(
        device=_device_name(placement.device),
        kind="cuda" if placement.device.type == "cuda" else "cpu",
        precision=cast(PrecisionName, placement.precision),
        precision_reason=placement.reason,
        threads=placement.threads,
        matmul=_matmul_rates(placement.device),
        bytes_per_second=_copy_rate(placement.device),
        memory_bytes=free_memory(placement.device),
        process_bytes=process + FIRST_USE_BYTES if placement.device.type == "cpu" else 0,
        rates=rates,
        seconds=round(time.monotonic() - began, 2),
        watts=watts,
        asked=device,
    )


def _probes(placement: Placement, began: float) -> Iterator[StepRate]:
    for width, layers in _PROBES:
        if time.monotonic() - began > _PROBING_S:
            say(f"  probe of width {width} left out: the machine is too slow or too busy for it")
        else:
            yield _probe(width, layers, placement)


def _probe(width: int, layers: int, placement: Placement) -> StepRate:
    shape = shape_of(width, layers, vocabulary_size=4096, context_length=256)
    rows = _PROBE_TOKENS // shape.context_length
    seconds = time_step(shape, rows=rows, micro_rows=rows, placement=placement)
    return StepRate(width, layers, round(seconds, 5), step_flops(shape, _PROBE_TOKENS) / seconds)


class _DrawnSource:
    """Micro-batches of drawn ids: the time of a step does not depend on what the tokens mean."""

    fingerprint = "drawn"

    def __init__(self, shape: ModelConfig, rows: int, micro_rows: int):
        self._size = (micro_rows, shape.context_length + 1)
        self._parts = max(1, rows // micro_rows)
        self._vocabulary = shape.vocabulary_size

    def step(self, number: int) -> list[MicroBatch]:
        """As many micro-batches as a step has."""
        generator = torch.Generator().manual_seed(number)
        ids = [torch.randint(self._vocabulary, self._size, generator=generator) for _ in range(self._parts)]
        return [MicroBatch(part[:, :-1], part[:, 1:], part[:, 1:].numel()) for part in ids]


def time_step(
    shape: ModelConfig, *, rows: int, micro_rows: int, placement: Placement, steps: int = _PROBE_STEPS
) -> float:
    """Median seconds of a training step of this shape, by the training loop itself, the first step left out."""
    network = Network(shape)
    network.initialise(torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory(prefix="chatwright-plan-") as scratch:
        directory = Path(scratch)
        trainer = Trainer(
            network=network,
            trained=network,
            objective=next_token,
            source=_DrawnSource(shape, rows, micro_rows),
            config=LoopConfig(steps=steps, log_every=1, checkpoint_every=steps, evaluate_every=steps),
            optimizer=OptimizerConfig(),
            schedule=ScheduleConfig(),
            placement=placement,
            directory=directory,
        )
        with contextlib.redirect_stderr(io.StringIO()):  # a training's progress, of drawn tokens, tells nobody anything
            trainer.run(label="probe")
        at = [line["seconds"] for line in storage.read_lines(directory / METRICS) if line["event"] == "step"]
    seconds = float(statistics.median(later - earlier for earlier, later in zip(at[:-1], at[1:], strict=True)))
    tokens = rows * shape.context_length / seconds
    say(f"  {shape.num_parameters():,} parameters, width {shape.width}: {tokens:,.0f} tokens a second")
    return seconds


def _matmul_rates(device: torch.device) -> dict[str, float]:
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        for size in _MATMUL_SIZES:
            x = torch.randn(size, size, device=device).to(dtype)
            seconds = _best_seconds(lambda x=x: x @ x, device)  # type: ignore[misc]
            rates[f"{str(dtype).removeprefix('torch.')} {size}"] = 2.0 * size**3 / seconds
    return rates


def _copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by a copy too large for any cache."""
    source = torch.ones(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * _COPY_BYTES / _best_seconds(lambda: target.copy_(source), device)


def _best_seconds(work: Callable[[], Any], device: torch.device, *, repeats: int = 5) -> float:
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def free_memory(device: torch.device) -> int:
    """Bytes that a training could take now: of the GPU, else of the system and of the container's limit."""
    free = free_bytes(device)
    return _CAUTIOUS_BYTES if free is None else free


def resident_bytes() -> int:
    """What this process holds in memory now; a usual size where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else 300 << 20
