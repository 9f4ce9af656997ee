"""From a directory's safetensors files to a network: all checked first, then read once, each number into its place."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.foundation.memory import available_bytes
from chatwright.model.config import ModelConfig
from chatwright.model.families import OUTPUT, StoredTensor, layout, own_name
from chatwright.model.foreign import require_own_file
from chatwright.model.network import Network
from chatwright.model.quantised import Numbers, Workspace, pack_layer, packs, weight_bytes
from chatwright.model.tensors import FLOATS, TensorFile

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 4 << 20
_MAX_SHARDS = 1_000
_FREE_TABLE_BYTES = 64 << 20
_SHOWN = 8  # differences that an error lists
_EMBEDDING = "model.embed_tokens.weight"  # our name of it


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory, in order.

    Raises:
        RefusedError: there are none, or an index that leads elsewhere.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / WEIGHTS_INDEX
    if not index.is_file():
        raise RefusedError(
            f"`{directory}` has no `{WEIGHTS}`",
            cause="only safetensors are read; `.bin`, `.pt` and other pickles can run code",
            hint="convert the model to safetensors with its own tools",
        )
    names = sorted(set(_weight_map(index).values()))
    if len(names) > _MAX_SHARDS:
        raise RefusedError(f"`{index}` names {len(names)} files, at most {_MAX_SHARDS} are read")
    return [directory / name for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    value = storage.read_json(index, max_bytes=_MAX_INDEX_BYTES)
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise RefusedError(f"`{index}` does not say which file holds which weights")
    for name in names.values():
        if Path(name).name != name or name in ("", "..") or "\0" in name or "\\" in name:
            raise RefusedError(f"`{index}` names a file outside its directory: {name[:200]!r}")
        if not name.endswith(".safetensors"):
            raise RefusedError(f"`{index}` names `{name[:200]}`, and only safetensors are read")
    return names


def read_network(directory: Path, config: ModelConfig, *, numbers: Numbers = "float32") -> Network:
    """A network with the weights of a directory, in float32 or with its matrices in few bits.

    In few bits, one matrix at a time is in memory in float32: what a network has not read into takes none.

    Raises:
        RefusedError: damaged files, differences from the configuration, numbers that are not finite, or no memory.
    """
    with _opened(directory, config) as stored:
        _require_memory(directory, config, numbers, held=weight_bytes(config, numbers))
        network = Network.without_values(config, "cpu")
        parameters = dict(network.named_parameters(remove_duplicate=False))
        workspace = Workspace()
        for tensor in stored.tensors:
            _read(stored.places[tensor.name], tensor, parameters)
            if numbers != "float32":
                _pack(network, tensor, parameters, numbers, workspace)
        if config.tied:
            _require_tied(stored.files, network.model.embed_tokens.weight.detach(), directory)
    return network


def read_values(directory: Path, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The weights of a directory in float32 by parameter, one tensor of its files at a time: for a network in shards.

    Raises:
        RefusedError: as `read_network`; what is wrong with a tensor's numbers only once it is read.
    """
    with _opened(directory, config) as stored:
        largest = max(math.prod(tensor.shape) for tensor in stored.tensors)
        _require_memory(directory, config, "float32", held=torch.float32.itemsize * largest)
        for tensor in stored.tensors:
            for part, value in _parts(stored.places[tensor.name], tensor):
                if config.tied and part == _EMBEDDING:
                    _require_tied(stored.files, value, directory)
                yield part, value
                del value  # whoever asked for it has it; the next one is made without it


def stored_dtype(directory: Path, config: ModelConfig) -> Literal["float32", "float16", "bfloat16"]:
    """The number format that all weights of a directory's files share; float32 where they differ.

    What `config.json` says of it is not asked: it is often what the model was trained in, not what the files hold.

    Raises:
        RefusedError: as `read_network`, where a header is damaged.
    """
    names: dict[str, Literal["float32", "float16", "bfloat16"]] = {"F16": "float16", "BF16": "bfloat16"}
    found = set()
    for path in weight_files(directory):
        with _open(path) as file:
            found |= {entry.dtype for name, entry in file.entries.items() if own_name(name, config) is not None}
    return names.get(found.pop(), "float32") if len(found) == 1 else "float32"


def _pack(
    network: Network,
    tensor: StoredTensor,
    parameters: dict[str, torch.nn.Parameter],
    numbers: Literal["int8", "nf4"],
    workspace: Workspace,
) -> None:
    for part in tensor.parts:
        if packs(part):
            pack_layer(network, part, numbers, workspace)
            del parameters[part]  # the last that held it


