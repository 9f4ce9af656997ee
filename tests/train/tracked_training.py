"""A tiny training with curves in Weights & Biases or Trackio, as a program: both settle where they write when imported.

tracked_training.py NAME DIRECTORY     prints what the program has stored: {figure: {step: value}} as JSON
"""

import json
import struct
import sys
from pathlib import Path

import torch
from tiny_training import new_trainer

_BLOCK, _HEADER = 1 << 15, 7  # of Weights & Biases' files, which are LevelDB's log format after a header of their own


def _records(path: Path):
    """The records of an offline run's file, whole."""
    data, place, parts = path.read_bytes(), _HEADER, []
    while place + _HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts.append(data[place + _HEADER : place + _HEADER + length])
        place += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def stored_by_wandb(directory: Path) -> dict[str, dict[int, float]]:
    """From the file of the only offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (directory / "wandb").glob("offline-run-*/*.wandb")
    stored: dict[str, dict[int, float]] = {}
    for raw in _records(path):
        record = Record.FromString(raw)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            for name, value in row.items():
                if not name.startswith("_"):
                    stored.setdefault(name, {})[row["_step"]] = value
    return stored


def stored_by_trackio() -> dict[str, dict[int, float]]:
    """From its database, which `TRACKIO_DIR` has for itself."""
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("chatwright")
    stored: dict[str, dict[int, float]] = {}
    for row in SQLiteStorage.get_logs("chatwright", run):
        for name, value in row.items():
            if "/" in name:
                stored.setdefault(name, {})[row["step"]] = value
    return stored


def main() -> None:
    torch.set_num_threads(1)
    name, directory = sys.argv[1], Path(sys.argv[2])
    new_trainer(directory, curves=[name]).run()
    stored = stored_by_wandb(directory) if name == "wandb" else stored_by_trackio()
    sys.stdout.write(json.dumps(stored))


if __name__ == "__main__":
    main()
