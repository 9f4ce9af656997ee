"""A model on disk: a Hugging Face directory and nothing else, with its lineage in `chatwright.json`.

Foreign directories of the families we know open here too. Whatever is damaged, missing or not understood is refused
as a whole; nothing is ever loaded half, and no code comes from files.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.model.config import ModelConfig
from chatwright.model.families import StoredTensor, from_hugging_face, layout, to_hugging_face
from chatwright.model.foreign import require_own_file, require_own_files
from chatwright.model.generation_config import GENERATION_CONFIG, generation_config
from chatwright.model.network import Network
from chatwright.model.prompts import stop_tokens
from chatwright.model.quantised import Numbers
from chatwright.model.weights import WEIGHTS, WEIGHTS_INDEX, read_network, read_values, weight_files
from chatwright.tokens.soundness import require_sound_tokenizer
from chatwright.tokens.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "LINEAGE",
    "WEIGHTS",
    "WEIGHTS_INDEX",
    "LoadedModel",
    "OpenedModel",
    "load_model",
    "open_model",
    "read_config",
    "save_model",
]

LINEAGE = "chatwright.json"
TEMPLATE = "chat_template.jinja"
_FORMAT = "chatwright.model"
_VERSION = 1
_MAX_CONFIG_BYTES = 1 << 20
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoadedModel(NamedTuple):
    """What a model directory holds."""

    network: Network
    tokenizer: Tokenizer
    lineage: dict[str, Any]  # empty for foreign models
    digest: str  # of the weights' and tokenizer's files


class OpenedModel(NamedTuple):
    """A model directory in which all but the weights was read and found sound."""

    directory: Path
    config: ModelConfig
    tokenizer: Tokenizer
    head: dict[str, Any]  # what `write_head` wrote; empty for foreign models

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Its weights in float32 by parameter, one tensor at a time; what is wrong with them is refused on the way."""
        return read_values(self.directory, self.config)


def save_model(
    directory: Path,
    network: Network,
    tokenizer: Tokenizer,
    *,
    lineage: dict[str, Any],
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    generation: Mapping[str, Any] | None = None,
) -> str:
    """Write a model directory, whole or not at all; returns its digest.

    Args:
        directory: where; nothing stands there.
        network: its weights.
        tokenizer: of its ids.
        lineage: what it was made from.
        dtype: the number format of the weights in the file.
        generation: how its makers say that it is to be asked, where that is known.
    """
    with storage.publish(directory) as scratch:
        state = network.state_dict()
        weights = {tensor.name: _stored(tensor, state, _DTYPES[dtype]) for tensor in layout(network.config)}
        save_file(weights, scratch / WEIGHTS, metadata={"format": "pt"})
        tokenizer.save(scratch)
        end = tokenizer.end_of_text
        ends = stop_tokens(tokenizer)
        begin = tokenizer.begin_of_text
        config = to_hugging_face(network.config, begin=begin, ends=ends, pad=end, dtype=dtype)
        storage.write_json(scratch / "config.json", config)
        asked = generation_config(generation or {}, begin=begin, ends=ends, pad=end)
        storage.write_json(scratch / GENERATION_CONFIG, asked)
        told = {"tokenizer": tokenizer.digest, "lineage": lineage}
        digest = write_head(scratch, kind=_FORMAT, version=_VERSION, told=told)
    # The manifest that publishing wrote repeats what `chatwright.json` says; a model directory holds nothing else.
    (directory / storage.MANIFEST).unlink()
    return digest


def write_head(directory: Path, *, kind: str, version: int, told: dict[str, Any]) -> str:
    """List the files of a model directory with their digests beside what is told of it; returns the model's digest."""
    files = {path.name: storage.digest_file(path) for path in sorted(directory.iterdir())}
    digest = storage.digest_json(files)
    head = {"format": kind, "version": version, "digest": digest, "files": files}
    storage.write_json(directory / LINEAGE, {**head, **told})
    return digest


