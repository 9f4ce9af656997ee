"""The dry run: what a recipe would do, how large its model is, what training takes. Touches and downloads nothing.

Memory and operations are estimates from shapes; how fast this machine is, is not measured here.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from chatwright.data.sources import Files, Hub, Source, Warc, Wikipedia, fingerprint, list_partitions
from chatwright.data.sources.files import list_files
from chatwright.feedback.conversations import read_conversations
from chatwright.foundation import storage
from chatwright.foundation.errors import ChatwrightError, ConfigError
from chatwright.model.adapter import Adapter
from chatwright.model.bottleneck import Bottlenecks
from chatwright.model.config import ModelConfig
from chatwright.model.directory import read_config
from chatwright.model.network import Network
from chatwright.model.selection import select
from chatwright.recipe.recipe import Recipe
from chatwright.recipe.runner import _WORK, _plan, _published, device_problems, missing_problems
from chatwright.recipe.stages import stages_of
from chatwright.train.pretrain import PretrainConfig
from chatwright.tune.finetune_settings import FinetuneConfig

_FLOAT = 4  # bytes; weights, gradients and moments are float32 in training
_BYTES_PER_TOKEN = 3.0  # of conversations, a cautious guess before the tokenizer is known
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class _Trained(NamedTuple):
    """What a training holds in memory, in numbers of parameters."""

    total: int
    trained: int
    by_muon: int  # of the trained ones; Muon keeps one moment, AdamW two


def preview(recipe: Recipe) -> dict[str, Any]:
    """What `run_recipe` would do, without doing any of it.

    Returns:
        `run`, `stages` (name -> `unchanged`, `interrupted` or `would be done`), `model`, `pretrain`, `finetune` as far
        as the recipe has them, and `from_the_network`: data sets that only the run itself can reach.

    Raises:
        ConfigError: files or folders that the recipe names are missing or unsound, all of them listed.
    """
    problems = list(_problems(recipe))
    if problems:
        raise ConfigError(f"recipe `{recipe.name}`", problems)
    stages, done = _stage_states(recipe)
    result: dict[str, Any] = {"run": str(recipe.run_dir), "stages": stages}
    network = [address for source in _sources(recipe) if (address := _on_the_network(source))]
    if network:
        result["from_the_network"] = network
    read = {source.path: _size(source) for source in _sources(recipe) if isinstance(source, Files) and source.path}
    result["sources"] = {path: size for path, size in read.items() if not _is_remote(path)}
    shape = _shape(recipe, done)
    if shape is not None:
        result["model"] = _model(shape)
        if recipe.pretrain is not None:
            result["pretrain"] = _pretraining(recipe.pretrain, shape)
        if recipe.finetune is not None:
            result["finetune"] = _finetuning(recipe.finetune, shape, has_own_base=recipe.pretrain is not None)
    return result


def _sources(recipe: Recipe) -> tuple[Source, ...]:
    return () if recipe.collect is None else recipe.collect.sources


def _size(source: Files) -> dict[str, int]:
    """Files that would be read, and their bytes; none of a place on the network, which is not asked."""
    listed = [] if _is_remote(source.path) else list_files(source)
    return {"files": len(listed), "bytes": sum(one.size for one in listed)}


def _is_remote(path: str) -> bool:
    return "://" in path


def _on_the_network(source: Source) -> str:
    """What a source reads from elsewhere, empty if all of it is on this machine."""
    if isinstance(source, Hub):
        return source.dataset
    path = str(getattr(source, "path", ""))
    return path if _is_remote(path) else ""


def _problems(recipe: Recipe) -> Iterator[str]:
    """Everything outside the run that is missing, one sentence each."""
    for number, source in enumerate(_sources(recipe)):
        yield from _source_problems(source, f"collect.sources.{number}")
    if recipe.base is not None:
        yield from _base_problems(Path(recipe.base.model))
    if recipe.finetune is not None:
        yield from _conversation_problems(recipe.finetune.data, "finetune.data")
        yield from _conversation_problems(recipe.finetune.test, "finetune.test")
    stages = {stage.name for stage in stages_of(recipe)}
    yield from device_problems(recipe, stages)
    yield from missing_problems(recipe, stages - {"finetune", "evaluate"})  # whose files are read, not only looked for
    if recipe.evaluate is not None:
        if recipe.finetune is None or recipe.evaluate.answers != recipe.finetune.test:  # else it is told above
            yield from _conversation_problems(recipe.evaluate.answers, "evaluate.answers")
        yield from _conversation_problems(recipe.evaluate.references, "evaluate.references")


def _source_problems(source: Source, key: str) -> Iterator[str]:
    if _on_the_network(source):
        return
    try:
        fingerprint(source)
        if isinstance(source, Files):
            list_files(source)
        elif isinstance(source, Warc | Wikipedia):
            list_partitions(source)
    except ChatwrightError as error:
        yield f"`{key}`: {_in_one_line(error)}"


def _base_problems(model: Path) -> Iterator[str]:
    if not model.is_dir():
        yield (
            f"`base.model`: there is no folder `{model}`; it takes a model in Hugging Face's layout (`config.json`, "
            "`tokenizer.json`, `model.safetensors`) of the Qwen3 or Llama family: download one from the Hugging Face "
            "hub into that folder, or name the `model` folder of a run of yours"
        )
        return
    try:
        read_config(model)
    except ChatwrightError as error:
        yield f"`base.model`: {_in_one_line(error)}"
    if not any((model / name).is_file() for name in _WEIGHTS):
        yield f"`base.model`: `{model}` has no `{_WEIGHTS[0]}`; only safetensors are read"
    if not (model / "tokenizer.json").is_file():
        yield f"`base.model`: `{model}` has no `tokenizer.json`"


def _conversation_problems(path: str | None, key: str) -> Iterator[str]:
    if not path:
        return
    try:
        read_conversations(Path(path))
    except ChatwrightError as error:
        yield f"`{key}`: {_in_one_line(error)}"


def _in_one_line(error: ChatwrightError) -> str:
    said = " ".join(line.strip() for line in error.what.splitlines())
    return f"{said}; {error.hint}" if error.hint else said


def _stage_states(recipe: Recipe) -> tuple[dict[str, str], dict[str, storage.Manifest]]:
    """The state of each stage, and the manifests of those that are done."""
    states: dict[str, str] = {}
    done: dict[str, storage.Manifest] = {}
    for stage in stages_of(recipe):
        needed = {place.split("/", maxsplit=1)[0] for place in stage.inputs(recipe).values()} - {"base"}
        states[stage.name] = "would be done"
        if not needed <= done.keys():
            continue  # its inputs are not there yet, so that its key cannot be known
        plan = _plan(stage, recipe, recipe.run_dir)
        manifest = _published(plan)
        if manifest is not None:
            done[stage.name] = manifest
            states[stage.name] = "unchanged"
        elif (recipe.run_dir / _WORK / f"{stage.name}-{plan.key[:16]}").is_dir():
            states[stage.name] = "interrupted"
    return states, done


def _shape(recipe: Recipe, done: dict[str, storage.Manifest]) -> ModelConfig | None:
    """The shape that would be trained: the base's, or the recipe's with its vocabulary."""
    if recipe.base is not None:
        return read_config(Path(recipe.base.model))
    if recipe.pretrain is None:
        return None
    learned = done["tokenizer"].facts.get("summary", {}).get("vocabulary_size") if "tokenizer" in done else None
    size = recipe.model.vocabulary_size or learned or recipe.tokenizer.vocabulary_size
    return recipe.model.model_copy(update={"vocabulary_size": size})


def _model(shape: ModelConfig) -> dict[str, Any]:
    return {
        "family": shape.family,
        "parameters": shape.num_parameters(),
        "vocabulary_size": shape.vocabulary_size,
        "context_length": shape.context_length,
    }


def _pretraining(settings: PretrainConfig, shape: ModelConfig) -> dict[str, Any]:
    tokens_per_step = settings.batch_rows * shape.context_length
    tokens = settings.steps * tokens_per_step
    total = shape.num_parameters()
    in_blocks = _block_matrices(shape) if settings.optimizer.kind == "muon" else 0
    return {
        "steps": settings.steps,
        "tokens_per_step": tokens_per_step,
        "tokens": tokens,
        "training_flops": tokens * shape.flops_per_token(),
        "memory_bytes": _memory(_Trained(total, total, in_blocks)),
    }


def _finetuning(config: FinetuneConfig, shape: ModelConfig, *, has_own_base: bool) -> dict[str, Any]:
    """Steps are exact; tokens are guessed from the conversations' bytes, base text that is replayed left out."""
    conversations = read_conversations(Path(config.data))
    num_bytes = sum(len(message.content.encode()) for item in conversations for message in item.messages)
    tokens = round(config.epochs * num_bytes / _BYTES_PER_TOKEN)
    sizes = _finetuned(config, shape, has_own_base=has_own_base)
    # Frozen matrices need no gradients of their own: forward and backward through them, 4 of the 6 operations a weight.
    share = 1.0 if config.method == "all" else 4 / 6
    return {
        "conversations": len(conversations),
        "steps": max(1, math.ceil(config.epochs * len(conversations) / config.batch_rows)),
        "trained_parameters": sizes.trained,
        "tokens_about": tokens,
        "training_flops": tokens * shape.flops_per_token() * share,
        "memory_bytes": _memory(sizes),
    }


