"""What the comparison with nanochat needs: documents in its form, calls of its scripts, bits per byte of its models.

All of it runs in nanochat's own environment (`Peer.python`), in its checkout, with its files in a folder of ours.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

_SCORE = Path(__file__).with_name("_nanochat_score.py")
_PROBE_ITERATIONS = 16


class Peer(NamedTuple):
    """A checkout of nanochat, the Python that has its packages, and where its files go."""

    checkout: Path
    python: Path
    place: Path

    def call(self, *arguments: object, is_compiled: bool = True) -> str:
        """Run one of its programs; returns what it printed."""
        environment = os.environ | {"NANOCHAT_BASE_DIR": str(self.place), "PYTHONPATH": str(self.checkout)}
        if not is_compiled:
            environment["TORCHDYNAMO_DISABLE"] = "1"
        command = [str(self.python), "-u", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def prepare(self, train: Sequence[str], heldout: Sequence[str], *, vocabulary: int) -> None:
        """Documents as its data set, and its tokenizer learned from them."""
        folder = self.place / "base_data_climbmix"
        folder.mkdir(parents=True)
        for name, documents in (("shard_00000", train), ("shard_00001", heldout)):  # the last one is its held-out part
            pq.write_table(pa.table({"text": list(documents)}), folder / f"{name}.parquet")
        self.call("-m", "scripts.tok_train", f"--vocab-size={vocabulary}")


class Try(NamedTuple):
    """One way to train it."""

    depth: int
    context: int
    rows: int  # at once, and a step
    is_compiled: bool

    @property
    def name(self) -> str:
        """For the table."""
        compiled = "compiled" if self.is_compiled else "eager"
        return f"nanochat d{self.depth}, {self.rows} x {self.context}, {compiled}"


class Trained(NamedTuple):
    """What became of a try."""

    bits_per_byte: float
    parameters: int
    wall_s: float
    iterations: int


def train_for(peer: Peer, one: Try, *, wall_s: float, heldout: Sequence[str]) -> Trained:
    """Train for as many iterations as fit the wall seconds, start-up included; its schedule spans exactly these."""
    probes = []
    if one.is_compiled:
        _train(peer, one, 1)  # what was compiled is kept, so the first probe is not the longer one
    for iterations in (1, 1 + _PROBE_ITERATIONS):
        began = time.monotonic()
        _train(peer, one, iterations)
        probes.append(time.monotonic() - began)
    rate = (probes[1] - probes[0]) / _PROBE_ITERATIONS
    iterations = max(2, int((wall_s - probes[0]) / max(rate, 1e-3)) + 1)
    print(f"  nanochat {one}: {rate:.2f} s an iteration, start {probes[0]:.1f} s: {iterations} iterations", flush=True)
    began = time.monotonic()
    printed = _train(peer, one, iterations)
    wall = time.monotonic() - began
    found = re.search(r"^total\s*:\s*([\d,]+)", printed, re.MULTILINE)
    parameters = int(found[1].replace(",", "")) if found else 0
    return Trained(_bits_per_byte(peer, heldout), parameters, wall, iterations)


def _train(peer: Peer, one: Try, iterations: int) -> str:
    tokens = one.rows * one.context
    settings = {
        "device-type": "cpu",
        "depth": one.depth,
        "head-dim": 64,
        "window-pattern": "L",  # as its own script for CPUs has it
        "max-seq-len": one.context,
        "device-batch-size": one.rows,
        "total-batch-size": tokens,
        "eval-every": -1,
        "core-metric-every": -1,
        "sample-every": -1,
        "num-iterations": iterations,
        "model-tag": "ours",
    }
    for file in (peer.place / "base_checkpoints" / "ours").glob("*"):
        file.unlink()
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    return peer.call("-m", "scripts.base_train", *arguments, is_compiled=one.is_compiled)


def _bits_per_byte(peer: Peer, heldout: Sequence[str]) -> float:
    documents = peer.place / "heldout.json"
    documents.write_text(json.dumps(list(heldout)), encoding="utf-8")
    printed = peer.call(_SCORE, documents)
    return float(json.loads(printed.splitlines()[-1])["bits_per_byte"])