def _stored(tensor: StoredTensor, state: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    parts = [state[part].detach().cpu() for part in tensor.parts]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (whole.T if tensor.is_transposed else whole).to(dtype).contiguous()


def no_model(directory: Path) -> RefusedError:
    """What is told of a directory that holds no model, with the models that stand below it."""
    if not directory.exists():
        what = f"`{directory}` is not a model directory: there is no such folder"
    else:
        what = f"`{directory}` is not a model directory: it has no `config.json`"
    places = (directory, *(directory / below for below in ("finetune", "pretrain")))  # a run, or one of its stages
    found = [place / "model" for place in places if (place / "model" / "config.json").is_file()]
    named = " or ".join(f"`{place}`" for place in found) or "a directory such as `runs/demo/finetune/model`"
    return RefusedError(what, hint=f"name {named}")


def read_config(directory: Path, *, is_classifier: bool = False) -> ModelConfig:
    """The shape of a model directory, without its weights; of one that scores whole texts where asked."""
    path = directory / "config.json"
    require_own_file(path)
    if not path.is_file():
        raise no_model(directory)
    value = storage.read_json(path, max_bytes=_MAX_CONFIG_BYTES)
    if not isinstance(value, dict):
        raise RefusedError(f"`{path}` is not an object")
    return from_hugging_face(value, where=str(path), is_classifier=is_classifier)


def load_model(directory: Path, *, device: torch.device | str = "cpu", numbers: Numbers = "float32") -> LoadedModel:
    """Open a model directory in float32, or with its matrices frozen in few bits.

    Its weights are held once: each is read into its place.

    Raises:
        RefusedError: files missing or damaged, links out of the directory, tensors missing, extra, mis-shaped or not
            finite, a tokenizer that does not fit the model, or no memory for it; differences are listed.
    """
    opened = open_model(directory)
    network = read_network(directory, opened.config, numbers=numbers).to(device)
    digest = opened.head["digest"] if opened.head else storage.digest_json(_file_digests(directory))
    return LoadedModel(network, opened.tokenizer, opened.head.get("lineage", {}), str(digest))


def open_model(directory: Path) -> OpenedModel:
    """Check a model directory as `load_model` does, up to its weights, which need not fit the memory whole.

    Raises:
        RefusedError: as `load_model`, for all but the weights.
    """
    config = read_config(directory)
    lineage = _verified_lineage(directory)
    require_own_files(directory)
    require_sound_tokenizer(directory / "tokenizer.json")
    tokenizer = load_tokenizer(directory)
    _read_template(directory, tokenizer)
    if tokenizer.size > config.vocabulary_size:
        raise RefusedError(
            f"tokenizer and model of `{directory}` do not fit: {tokenizer.size} tokens, {config.vocabulary_size} rows"
        )
    if lineage and lineage.get("tokenizer") != tokenizer.digest:
        raise RefusedError(f"the tokenizer of `{directory}` is not the one that its model was trained with")
    return OpenedModel(directory, config, tokenizer, lineage)


def _read_template(directory: Path, tokenizer: Tokenizer) -> None:
    """Take over a chat template that stands in a file of its own, as transformers 5 writes it. It is never run here."""
    path = directory / TEMPLATE
    if not path.is_file() or tokenizer.settings.get("chat_template"):
        return
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise RefusedError(f"`{path}` is too large for a chat template: {path.stat().st_size} bytes")
    try:
        tokenizer.settings["chat_template"] = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(f"`{path}` is not text in UTF-8: {error.reason} at byte {error.start}") from error


def digest_of(directory: Path) -> str:
    """The digest of a model directory, without reading its weights if it is one of ours."""
    path = directory / LINEAGE
    value = storage.read_json(path) if path.is_file() else {}
    if isinstance(value, dict) and isinstance(value.get("digest"), str):
        return str(value["digest"])
    return storage.digest_json(_file_digests(directory))


def _verified_lineage(directory: Path) -> dict[str, Any]:
    path = directory / LINEAGE
    require_own_file(path)
    return read_head(directory, kind=_FORMAT, version=_VERSION) if path.is_file() else {}


def read_head(directory: Path, *, kind: str, version: int) -> dict[str, Any]:
    """What `write_head` wrote, after every file that it lists was found there as it was saved.

    Raises:
        RefusedError: it is missing, of another kind or version, damaged, or a file is missing or was changed.
    """
    path = directory / LINEAGE
    require_own_file(path)
    value = storage.read_json(path)
    if not isinstance(value, dict) or value.get("format") != kind:
        raise RefusedError(f"`{path}` is not what chatwright writes beside a model of the kind `{kind}`")
    if value.get("version") != version:
        raise RefusedError(
            f"`{directory}` was made by another version: {value.get('version')}, this reads {version}",
            hint="upgrade chatwright",
        )
    files, told = value.get("files"), value.get("lineage")
    if not isinstance(files, dict) or not isinstance(told, dict) or value.get("digest") != storage.digest_json(files):
        raise RefusedError(f"`{path}` is damaged: its digest does not fit its list of files")
    for name, digest in files.items():
        _require_as_saved(directory, name, digest)
    return value


def _require_as_saved(directory: Path, name: str, digest: Any) -> None:
    if Path(name).name != name or name == "..":
        raise RefusedError(f"`{directory / LINEAGE}` names a file outside its directory: {name}")
    if not (directory / name).is_file():
        hint = "copy it back, or make the model again: run its recipe once more"
        raise RefusedError(f"`{directory}` is damaged: `{name}` is missing", hint=hint)
    if storage.digest_file(directory / name) != digest:
        raise RefusedError(
            f"`{directory}` is damaged: `{name}` was changed after it was saved",
            hint="make the model again: delete the directory and run its recipe once more",
        )


def _file_digests(directory: Path) -> dict[str, str]:
    paths = [*weight_files(directory), directory / "tokenizer.json", directory / "config.json"]
    return {path.name: storage.digest_file(path) for path in paths}