def _finetuned(config: FinetuneConfig, shape: ModelConfig, *, has_own_base: bool) -> _Trained:
    """A base of our own pretraining never met the two turn markers, so their embeddings are trained too."""
    total = shape.num_parameters()
    if config.method == "all":
        return _Trained(total, total, _block_matrices(shape) if config.optimizer.kind == "muon" else 0)
    if not config.is_beside:
        with torch.device("meta"):
            chosen = select(Network(shape), config.method)
        sizes = [(part.numel(), part.ndim == 2 and ".layers." in name) for name, part in chosen.named_parameters()]
        by_muon = sum(size for size, in_blocks in sizes if in_blocks and config.optimizer.kind == "muon")
        return _Trained(total, sum(part.numel() for part in chosen.parameters()), by_muon)
    with torch.device("meta"):  # shapes without memory
        rows = (0, 1) if has_own_base else ()
        network = Network(shape)
        made = (
            Adapter(network, config.lora, trained_tokens=rows)
            if config.method == "lora"
            else Bottlenecks(network, config.adapters, trained_tokens=rows)
        )
        trained = made.num_parameters()
    return _Trained(total + trained, trained, 0)


def _block_matrices(shape: ModelConfig) -> int:
    """Parameters in the matrices of the blocks, which Muon updates."""
    return shape.layers * shape.block_matrices()


