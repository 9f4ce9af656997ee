"""Pretraining against nanoGPT's own `train.py`: same tokens, parameter count, wall time and held-out windows.

Call: python bench/pretrain_vs_nanogpt.py --nanogpt PATH_TO_CHECKOUT --run runs/demo

Both sides train one after the other on the run's token shards, with the run's tokenizer and context. nanoGPT gets
as many iterations as fit the wall seconds that our stage took, start-up included on both sides, and its learning rate
decays over exactly these. Then both models read the same windows of the held-out stream.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import _nanogpt
from chatwright.foundation.stage import StageContext
from chatwright.model.directory import load_model
from chatwright.recipe.recipe import Recipe
from chatwright.recipe.recipe import load_recipe as load
from chatwright.tokens.shards import TokenData, TokenSplit
from chatwright.tokens.tokenizer import load_tokenizer
from chatwright.train import pretrain

PROBE_ITERATIONS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--run", type=Path, required=True, help="a run of ours with tokens/ and tokenizer/")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="nanoGPT's (its README's for CPU)")
    parser.add_argument("--ours", action="store_true", help="internal: train our side in this process")
    parser.add_argument("--output", type=Path, help="internal")
    options = parser.parse_args()
    recipe = load(options.run / "recipe.toml")
    if options.ours:
        train_ours(recipe, options.run, options.output)
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, recipe, Path(scratch))


def train_ours(recipe: Recipe, run: Path, output: Path) -> None:
    assert recipe.pretrain is not None
    inputs = {"tokens": run / "tokens", "tokenizer": run / "tokenizer"}
    config = pretrain.PretrainInputs(model=recipe.model, pretrain=recipe.pretrain)
    context = StageContext(config=config, inputs=inputs, output=output, seed=recipe.seed, lineage={"stage": "pretrain"})
    pretrain.run(context)


def compare(options: argparse.Namespace, recipe: Recipe, scratch: Path) -> None:
    ours = scratch / "ours"
    ours.mkdir()
    began = time.monotonic()
    command = [sys.executable, __file__, "--ours", "--nanogpt", options.nanogpt, "--run", options.run, "--output", ours]
    subprocess.run([str(part) for part in command], check=True)
    wall = time.monotonic() - began
    theirs = prepare_nanogpt(options, scratch)
    start, rate = probe_nanogpt(theirs, options, recipe)
    iterations = max(20, int((wall - start) / rate))
    began = time.monotonic()
    run_nanogpt(theirs, options, recipe, iterations)
    wall_theirs = time.monotonic() - began
    heldout = TokenData(options.run / "tokens").split("heldout")
    network = load_model(ours / "model").network.eval()
    scores, parameters_theirs = _nanogpt.trained(theirs)
    loss = _nanogpt.mean_loss(network, stream(heldout), network.config.context_length)
    loss_theirs = _nanogpt.mean_loss(scores, stream(heldout), recipe.model.context_length)
    per_byte = held_out_tokens_per_byte(heldout) / math.log(2)
    rows = [
        ("chatwright", network.config.num_parameters(), wall, loss, loss * per_byte),
        ("nanoGPT train.py", parameters_theirs, wall_theirs, loss_theirs, loss_theirs * per_byte),
    ]
    print(f"{'':18}{'parameters':>12}{'wall s':>9}{'nats/token':>12}{'bits/byte':>11}")
    for name, count, seconds, nats, bits in rows:
        print(f"{name:18}{count:>12,}{seconds:>9.0f}{nats:>12.4f}{bits:>11.4f}")
    print(f"ratio of bits per byte, ours over nanoGPT's: {loss / loss_theirs:.4f} ({iterations} iterations of nanoGPT)")
    print(json.dumps({"ours": rows[0], "nanogpt": rows[1], "iterations": iterations}))


def prepare_nanogpt(options: argparse.Namespace, scratch: Path) -> Path:
    """A copy of the checkout with our tokens in its form."""
    theirs = scratch / "nanogpt"
    data = TokenData(options.run / "tokens")
    _nanogpt.prepare(
        options.nanogpt,
        theirs,
        train=stream(data.split("train")),
        heldout=stream(data.split("heldout")),
        vocabulary=load_tokenizer(options.run / "tokenizer").size,
    )
    return theirs


def stream(split: TokenSplit) -> NDArray[np.int64]:
    return split.slice(0, len(split))


def run_nanogpt(theirs: Path, options: argparse.Namespace, recipe: Recipe, iterations: int) -> None:
    assert recipe.pretrain is not None
    model = recipe.model
    settings = {
        "device": "cpu",
        "compile": False,
        "dtype": "bfloat16" if uses_bfloat16(options.run) else "float32",
        "eval_interval": iterations,
        "eval_iters": 1,
        "log_interval": max(1, iterations // 10),
        "always_save_checkpoint": True,
        "gradient_accumulation_steps": 1,
        "batch_size": recipe.pretrain.batch_rows,
        "block_size": model.context_length,
        "n_layer": model.layers,
        "n_head": model.heads,
        "n_embd": model.width,
        "dropout": 0.0,
        "learning_rate": options.learning_rate,
        "min_lr": options.learning_rate / 10,
        "max_iters": iterations,
        "lr_decay_iters": iterations,
        "warmup_iters": max(1, iterations // 20),
        "beta2": 0.99,
    }
    print(_nanogpt.train(theirs, settings), end="")


def uses_bfloat16(run: Path) -> bool:
    """Whether our run's probe chose bfloat16 on this machine; then nanoGPT gets it too."""
    manifest = json.loads((run / "pretrain" / "manifest.json").read_text())
    return bool(manifest["facts"]["summary"]["precision"] == "bfloat16")


def probe_nanogpt(theirs: Path, options: argparse.Namespace, recipe: Recipe) -> tuple[float, float]:
    """Seconds of its start-up, and of an iteration."""
    seconds = []
    for iterations in (2, 2 + PROBE_ITERATIONS):
        began = time.monotonic()
        run_nanogpt(theirs, options, recipe, iterations)
        seconds.append(time.monotonic() - began)
    rate = (seconds[1] - seconds[0]) / PROBE_ITERATIONS
    return seconds[0] - 2 * rate, rate


def held_out_tokens_per_byte(split: TokenSplit) -> float:
    documents = list(split.documents())
    return sum(len(d.ids) + 1 for d in documents) / sum(d.num_bytes for d in documents)


if __name__ == "__main__":
    main()
