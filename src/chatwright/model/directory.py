"""A model on disk: a Hugging Face directory and nothing else, with its lineage in `chatwright.json`.

Foreign directories of the families we know open here too. Whatever is damaged, missing or not understood is refused
as a whole; nothing is ever loaded half, and no code comes from files.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.model.config import ModelConfig
from chatwright.model.families import from_hugging_face, to_hugging_face
from chatwright.model.network import Network
from chatwright.tokens.tokenizer import TURN_END, Tokenizer, load_tokenizer

LINEAGE = "chatwright.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_TIED = "lm_head.weight"
_FORMAT = "chatwright.model"
_VERSION = 1
_FLOATS = ("BF16", "F16", "F32", "F64")  # safetensors' names of the number formats that are weights as they stand


class LoadedModel(NamedTuple):
    """What a model directory holds."""

    network: Network
    tokenizer: Tokenizer
    lineage: dict[str, Any]  # empty for foreign models
    digest: str  # of the weights' and tokenizer's files


def save_model(directory: Path, network: Network, tokenizer: Tokenizer, *, lineage: dict[str, Any]) -> str:
    """Write a model directory, whole or not at all; returns its digest."""
    with storage.publish(directory) as scratch:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        if network.config.tied:
            weights.pop(_TIED, None)
        save_file(weights, scratch / WEIGHTS, metadata={"format": "pt"})
        tokenizer.save(scratch)
        end = tokenizer.end_of_text
        turn = tokenizer.special(TURN_END)
        ends = [end] if turn is None else [turn, end]
        storage.write_json(scratch / "config.json", to_hugging_face(network.config, begin=end, ends=ends, pad=end))
        generation = {"bos_token_id": end, "eos_token_id": ends, "pad_token_id": end, "do_sample": False}
        storage.write_json(scratch / "generation_config.json", generation)
        files = {path.name: storage.digest_file(path) for path in sorted(scratch.iterdir())}
        digest = storage.digest_json(files)
        head = {"format": _FORMAT, "version": _VERSION, "digest": digest, "files": files}
        storage.write_json(scratch / LINEAGE, {**head, "tokenizer": tokenizer.digest, "lineage": lineage})
    # The manifest that publishing wrote repeats what `chatwright.json` says; a model directory holds nothing else.
    (directory / storage.MANIFEST).unlink()
    return digest


def read_config(directory: Path) -> ModelConfig:
    """The shape of a model directory, without its weights."""
    path = directory / "config.json"
    if not path.is_file():
        raise RefusedError(
            f"`{directory}` is not a model directory: it has no `config.json`",
            hint="name a directory such as `runs/demo/finetune/model`",
        )
    value = storage.read_json(path)
    if not isinstance(value, dict):
        raise RefusedError(f"`{path}` is not an object")
    return from_hugging_face(value, where=str(path))


def load_model(directory: Path, *, device: torch.device | str = "cpu") -> LoadedModel:
    """Open a model directory in float32.

    Raises:
        RefusedError: files missing or damaged, tensors missing, extra, mis-shaped or not finite, or a tokenizer that
            does not fit the model; differences are listed.
    """
    config = read_config(directory)
    lineage = _verified_lineage(directory)
    tokenizer = load_tokenizer(directory)
    if tokenizer.size > config.vocabulary_size:
        raise RefusedError(
            f"tokenizer and model of `{directory}` do not fit: {tokenizer.size} tokens, {config.vocabulary_size} rows"
        )
    if lineage and lineage.get("tokenizer") != tokenizer.digest:
        raise RefusedError(f"the tokenizer of `{directory}` is not the one that its model was trained with")
    weights = _read_weights(directory, config)
    network = Network(config)
    network.load_state_dict(weights, strict=not config.tied)
    network.to(device)
    digest = lineage["digest"] if lineage else storage.digest_json(_file_digests(directory))
    return LoadedModel(network, tokenizer, lineage.get("lineage", {}), str(digest))


def digest_of(directory: Path) -> str:
    """The digest of a model directory, without reading its weights if it is one of ours."""
    path = directory / LINEAGE
    value = storage.read_json(path) if path.is_file() else {}
    if isinstance(value, dict) and isinstance(value.get("digest"), str):
        return str(value["digest"])
    return storage.digest_json(_file_digests(directory))


def _verified_lineage(directory: Path) -> dict[str, Any]:
    path = directory / LINEAGE
    if not path.is_file():
        return {}
    value = storage.read_json(path)
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise RefusedError(f"`{path}` is not what chatwright writes beside a model")
    if value.get("version") != _VERSION:
        raise RefusedError(
            f"`{directory}` was made by another version: {value.get('version')}, this reads {_VERSION}",
            hint="upgrade chatwright",
        )
    files, told = value.get("files"), value.get("lineage")
    if not isinstance(files, dict) or not isinstance(told, dict) or value.get("digest") != storage.digest_json(files):
        raise RefusedError(f"`{path}` is damaged: its digest does not fit its list of files")
    for name, digest in files.items():
        if Path(name).name != name or name == "..":
            raise RefusedError(f"`{path}` names a file outside its directory: {name}")
        if not (directory / name).is_file():
            hint = "copy it back, or make the model again: run its recipe once more"
            raise RefusedError(f"`{directory}` is damaged: `{name}` is missing", hint=hint)
        if storage.digest_file(directory / name) != digest:
            raise RefusedError(
                f"`{directory}` is damaged: `{name}` was changed after it was saved",
                hint="make the model again: delete the directory and run its recipe once more",
            )
    return value


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / WEIGHTS_INDEX
    if not index.is_file():
        raise RefusedError(
            f"`{directory}` has no `{WEIGHTS}`",
            cause="only safetensors are read; `.bin`, `.pt` and other pickles can run code",
            hint="convert the model to safetensors with its own tools",
        )
    value = storage.read_json(index)
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise RefusedError(f"`{index}` does not say which file holds which weights")
    if any(Path(name).name != name or name == ".." for name in names.values()):
        raise RefusedError(f"`{index}` names a file outside its directory")
    return [directory / name for name in sorted(set(names.values()))]


def _file_digests(directory: Path) -> dict[str, str]:
    paths = [*_weight_files(directory), directory / "tokenizer.json", directory / "config.json"]
    return {path.name: storage.digest_file(path) for path in paths}


def _read_weights(directory: Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in Network(config).state_dict().items()}
    if config.tied:
        wanted.pop(_TIED)
    files = _weight_files(directory)
    try:
        met = _shapes(files)
        if config.tied:
            met.pop(_TIED, None)
        _compare(met, wanted, directory)
        tensors = {name: tensor for path in files for name, tensor in load_file(path).items() if name in wanted}
    except (SafetensorError, OSError) as error:
        raise RefusedError(f"the weights of `{directory}` are damaged: {error}", hint="copy the model again") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise RefusedError(f"the weights of `{directory}` are not finite: `{name}`")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                tensor = file.get_slice(name)
                if tensor.get_dtype() not in _FLOATS:
                    raise RefusedError(f"`{path}` holds `{name}` as {tensor.get_dtype()}, not as plain weights")
                shapes[name] = tuple(tensor.get_shape())
    return shapes


def _compare(met: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], directory: Path) -> None:
    problems = [f"missing `{name}`" for name in sorted(wanted.keys() - met.keys())]
    problems += [f"unknown `{name}`" for name in sorted(met.keys() - wanted.keys())]
    problems += [
        f"`{name}` has shape {met[name]}, expected {wanted[name]}"
        for name in sorted(wanted.keys() & met.keys())
        if met[name] != wanted[name]
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise RefusedError(f"the weights of `{directory}` do not fit its `config.json`: {shown}")
