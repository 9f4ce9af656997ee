"""Training on one GPU against nanoGPT: tokens per second, time to its loss, utilisation and memory, 124M and 1B.

Call: python bench/train_gpu.py --nanogpt PATH_TO_CHECKOUT --text corpus.txt [--size 124m|1b] [--iterations 200]

Both sides train in turns on the same text as bytes, with a vocabulary of 50,304 so that the arithmetic is GPT-2's, in
bfloat16 with as many tokens a step, both compiled, as nanoGPT's defaults have it. Its loss is the mean of its last
tenth of iterations; ours has reached it where the mean over as many of ours is no higher. Ours then trains once more in
shards on this one GPU (FSDP2): its losses must be the plain ones but for rounding, its speed says what shards cost.
Utilisation is the model's arithmetic over a matrix product measured in this call. Memory is what the device has given
out, polled from outside. `--picture` draws all curves of loss over time.
`--tiny` runs all of it on a CPU in a minute, to see that it works: its figures mean nothing.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

import _nanogpt
from _picture import Curve, write_curves
from chatwright.foundation.devices import place
from chatwright.foundation.stage import StageContext
from chatwright.foundation.storage import read_json, read_lines
from chatwright.model.config import ModelConfig
from chatwright.recipe.plan.shapes import shape_of
from chatwright.train.fitting import FITTING
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.pretrain import PretrainConfig, PretrainInputs
from chatwright.train.pretrain import run as pretrain
from chatwright.train.utilisation import measured_ceiling
from train_cpu import read_characters, write_ours

_LINE = re.compile(r"^iter (\d+): loss ([\d.]+), time ([\d.]+)ms", re.MULTILINE)
_SHARDS_DRIFT = 0.02  # nats, the mean over all steps: bfloat16 rounds otherwise where sums are cut otherwise
_SETTLING = 10  # first iterations are left out of rates: compilation, caches


class Size(NamedTuple):
    """A configuration, the same on both sides."""

    width: int
    layers: int
    vocabulary: int
    context: int
    rows: int  # at once on nanoGPT's side; ours searches
    batch_rows: int

    @property
    def model(self) -> ModelConfig:
        """Ours, in the Qwen3 shape."""
        return shape_of(self.width, self.layers, vocabulary_size=self.vocabulary, context_length=self.context)


SIZES = {
    "124m": Size(768, 12, 50_304, 1024, 16, 128),
    "1b": Size(2048, 20, 50_304, 1024, 8, 128),
    "tiny": Size(64, 2, 512, 32, 4, 8),
}


class Side(NamedTuple):
    """What one side did."""

    name: str
    losses: list[tuple[float, float]]  # seconds of training, loss
    tokens_per_second: float
    flops_per_token: float
    wall: float
    peak: float  # bytes of the device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="an ASCII text of some hundred megabytes")
    parser.add_argument("--size", choices=["124m", "1b"], default="124m")
    parser.add_argument("--iterations", type=int, default=200, help="of each side")
    parser.add_argument("--tiny", action="store_true", help="see on a CPU that it works")
    parser.add_argument("--picture", type=Path, help="where to draw the curves, an SVG file")
    parser.add_argument("--child", nargs=4, help="internal: our data, our output, `parallel`, `micro_rows`")
    options = parser.parse_args()
    size = SIZES["tiny" if options.tiny else options.size]
    if options.child:
        train_ours(size, options)
        return
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured (`--tiny` shows on a CPU that the benchmark works)")
    with tempfile.TemporaryDirectory() as scratch:
        place_ = Path(scratch)
        peer, own = theirs(size, place_, options), ours(size, place_, options)
        rows = read_json(place_ / "ddp" / FITTING)["positions"] // size.context  # shards have no search of their own
        sharded = ours(size, place_, options, parallel="fsdp", micro_rows=str(rows))
    report(peer, own, options, sharded=sharded)


def train_ours(size: Size, options: argparse.Namespace) -> None:
    """Our side, in a process of its own."""
    data, output, (parallel, micro_rows) = Path(options.child[0]), Path(options.child[1]), options.child[2:]
    settings = PretrainConfig(
        device="cpu" if options.tiny else "cuda",
        precision="float32" if options.tiny else "bfloat16",
        steps=options.iterations,
        compile=not options.tiny,
        parallel=parallel,
        batch_rows=size.batch_rows,
        micro_rows="auto" if micro_rows == "auto" else int(micro_rows),
        log_every=1,
        evaluate_every=options.iterations,
        checkpoint_every=options.iterations,
        optimizer=OptimizerConfig(learning_rate=3e-3 * (192 / size.width) ** 0.5),
    )
    inputs = {"tokens": data / "tokens", "tokenizer": data / "tokenizer"}
    output.mkdir(parents=True)
    config = PretrainInputs(model=size.model, pretrain=settings)
    pretrain(StageContext(config=config, inputs=inputs, output=output, seed=1, lineage={"stage": "pretrain"}))


def ours(
    size: Size, scratch: Path, options: argparse.Namespace, *, parallel: str = "ddp", micro_rows: str = "auto"
) -> Side:
    data, output = scratch / "ours", scratch / parallel
    if not data.exists():
        write_ours(data, options.text)
    command = [sys.executable, __file__, *sys.argv[1:], "--child", str(data), str(output), parallel, micro_rows]
    with Peak(options) as peak:
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.monotonic() - began
    lines = [line for line in read_lines(output / "metrics.jsonl") if line["event"] == "step"]
    rate = statistics.median(line["tokens_per_second"] for line in lines[_SETTLING:])
    losses = [(line["seconds"], line["loss"]) for line in lines]
    name = "chatwright" if parallel == "ddp" else "in shards"
    return Side(name, losses, rate, size.model.flops_per_token(), wall, peak.bytes)


def theirs(size: Size, scratch: Path, options: argparse.Namespace) -> Side:
    place_ = scratch / "nanogpt"
    train, heldout = read_characters(options.text)
    _nanogpt.prepare(options.nanogpt, place_, train=train, heldout=heldout, vocabulary=size.vocabulary)
    settings: dict[str, Any] = {
        "device": "cpu" if options.tiny else "cuda",
        "dtype": "float32" if options.tiny else "bfloat16",
        "compile": not options.tiny,
        "n_layer": size.layers,
        "n_head": size.model.heads,
        "n_embd": size.width,
        "block_size": size.context,
        "batch_size": size.rows,
        "gradient_accumulation_steps": size.batch_rows // size.rows,
        "max_iters": options.iterations,
        "lr_decay_iters": options.iterations,
        "warmup_iters": max(1, options.iterations // 10),
        "eval_interval": options.iterations,
        "eval_iters": 1,
    }
    with Peak(options) as peak:
        began = time.monotonic()
        told = _nanogpt.train(place_, settings)
        wall = time.monotonic() - began
    found = [(float(loss), float(milliseconds) / 1e3) for _, loss, milliseconds in _LINE.findall(told)]
    tokens = size.batch_rows * size.context
    seconds, losses = 0.0, []
    for loss, elapsed in found:
        seconds += elapsed
        losses.append((seconds, loss))
    rate = tokens / statistics.median(elapsed for _, elapsed in found[_SETTLING:])
    # Its matrices: 12 D^2 a layer; attention and embedding as ours are counted.
    matrices = 12 * size.layers * size.width**2 + size.vocabulary * size.width
    flops = 6.0 * (matrices + size.layers * size.width * size.context)
    return Side("nanoGPT", losses, rate, flops, wall, peak.bytes)


class Peak:
    """The most memory that the device had given out while something ran."""

    def __init__(self, options: argparse.Namespace):
        self.bytes = 0.0
        self._is_on = not options.tiny
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while self._is_on and not self._ended.wait(0.1):
            free, total = torch.cuda.mem_get_info()
            self.bytes = max(self.bytes, total - free)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def smoothed(losses: Curve) -> list[tuple[float, float]]:
    """The mean over each tenth of the iterations, at its end."""
    width = max(1, len(losses) // 10)
    return [
        (losses[end - 1][0], statistics.mean(loss for _, loss in losses[end - width : end]))
        for end in range(width, len(losses) + 1)
    ]


def report(peer: Side, own: Side, options: argparse.Namespace, *, sharded: Side) -> None:
    """All sides, their ratios, and the curves; ends with code 1 if shards do not learn what the whole learns."""
    here = place(device="cpu" if options.tiny else "cuda", precision="float32" if options.tiny else "bfloat16")
    ceiling = measured_ceiling(here)
    name = "cpu" if options.tiny else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, matrix product {ceiling / 1e12:.2f} TFLOP/s, {options.iterations} steps")
    for side in (peer, own, sharded):
        used = side.tokens_per_second * side.flops_per_token / ceiling
        print(
            f"{side.name:12}{side.tokens_per_second:>12,.0f} tokens/s{used:>8.1%} of the product"
            f"{side.peak / 1e9:>8.1f} GB{side.wall:>9.1f} s of wall time, last loss {side.losses[-1][1]:.4f}"
        )
    goal = smoothed(peer.losses)[-1][1]
    reached = next((seconds for seconds, loss in smoothed(own.losses) if loss <= goal), None)
    ratio = "not reached" if reached is None else f"{reached / peer.losses[-1][0]:.3f} of its time"
    print(f"tokens/s, ours over nanoGPT's: {own.tokens_per_second / peer.tokens_per_second:.3f}")
    print(f"nanoGPT's loss of {goal:.4f}: {ratio}")
    drift = statistics.mean(abs(one - two) for (_, one), (_, two) in zip(own.losses, sharded.losses, strict=True))
    speed = sharded.tokens_per_second / own.tokens_per_second
    print(f"shards on one GPU: {speed:.3f} of the speed, {drift:.5f} nats of mean difference in a step's loss")
    print(json.dumps([side._replace(losses=side.losses[-1:])._asdict() for side in (peer, own, sharded)]))
    if options.picture is not None:
        curves = {side.name: smoothed(side.losses) for side in (peer, own, sharded)}
        write_curves(options.picture, curves, across="seconds of training", up="loss, mean of a tenth of the steps")
    if options.tiny:
        print("a trial on a CPU: nothing here is a result")
    if drift > _SHARDS_DRIFT:
        sys.exit(
            f"shards do not learn what the whole learns: {drift:.5f} nats of mean difference, {_SHARDS_DRIFT} allowed"
        )


if __name__ == "__main__":
    main()