class _Place:
    """A tensor of a file, under the name that the file gives it."""

    def __init__(self, file: TensorFile, name: str):
        self.file = file
        self.name = name
        self.shape = file.entries[name].shape


class _Stored(NamedTuple):
    """The files of a model, open, whose headers are sound and fit its configuration."""

    files: list[TensorFile]
    places: dict[str, _Place]  # by the name of the tensor
    tensors: list[StoredTensor]


@contextmanager
def _opened(directory: Path, config: ModelConfig) -> Iterator[_Stored]:
    """The files of a directory, checked before any number is read."""
    wanted = {tensor.name: tensor for tensor in layout(config)}
    files: list[TensorFile] = []
    try:
        files += map(_open, weight_files(directory))
        places = _places(files, config, directory)
        _compare({name: place.shape for name, place in places.items()}, wanted, directory)
        yield _Stored(files, places, list(wanted.values()))
    finally:
        for file in files:
            file.__exit__(None, None, None)


def _open(path: Path) -> TensorFile:
    require_own_file(path)
    if not path.is_file():
        raise RefusedError(f"the weights of `{path.parent}` are damaged: `{path.name}` is missing")
    return TensorFile(path)


def _places(files: list[TensorFile], config: ModelConfig, directory: Path) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    for file in files:
        for name, entry in file.entries.items():
            own = own_name(name, config)
            if own is None:
                continue
            if own in places:
                raise RefusedError(f"the weights of `{directory}` are damaged: `{name}` stands there twice")
            if entry.dtype not in FLOATS:
                raise RefusedError(f"`{file.path}` holds `{name}` as {entry.dtype}, not as plain weights")
            places[own] = _Place(file, name)
    return places


@torch.no_grad()
def _read(place: _Place, tensor: StoredTensor, parameters: dict[str, torch.nn.Parameter]) -> None:
    if len(tensor.parts) == 1 and not tensor.is_transposed:
        place.file.read_into(place.name, parameters[tensor.parts[0]].data)
        return
    for part, values in _parts(place, tensor):
        parameters[part].copy_(values)


def _parts(place: _Place, tensor: StoredTensor) -> Iterator[tuple[str, Tensor]]:
    """The parameters that stand in one tensor of a file, which is read whole."""
    whole = torch.empty(tensor.shape)
    place.file.read_into(place.name, whole)
    rows = torch.split(whole.T if tensor.is_transposed else whole, list(tensor.rows))
    yield from zip(tensor.parts, rows, strict=True)


def _require_tied(files: list[TensorFile], embedding: Tensor, directory: Path) -> None:
    """Output weights that a tied model's files hold once more must be the embedding, or they would be lost."""
    for file in files:
        if OUTPUT in file.entries and not file.equals(OUTPUT, embedding):
            raise RefusedError(
                f"the `config.json` of `{directory}` ties input and output, but its `{OUTPUT}` is not its embedding",
                hint='set "tie_word_embeddings": false in its `config.json` if the output weights are to be used',
            )


def _compare(met: dict[str, tuple[int, ...]], wanted: dict[str, StoredTensor], directory: Path) -> None:
    problems = [f"missing `{name}`" for name in sorted(wanted.keys() - met.keys())]
    problems += [f"unknown `{name[:200]}`" for name in sorted(met.keys() - wanted.keys())]
    problems += [
        f"`{name}` has shape {met[name]}, expected {wanted[name].shape}"
        for name in sorted(wanted.keys() & met.keys())
        if met[name] != wanted[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        shown += f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise RefusedError(f"the weights of `{directory}` do not fit its `config.json`: {shown}")


def _require_memory(directory: Path, config: ModelConfig, numbers: Numbers, *, held: int) -> None:
    """An honest model may be too large for this machine, and a dishonest one may ask for huge tables.

    Args:
        directory: of the model.
        config: its shape.
        numbers: in which it is held.
        held: bytes of its weights that are in memory at once.
    """
    weights = weight_bytes(config, numbers)
    tables = 0 if config.is_gpt2 else 4 * config.context_length * config.head_width
    if tables > max(_FREE_TABLE_BYTES, weights):
        raise RefusedError(
            f"`{directory}` claims a context of {config.context_length} tokens, heads of width {config.head_width}: "
            f"its table of positions would take {tables >> 20} MiB, its weights {weights >> 20} MiB",
            hint="set `max_position_embeddings` in its `config.json` to what you need",
        )
    free = available_bytes()
    if free is not None and held + tables > free:
        raise RefusedError(
            f"`{directory}` needs {(held + tables) >> 20} MiB of memory in {numbers}, {free >> 20} MiB are free",
            hint="use a smaller model, a machine with more memory, or end other programs",
        )
