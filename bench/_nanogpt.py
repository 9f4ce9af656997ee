"""What the comparisons with nanoGPT share: its data files, calls of its `train.py`, and the loss of its models."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

DATASET = "ours"
OUTPUT = "out"
Scores = Callable[[torch.Tensor], torch.Tensor]


def prepare(checkout: Path, place: Path, *, train: NDArray[Any], heldout: NDArray[Any], vocabulary: int) -> None:
    """A copy of the checkout at `place` with these tokens in its form."""
    shutil.copytree(checkout, place, ignore=shutil.ignore_patterns(".git", "data", "assets"))
    folder = place / "data" / DATASET
    folder.mkdir(parents=True)
    train.astype(np.uint16).tofile(folder / "train.bin")
    heldout.astype(np.uint16).tofile(folder / "val.bin")
    # nanoGPT reads its vocabulary size from a pickled dictionary; these bytes are {'vocab_size': N} in protocol 0.
    (folder / "meta.pkl").write_bytes(f"(dS'vocab_size'\nI{vocabulary}\ns.".encode())


def train(place: Path, settings: dict[str, Any], *, config: str | None = None) -> str:
    """Run its `train.py` to the end with these settings over a file of its own; returns what it printed."""
    arguments = [f"--{key}={value}" for key, value in {"dataset": DATASET, "out_dir": OUTPUT, **settings}.items()]
    command = [sys.executable, "-u", "train.py", *([config] if config else []), *arguments]
    done = subprocess.run(command, cwd=place, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def trained(place: Path) -> tuple[Scores, int]:
    """What scores every position under its newest checkpoint, and the number of its parameters."""
    sys.path.insert(0, str(place))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    saved = torch.load(place / OUTPUT / "ckpt.pt", map_location="cpu", weights_only=True)
    network = GPT(GPTConfig(**saved["model_args"]))
    network.load_state_dict(saved["model"])
    network.eval()

    def scores(ids: torch.Tensor) -> torch.Tensor:
        # With targets it returns scores at every position; without, only at the last.
        ids = ids.contiguous()
        return network(ids, ids)[0]  # type: ignore[no-any-return]

    return scores, sum(parameter.numel() for parameter in network.parameters())


def windows(stream: NDArray[Any], length: int) -> Iterator[torch.Tensor]:
    """Windows of `length + 1` tokens that follow one another."""
    for start in range(0, len(stream) - length, length):
        yield torch.from_numpy(stream[start : start + length + 1].astype(np.int64))


@torch.inference_mode()
def mean_loss(scores: Scores, stream: NDArray[Any], length: int, *, rows: int = 32) -> float:
    """Nats per token over a whole stream, in windows that follow one another."""
    total = count = 0.0
    batch: list[torch.Tensor] = []
    for window in windows(stream, length):
        batch.append(window)
        if len(batch) == rows:
            ids = torch.stack(batch)
            total += float(F.cross_entropy(scores(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
            count += ids[:, 1:].numel()
            batch = []
    return total / count
