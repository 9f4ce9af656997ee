"""Models from and for other programs: foreign directories made ours, ours written for others, each checked."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.config import ModelConfig
from chatwright.model.directory import LoadedModel, load_model, save_model
from chatwright.model.export import write_gguf
from chatwright.model.export.hugging_face import check_with_transformers
from chatwright.model.generation_config import read_generation_config
from chatwright.model.prompts import ChatEncoder
from chatwright.model.weights import stored_dtype

Numbers = Literal["f32", "f16", "bf16", "q8_0"]

_DTYPES: dict[str, Literal["float32", "float16", "bfloat16"]] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_TOLERANCE = 1e-3  # of logits read back by another program in float32


class Exchanged(NamedTuple):
    """What was made, for a person or a program."""

    path: Path
    facts: dict[str, Any]


def import_model(directory: Path, target: Path) -> Exchanged:
    """Check a Hugging Face directory and write it as a model of ours, in the number format that it has.

    Raises:
        RefusedError: whatever `load_model` refuses.
        UsageError: the target is there already.
    """
    require_absent(target)
    loaded = load_model(directory)
    config = loaded.network.config
    dtype = stored_dtype(directory, config)
    asked = read_generation_config(directory, vocabulary_size=config.vocabulary_size)
    lineage = {
        "stage": "import",
        "source": directory.resolve().name,
        "source_digest": loaded.digest,
        "source_lineage": loaded.lineage,
        "inputs": {},
    }
    save_model(target, loaded.network, loaded.tokenizer, lineage=lineage, dtype=dtype, generation=asked)
    return Exchanged(target, _facts(loaded) | {"numbers": dtype, "bytes": size_of(target)})


def export_to_hugging_face(model: Path, target: Path, *, numbers: Numbers) -> Exchanged:
    """Write a model's directory in a number format, and compare it with transformers where that is installed.

    Raises:
        RefusedError: the model is damaged, or transformers computes something else.
        UsageError: the target is there already, or a number format that directories do not have.
    """
    if numbers not in _DTYPES:
        raise UsageError(f"Hugging Face directories have no numbers of kind `{numbers}`", hint="use f32, f16 or bf16")
    require_absent(target)
    loaded = load_model(model)
    asked = read_generation_config(model, vocabulary_size=loaded.network.config.vocabulary_size)
    save_model(
        target,
        loaded.network,
        loaded.tokenizer,
        lineage=loaded.lineage,
        dtype=_DTYPES[numbers],
        generation=asked,
    )
    written = load_model(target)
    check = check_with_transformers(target, written.network, written.tokenizer, tolerance=_TOLERANCE)
    told = {"transformers": None} if check is None else {"transformers": check._asdict()}
    return Exchanged(target, _facts(written) | {"numbers": _DTYPES[numbers], "bytes": size_of(target)} | told)


def export_to_gguf(model: Path, target: Path, *, numbers: Numbers) -> Exchanged:
    """Write a model as a GGUF file for llama.cpp; ids are compared where llama.cpp is installed.

    Raises:
        RefusedError: the model is damaged, or llama.cpp would compute or read it differently.
        UsageError: the target is there already, or a number format that is not written here.
    """
    if numbers == "bf16":
        raise UsageError("GGUF files with numbers of the kind `bf16` are not written", hint="use f32, f16 or q8_0")
    require_absent(target)
    loaded = load_model(model)
    report = write_gguf(target, loaded.network, loaded.tokenizer, kind=numbers, name=model.resolve().name)
    facts = {"numbers": numbers, "bytes": report.bytes, "pattern": report.pattern}
    return Exchanged(target, _facts(loaded) | facts | {"compared": report.texts_compared, "notes": list(report.notes)})


def require_absent(target: Path) -> None:
    """Nothing is written over.

    Raises:
        UsageError: the target is there.
    """
    if target.exists():
        raise UsageError(f"`{target}` is there already", hint="name another place with `--out`, or delete it first")


def _facts(loaded: LoadedModel) -> dict[str, Any]:
    config: ModelConfig = loaded.network.config
    try:
        form = ChatEncoder(loaded.tokenizer).form.name
    except RefusedError:
        form = None
    return {
        "family": config.family,
        "parameters": config.num_parameters(),
        "context_length": config.context_length,
        "vocabulary_size": config.vocabulary_size,
        "turn_form": form,
    }


def size_of(directory: Path) -> int:
    """Bytes of the files of a directory."""
    return sum(path.stat().st_size for path in directory.iterdir())