def _memory(sizes: _Trained) -> int:
    """Weights, gradients and the optimizer's moments; activations come on top and grow with `micro_rows`."""
    moments = 2 * sizes.trained - sizes.by_muon
    return _FLOAT * (sizes.total + sizes.trained + moments)


def as_text(result: dict[str, Any]) -> str:
    """The result of `preview` for a person."""
    lines = [f"run: {result['run']}"]
    lines += [
        f"source: `{path}`, {size['files']:,} files, {size['bytes'] / 1e6:,.1f} MB"
        for path, size in result["sources"].items()
    ]
    lines += [f"  {name}: {state}" for name, state in result["stages"].items()]
    if "from_the_network" in result:
        lines.append(f"from the network, not checked: {', '.join(result['from_the_network'])}")
    for part in ("model", "pretrain", "finetune"):
        if part in result:
            shown = ", ".join(f"{key.replace('_', ' ')} {_shown(key, value)}" for key, value in result[part].items())
            lines.append(f"{part}: {shown}")
    if "pretrain" in result or "finetune" in result:
        lines.append(
            "memory: weights, gradients and optimizer in float32; activations come on top and grow with micro_rows"
        )
        lines.append("time: not measured here; `chatwright plan` measures this machine")
    return "\n".join(lines)


def _shown(key: str, value: Any) -> str:
    if key == "training_flops":
        return f"{value:.2g}"
    if key == "memory_bytes":
        return f"{value / 1e9:.2f} GB"
    return f"{value:,}" if isinstance(value, int) else str(value)
