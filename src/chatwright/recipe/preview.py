"""The dry run: what a recipe would do, how large its model is, what training takes. Touches and downloads nothing.

Memory and operations are estimates from shapes; how fast this machine is, is not measured here.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from chatwright.recipe.report.facts import WORK
from chatwright.recipe.runner import _plan, _published, device_problems, missing_problems
from chatwright.recipe.stages import stages_of
from chatwright.train.footprint import FLOAT_BYTES, static_bytes
from chatwright.train.pretrain import PretrainConfig
from chatwright.tune.finetune_settings import FinetuneConfig
from chatwright.tune.memory import foretold

_BYTES_PER_TOKEN = 3.0  # of conversations, a cautious guess before the tokenizer is known
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


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
        elif (recipe.run_dir / WORK / f"{stage.name}-{plan.key[:16]}").is_dir():
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
    by_adam = 0 if settings.optimizer.kind == "muon" else shape.layers * shape.block_matrices()
    return {
        "steps": settings.steps,
        "tokens_per_step": tokens_per_step,
        "tokens": tokens,
        "training_flops": tokens * shape.flops_per_token(),
        "memory_bytes": static_bytes(shape) + FLOAT_BYTES * by_adam,  # a second moment of the blocks' matrices
    }


def _finetuning(config: FinetuneConfig, shape: ModelConfig, *, has_own_base: bool) -> dict[str, Any]:
    """Steps are exact; tokens are guessed from the conversations' bytes, base text that is replayed left out."""
    conversations = read_conversations(Path(config.data))
    num_bytes = sum(len(message.content.encode()) for item in conversations for message in item.messages)
    tokens = round(config.epochs * num_bytes / _BYTES_PER_TOKEN)
    trained = _trained(config, shape, has_own_base=has_own_base)
    # Frozen matrices need no gradients of their own: forward and backward through them, 4 of the 6 operations a weight.
    share = 1.0 if config.method == "all" else 4 / 6
    return {
        "conversations": len(conversations),
        "steps": max(1, math.ceil(config.epochs * len(conversations) / config.batch_rows)),
        "trained_parameters": trained,
        "tokens_about": tokens,
        "training_flops": tokens * shape.flops_per_token() * share,
        "memory_bytes": foretold(
            shape,
            numbers=config.base_numbers,
            trained=trained,
            is_beside=config.is_beside,
            tokens=config.micro_tokens,
        ).total,
    }


def _trained(config: FinetuneConfig, shape: ModelConfig, *, has_own_base: bool) -> int:
    """A base of our own pretraining never met the two turn markers, so their embeddings are trained too."""
    with torch.device("meta"):  # shapes without memory
        network = Network(shape)
        rows = (0, 1) if has_own_base else ()
        if config.method == "lora":
            return Adapter(network, config.lora, trained_tokens=rows).num_parameters()
        if config.method == "adapters":
            return Bottlenecks(network, config.adapters, trained_tokens=rows).num_parameters()
        chosen = network if config.method == "all" else select(network, config.method)
        return sum(part.numel() for part in chosen.parameters())


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
    if "pretrain" in result:
        lines.append("memory of pretraining: weights, gradients and optimizer; activations come on top, by micro_rows")
    if "finetune" in result:
        lines.append("memory of fine-tuning: about, at its peak, the program itself included")
    if "pretrain" in result or "finetune" in result:
        lines.append("time: not measured here; `chatwright plan` measures this machine")
    return "\n".join(lines)


def _shown(key: str, value: Any) -> str:
    if key == "training_flops":
        return f"{value:.2g}"
    if key == "memory_bytes":
        return f"{value / 1e9:.2f} GB"
    return f"{value:,}" if isinstance(value, int) else str(value)
