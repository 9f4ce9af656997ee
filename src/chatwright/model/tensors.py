"""Reading safetensors files that nobody vouches for: the header is checked whole before a number is read.

The format (github.com/huggingface/safetensors, README): eight bytes with the header's length, a JSON header with each
tensor's type, shape and place, then the numbers. The library maps the whole file; this reads tensor by tensor into
memory that the network already has, so that a model is held once. Writing is the library's.
"""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, cast

import torch
from torch import Tensor
from typing_extensions import Buffer

from chatwright.foundation.errors import RefusedError

MAX_HEADER_BYTES = 2 << 20  # a model of 100 layers has a header of 150 kB
_MAX_DIMENSIONS = 8
_CHUNK = 1 << 20  # numbers that are converted at once

# The format's names of the number formats that are weights as they stand.
FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_BYTES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1},
    **{"I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8},
}
# What else stands under this name in the wild, by its first bytes.
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as `torch.save` writes it: a pickle, which can run code",
    b"\x80": "a pickle, which can run code",
    b"\x89HDF": "HDF5",
    b"GGUF": "GGUF",
    b"\x1f\x8b": "gzip",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
}


class Entry(NamedTuple):
    """Where a tensor stands in its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # in the file
    end: int


class TensorFile:
    """A safetensors file whose header is sound, open for reading.

    Raises:
        RefusedError: another format, or a header that lies about types, shapes, places or sizes.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file: IO[bytes] = path.open("rb", buffering=0)
        except OSError as error:
            raise self._damaged(f"it cannot be read: {error.strerror}") from error
        try:
            self.entries = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _damaged(self, problem: str) -> RefusedError:
        return RefusedError(
            f"the weights of `{self.path.parent}` are damaged: `{self.path.name}`: {problem}",
            hint="copy the model again",
        )

    def _read_header(self) -> dict[str, Entry]:
        size = self.path.stat().st_size
        head = self._file.read(32)
        for magic, name in _FOREIGN.items():
            # A header's length begins with a byte of its own, so only what cannot be one counts.
            if head.startswith(magic) and (len(magic) > 1 or not head[8:].startswith(b"{")):
                raise RefusedError(
                    f"the weights of `{self.path.parent}` are not safetensors: `{self.path.name}` is {name}",
                    hint="convert the model to safetensors with its own tools",
                )
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or length > size - 8:
            raise self._damaged(f"it has {size} bytes, its header should have {length}")
        if length > MAX_HEADER_BYTES:
            raise self._damaged(f"its header has {length} bytes, at most {MAX_HEADER_BYTES} are read")
        self._file.seek(8)
        try:
            header = json.loads(self._file.read(length), object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is not sound JSON: {error}") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is not an object")
        header.pop("__metadata__", None)
        return self._checked(header, start=8 + length, size=size)

    def _checked(self, header: dict[str, Any], *, start: int, size: int) -> dict[str, Entry]:
        entries = {}
        for name, value in header.items():
            problem = _entry_problem(value)
            if problem is not None:
                raise self._damaged(f"`{name[:200]}`: {problem}")
            begin, end = value["data_offsets"]
            entries[name] = Entry(value["dtype"], tuple(value["shape"]), start + begin, start + end)
        place = start
        for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
            if entry.start != place:
                what = "overlaps the one before" if entry.start < place else "leaves a hole before it"
                raise self._damaged(f"`{name[:200]}` {what}")
            place = entry.end
        if place != size:
            raise self._damaged(f"it has {size} bytes, its header accounts for {place}")
        return entries

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill a float32 tensor of the same number of elements, in the file's order.

        Raises:
            RefusedError: the file ends early, or a number is not finite.
        """
        entry = self.entries[name]
        dtype = FLOATS[entry.dtype]
        flat = target.view(-1)
        self._file.seek(entry.start)
        for begin in range(0, flat.numel(), _CHUNK):
            part = flat[begin : begin + _CHUNK]
            raw = part if dtype == torch.float32 else torch.empty(part.numel(), dtype=dtype)
            self._fill(raw)
            if raw is not part:
                part.copy_(raw)
            if not torch.isfinite(part).all():
                raise RefusedError(f"the weights of `{self.path.parent}` are not finite: `{name}`")

    def equals(self, name: str, values: Tensor) -> bool:
        """Whether a tensor has this shape and, in float32, these numbers; one of them is in memory in parts only.

        Raises:
            RefusedError: the file ends early.
        """
        entry = self.entries[name]
        if entry.shape != tuple(values.shape) or entry.dtype not in FLOATS:
            return False
        flat = values.view(-1)
        self._file.seek(entry.start)
        for begin in range(0, flat.numel(), _CHUNK):
            part = flat[begin : begin + _CHUNK]
            raw = torch.empty(part.numel(), dtype=FLOATS[entry.dtype])
            self._fill(raw)
            if not torch.equal(raw.to(part), part):
                return False
        return True

    def _fill(self, raw: Tensor) -> None:
        view = memoryview(cast(Buffer, raw.view(torch.uint8).numpy())).cast("B")
        while view:
            count = self._file.readinto(view)  # type: ignore[attr-defined]
            if not count:
                raise self._damaged("it ends before its last number")
            view = view[count:]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands there twice")
    return value


def _entry_problem(value: Any) -> str | None:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        return "its entry is not `dtype`, `shape` and `data_offsets`"
    if not isinstance(value["dtype"], str) or value["dtype"] not in _BYTES:
        return f"an unknown type: {str(value['dtype'])[:40]}"
    shape, offsets = value["shape"], value["data_offsets"]
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        return "its shape is not a short list of counts"
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        return "its place is not a beginning and an end"
    needed = math.prod(shape) * _BYTES[value["dtype"]]
    if offsets[1] - offsets[0] != needed:
        return f"its shape needs {needed} bytes, its place has {offsets[1] - offsets[0]}"
    return None


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
