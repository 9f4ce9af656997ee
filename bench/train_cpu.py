"""Training on a CPU against nanoGPT (time to its loss, tokens a second) and nanochat (bits per byte at equal time).

Call: python bench/train_cpu.py --nanogpt PATH_TO_CHECKOUT --text shakespeare.txt [--part reach|speed|all]
      python bench/train_cpu.py --part nanochat --nanochat CHECKOUT --nanochat-python PYTHON --text shakespeare.txt

`reach`: nanoGPT's own `train.py` on a text's characters with the settings that its README gives for a CPU; then ours,
with no more parameters, a preset number of steps and the text as bytes, which in ASCII are its characters. Wall time
is the whole process, start-up and saving included. Both models then read the same windows of 64 over the last tenth.

`speed`: 6 layers of width 384, context 256, on both sides in turns; our batch is four of nanoGPT's, accumulated, as
Muon costs the same for any batch. Ours runs as it does unasked (bfloat16 where the processor multiplies it, which
nanoGPT does not use on a CPU) and in float32. The ceiling is a float32 matrix product of the model's own shapes,
measured between.

`nanochat`: the text cut into documents of some speeches, the last tenth held out, a tokenizer of the same size on each
side, learned from the rest. Ours trains for preset steps; nanochat's `base_train` then gets as many iterations as fit
the wall seconds that ours took, start-up included on both sides, eager and compiled, with the settings of its own
script for CPUs but for depth, context and batch, of which several are tried: the best counts. Both read the same
held-out documents, each whole, from its beginning.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import _nanochat
import _nanogpt
from chatwright.foundation.devices import PrecisionName
from chatwright.foundation.stage import StageContext
from chatwright.model.config import ModelConfig
from chatwright.model.directory import load_model
from chatwright.tokens.shards import ShardWriter, TokenData, write_index
from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer
from chatwright.train.heldout import by_domain, document_losses
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.pretrain import PretrainConfig, PretrainInputs
from chatwright.train.pretrain import run as pretrain

# The command line in nanoGPT's README for a CPU, over its config/train_shakespeare_char.py.
README = {
    "device": "cpu",
    "compile": False,
    "eval_iters": 20,
    "log_interval": 100,
    "block_size": 64,
    "batch_size": 12,
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "max_iters": 2000,
    "lr_decay_iters": 2000,
    "dropout": 0.0,
}
README_CONFIG = "config/train_shakespeare_char.py"

REACH_MODEL = ModelConfig(width=128, layers=4, heads=4, key_heads=4, head_width=32, mlp_width=320, context_length=64)
REACH = {"steps": 128, "batch_rows": 32, "micro_rows": 32, "heldout_tokens": 15_360}  # nanoGPT: 20 batches of 768
HELDOUT_PIECE = 1024  # characters: a training looks at whole documents
REACH_RATE, REACH_MUON_RATE = 6e-3, 0.02

CHAT_MODEL = ModelConfig(width=256, layers=4, heads=4, key_heads=4, head_width=64, mlp_width=704, context_length=512)
CHAT = {"steps": 120, "batch_rows": 8, "micro_rows": 8}
CHAT_VOCABULARY = 2048
CHAT_TRIES = [  # the depth that gives our width; our batch and a smaller one
    _nanochat.Try(depth=4, context=512, rows=rows, is_compiled=is_compiled)
    for rows in (8, 2)
    for is_compiled in (False, True)
]
DOCUMENT_CHARACTERS = 900  # at most: fewer tokens than a context on either side

SPEED_MODEL = ModelConfig(width=384, layers=6, heads=6, key_heads=6, head_width=64, mlp_width=1024, context_length=256)
SPEED_ROWS = 16  # nanoGPT's batch, and our micro-batch
SPEEDS: dict[str, tuple[PrecisionName, bool]] = {  # precision, and whether blocks are compiled
    "chatwright": ("auto", False),
    "chatwright compiled": ("auto", True),
    "chatwright float32": ("float32", False),
    "chatwright float32 compiled": ("float32", True),
}
SPEED_STEPS = 4  # of ours, each as long as four iterations of nanoGPT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--nanochat", type=Path, help="a checkout of nanochat, for its part")
    parser.add_argument("--nanochat-python", type=Path, help="a Python with nanochat's packages")
    parser.add_argument("--chat-steps", type=int, default=CHAT["steps"], help="our steps in `nanochat`")
    parser.add_argument("--text", type=Path, required=True, help="an ASCII text, such as nanoGPT's Shakespeare")
    parser.add_argument("--part", choices=["reach", "speed", "all", "nanochat"], default="all")
    parser.add_argument("--rounds", type=int, default=3, help="of `speed`, in turns")
    parser.add_argument("--compiled", action="store_true", help="`speed` also with both sides compiled")
    parser.add_argument("--steps", type=int, default=REACH["steps"], help="our steps in `reach`")
    parser.add_argument("--iterations", type=int, default=README["max_iters"], help="nanoGPT's in `reach`")
    parser.add_argument("--child", nargs=3, help="internal: which part, our data, our output")
    options = parser.parse_args()
    if options.child:
        train_ours(options.child[0], Path(options.child[1]), Path(options.child[2]), steps=options.steps)
        return
    if options.part == "nanochat":
        with tempfile.TemporaryDirectory() as scratch:
            compare_nanochat(options, Path(scratch))
        return
    with tempfile.TemporaryDirectory() as scratch:
        train, heldout = read_characters(options.text)
        write_ours(Path(scratch) / "ours", options.text)
        theirs = Path(scratch) / "nanogpt"
        _nanogpt.prepare(options.nanogpt, theirs, train=train, heldout=heldout, vocabulary=int(train.max()) + 1)
        if options.part != "speed":
            compare_reach(options, Path(scratch), heldout)
        if options.part != "reach":
            compare_speed(options, Path(scratch))


def read_characters(text: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """A text's characters by number, the last tenth held out, as nanoGPT's own preparation does it."""
    content = text.read_bytes().decode("ascii")
    numbers = {character: number for number, character in enumerate(sorted(set(content)))}
    stream = np.array([numbers[character] for character in content])
    cut = int(0.9 * len(stream))
    return stream[:cut], stream[cut:]


def write_ours(place: Path, text: Path) -> None:
    """The same halves as bytes, in our shards."""
    tokenizer = train_tokenizer(["bytes need no text"], TokenizerConfig(kind="bytes"))
    (place / "tokenizer").mkdir(parents=True)
    tokenizer.save(place / "tokenizer")
    content = text.read_bytes().decode("ascii")
    cut = int(0.9 * len(content))
    (place / "tokens").mkdir()
    shards = {}
    for name, half, size in (("train", content[:cut], cut), ("heldout", content[cut:], HELDOUT_PIECE)):
        writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
        for start in range(0, len(half), size):
            piece = half[start : start + size]
            writer.add(tokenizer.encode(piece), domain=0, num_bytes=len(piece))
        shards[name] = [writer.save(place / "tokens" / f"{name}-00000")]
    write_index(place / "tokens", shards, tokenizer=tokenizer.digest, vocabulary=tokenizer.size, domains=["characters"])


def train_ours(part: str, data: Path, output: Path, *, steps: int) -> None:
    """Our side of a part, in a process of its own."""
    if part == "reach":
        settings = PretrainConfig(
            **REACH | {"steps": steps},
            evaluate_every=steps,
            checkpoint_every=steps,
            optimizer=OptimizerConfig(learning_rate=REACH_RATE, muon_learning_rate=REACH_MUON_RATE),
        )
        model = REACH_MODEL
    elif part == "nanochat":
        settings = PretrainConfig(
            **CHAT | {"steps": steps}, evaluate_every=steps, checkpoint_every=steps, precision="float32"
        )
        model = CHAT_MODEL
    else:
        precision, is_compiled = SPEEDS[part]
        settings = PretrainConfig(
            steps=SPEED_STEPS,
            batch_rows=4 * SPEED_ROWS,
            micro_rows=SPEED_ROWS,
            log_every=1,
            precision=precision,
            compile=is_compiled,
        )
        model = SPEED_MODEL
    inputs = {"tokens": data / "tokens", "tokenizer": data / "tokenizer"}
    config = PretrainInputs(model=model, pretrain=settings)
    pretrain(StageContext(config=config, inputs=inputs, output=output, seed=1, lineage={"stage": "pretrain"}))


def call_ours(options: argparse.Namespace, part: str, scratch: Path, output: Path) -> float:
    """Run our side; returns its wall seconds."""
    output.mkdir()
    steps = options.chat_steps if part == "nanochat" else options.steps
    command = [__file__, "--text", options.text, "--steps", steps]
    began = time.monotonic()
    subprocess.run(
        [sys.executable, *map(str, command), "--child", part, str(scratch / "ours"), str(output)], check=True
    )
    return time.monotonic() - began


def compare_reach(options: argparse.Namespace, scratch: Path, heldout: NDArray[Any]) -> None:
    wall = call_ours(options, "reach", scratch, scratch / "reached")
    began = time.monotonic()
    iterations = {"max_iters": options.iterations, "lr_decay_iters": options.iterations}
    _nanogpt.train(scratch / "nanogpt", README | iterations, config=README_CONFIG)
    wall_theirs = time.monotonic() - began
    network = load_model(scratch / "reached" / "model").network.eval()
    scores, parameters = _nanogpt.trained(scratch / "nanogpt")
    loss_theirs = _nanogpt.mean_loss(scores, heldout, README["block_size"])
    stream = np.frombuffer(options.text.read_bytes(), dtype=np.uint8)[-len(heldout) :]
    tokenizer = load_model(scratch / "reached" / "model").tokenizer
    stream = np.array(tokenizer.encode(bytes(stream).decode("ascii")))
    loss = _nanogpt.mean_loss(network, stream, README["block_size"])
    print(f"\n{'reach':18}{'parameters':>12}{'wall s':>9}{'tokens':>12}{'held-out loss':>15}")
    tokens = options.steps * REACH["batch_rows"] * REACH_MODEL.context_length
    print(f"{'chatwright':18}{network.config.num_parameters():>12,}{wall:>9.1f}{tokens:>12,}{loss:>15.4f}")
    tokens = options.iterations * README["batch_size"] * README["block_size"]
    print(f"{'nanoGPT README':18}{parameters:>12,}{wall_theirs:>9.1f}{tokens:>12,}{loss_theirs:>15.4f}")
    print(f"wall time, ours over nanoGPT's: {wall / wall_theirs:.3f}; loss below nanoGPT's: {loss <= loss_theirs}")


def compare_nanochat(options: argparse.Namespace, scratch: Path) -> None:
    train, heldout = documents_of(options.text)
    write_documents(scratch / "ours", train, heldout)
    wall = call_ours(options, "nanochat", scratch, scratch / "trained")
    ours = load_model(scratch / "trained" / "model")
    losses = document_losses(
        ours.network.eval(),
        TokenData(scratch / "ours" / "tokens").split("heldout").documents(),
        begin=ours.tokenizer.begin_of_text,
        stride=CHAT_MODEL.context_length,
    )
    assert len(losses) == len(heldout)
    bits = by_domain(losses)["all"]["bits_per_byte"]
    head = f"\n{'':34}{'parameters':>12}{'wall s':>9}{'steps':>8}{'bits/byte':>11}"
    lines = [
        f"{'chatwright':34}{ours.network.config.num_parameters():>12,}{wall:>9.1f}{options.chat_steps:>8}{bits:>11.4f}"
    ]
    peer = _nanochat.Peer(options.nanochat.resolve(), options.nanochat_python.absolute(), scratch / "nanochat")
    peer.prepare(train, heldout, vocabulary=CHAT_VOCABULARY)
    found = []
    for one in CHAT_TRIES:
        theirs = _nanochat.train_for(peer, one, wall_s=wall, heldout=heldout)
        found.append(theirs.bits_per_byte)
        figures = f"{theirs.parameters:>12,}{theirs.wall_s:>9.1f}{theirs.iterations:>8}{theirs.bits_per_byte:>11.4f}"
        lines.append(f"{one.name:34}{figures}")
        print(lines[-1], flush=True)
    print("\n".join([head, *lines]))
    print(f"bits per byte, ours over nanochat's best: {bits / min(found):.4f}")


def documents_of(text: Path) -> tuple[list[str], list[str]]:
    """Speeches that follow one another, joined up to a length; the last tenth of the documents is held out."""
    documents: list[str] = [""]
    for speech in text.read_bytes().decode("ascii").split("\n\n"):
        pieces = [speech[start : start + DOCUMENT_CHARACTERS] for start in range(0, len(speech), DOCUMENT_CHARACTERS)]
        for piece in pieces:
            joined = f"{documents[-1]}\n\n{piece}".strip()
            if len(joined) <= DOCUMENT_CHARACTERS:
                documents[-1] = joined
            else:
                documents.append(piece)
    cut = int(0.9 * len(documents))
    return documents[:cut], documents[cut:]


def write_documents(place: Path, train: list[str], heldout: list[str]) -> None:
    """The documents in our shards, with a tokenizer of our own learned from the first part."""
    tokenizer = train_tokenizer(train, TokenizerConfig(vocabulary_size=CHAT_VOCABULARY))
    (place / "tokenizer").mkdir(parents=True)
    tokenizer.save(place / "tokenizer")
    (place / "tokens").mkdir()
    shards = {}
    for name, documents in (("train", train), ("heldout", heldout)):
        writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
        for document in documents:
            writer.add(tokenizer.encode(document), domain=0, num_bytes=len(document.encode()))
        shards[name] = [writer.save(place / "tokens" / f"{name}-00000")]
    write_index(place / "tokens", shards, tokenizer=tokenizer.digest, vocabulary=tokenizer.size, domains=["speeches"])


def compare_speed(options: argparse.Namespace, scratch: Path) -> None:
    found: dict[str, list[float]] = {name: [] for name in (*SPEEDS, "nanoGPT", "nanoGPT compiled")}
    ceilings = []
    for number in range(options.rounds):
        ceilings.append(matmul_rate())
        for name in (name for name, (_, is_compiled) in SPEEDS.items() if options.compiled or not is_compiled):
            output = scratch / f"{name}-{number}"
            call_ours(options, name, scratch, output)
            found[name] += rates_of_ours(output)
        for name, is_compiled in (("nanoGPT", False), ("nanoGPT compiled", True)):
            if options.compiled or not is_compiled:
                found[name] += rates_of_nanogpt(scratch / "nanogpt", is_compiled=is_compiled)
    ceiling = statistics.median(ceilings)
    work = flops_per_token(SPEED_MODEL)
    print(f"\nmatmul ceiling {ceiling / 1e9:.1f} GFLOP/s (from {min(ceilings) / 1e9:.1f} to {max(ceilings) / 1e9:.1f})")
    print(f"{'speed':28}{'tokens/s':>10}{'best tenth':>12}{'of ceiling':>12}")
    for name, rates in found.items():
        if rates:
            best = statistics.quantiles(rates, n=10)[-1]
            median = statistics.median(rates)
            print(f"{name:28}{median:>10,.0f}{best:>12,.0f}{median * work / ceiling:>12.2f}")
    best_theirs = max(statistics.median(rates) for name, rates in found.items() if rates and name not in SPEEDS)
    for name in (name for name in SPEEDS if found[name]):
        print(f"tokens/s, {name} over nanoGPT's best: {statistics.median(found[name]) / best_theirs:.3f}")


def rates_of_ours(output: Path) -> list[float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rates = [line["tokens_per_second"] for line in lines if line["event"] == "step"]
    return rates[1:]  # the first step warms up


def rates_of_nanogpt(place: Path, *, is_compiled: bool) -> list[float]:
    iterations = 4 * SPEED_STEPS
    settings = {
        "device": "cpu",
        "compile": is_compiled,
        "dtype": "float32",
        "eval_interval": 10 * iterations,
        "eval_iters": 1,
        "log_interval": 1,
        "gradient_accumulation_steps": 1,
        "batch_size": SPEED_ROWS,
        "block_size": SPEED_MODEL.context_length,
        "n_layer": SPEED_MODEL.layers,
        "n_head": SPEED_MODEL.heads,
        "n_embd": SPEED_MODEL.width,
        "dropout": 0.0,
        "max_iters": iterations,
    }
    printed = _nanogpt.train(place, settings)
    seconds = [float(found) / 1000 for found in re.findall(r"iter \d+: .*?time ([\d.]+)ms", printed)]
    return [SPEED_ROWS * SPEED_MODEL.context_length / one for one in seconds[4:]]


def flops_per_token(model: ModelConfig) -> float:
    """Six per parameter, and attention's products (Chowdhery et al. 2022, appendix B); nanoGPT counts alike."""
    parameters = model.model_copy(update={"vocabulary_size": 65}).num_parameters()
    return 6 * parameters + 12 * model.layers * model.heads * model.head_width * model.context_length


def matmul_rate(*, repeats: int = 60) -> float:
    """FLOP/s of the product that a block does most: a micro-batch's rows by the MLP's matrix, best of some."""
    rows = torch.randn(SPEED_ROWS * SPEED_MODEL.context_length, SPEED_MODEL.width)
    matrix = torch.randn(SPEED_MODEL.width, SPEED_MODEL.mlp_width)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        torch.mm(rows, matrix)
        seconds.append(time.perf_counter() - began)
    return 2 * rows.shape[0] * matrix.numel() / statistics.median(seconds)


if __name__ == "__main__":
    main()
