"""Writing a GGUF file with the `gguf` package (an extra), tensor by tensor."""

import unicodedata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy
import torch
from torch import Tensor

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.config import ModelConfig
from chatwright.model.export.gguf_shape import ARCHITECTURES, gguf_tensors, refuse_what_differs, shape_facts
from chatwright.model.export.gguf_tokenizer import GgufTokenizer, gguf_tokenizer
from chatwright.model.export.hard_texts import hard_texts
from chatwright.model.export.parity import llama_cpp_is_installed, token_mismatches
from chatwright.model.network import Network
from chatwright.model.prompts import stop_tokens
from chatwright.tokens.tokenizer import Tokenizer

GgufKind = Literal["f32", "f16", "q8_0"]

_BLOCK_OF_Q8 = 32  # numbers that share a scale; a row must be a multiple of it
_KEPT_WHOLE = ("position_embd.weight", "rope_freqs.weight")


class GgufReport(NamedTuple):
    """What was written, and what was compared."""

    path: Path
    bytes: int
    kind: GgufKind
    pattern: str  # llama.cpp's name of the tokenizer's split pattern
    texts_compared: int | None  # with llama.cpp's ids, all equal; None where llama.cpp is not installed
    notes: tuple[str, ...]  # what a user should know


def write_gguf(path: Path, network: Network, tokenizer: Tokenizer, *, kind: GgufKind, name: str) -> GgufReport:
    """Write a model as one GGUF file, whole or not at all; its ids are compared with llama.cpp's where that is.

    Raises:
        UsageError: the `gguf` package is missing.
        RefusedError: a shape or a tokenizer that llama.cpp would compute or read differently.
    """
    gguf = _gguf()
    config = network.config
    refuse_what_differs(config)
    words = gguf_tokenizer(tokenizer, rows=config.vocabulary_size)
    notes = []
    if words.composes:
        notes.append("this tokenizer composes characters (NFC) and llama.cpp does not: decomposed text differs there")
    with storage.publish_file(path) as scratch:
        writer = gguf.GGUFWriter(str(scratch), ARCHITECTURES[config.family])
        _add_facts(writer, config, name=name, kind=kind, gguf=gguf)
        _add_tokenizer(writer, words, tokenizer)
        halved = _write_tensors(writer, network, kind=kind, gguf=gguf)
        compared = _compare(scratch, tokenizer, composes=words.composes)
    if halved:
        notes.append(f"{halved} matrices have rows that are no multiple of {_BLOCK_OF_Q8} and stand in f16")
    return GgufReport(path, path.stat().st_size, kind, words.pattern, compared, tuple(notes))


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise UsageError("writing GGUF needs the package `gguf`", hint="pip install 'chatwright[gguf]'") from None
    return gguf


def _add_facts(writer: Any, config: ModelConfig, *, name: str, kind: GgufKind, gguf: Any) -> None:
    writer.add_name(name)
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in shape_facts(config).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{writer.arch}.{key}", value)


def _add_tokenizer(writer: Any, words: GgufTokenizer, tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.pattern)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    ends = stop_tokens(tokenizer)
    writer.add_bos_token_id(tokenizer.begin_of_text)
    writer.add_eos_token_id(ends[0])
    writer.add_pad_token_id(tokenizer.end_of_text)
    writer.add_add_bos_token(tokenizer.writes_begin)  # where it says so, llama.cpp takes a template's own out
    template = tokenizer.settings.get("chat_template")
    if isinstance(template, str):
        writer.add_chat_template(template)


def _write_tensors(writer: Any, network: Network, *, kind: GgufKind, gguf: Any) -> int:
    """All tensors, announced first and then written one by one; returns how many fell back to f16."""
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    types = gguf.GGMLQuantizationType
    halved = 0
    for name, values in gguf_tensors(network.config, state):
        target = _type_of(name, values, kind)
        halved += kind == "q8_0" and target == "F16"
        size = gguf.GGML_QUANT_SIZES[types[target]]
        nbytes = values.numel() // size[0] * size[1]
        shape = gguf.quant_shape_to_byte_shape(tuple(values.shape), types[target]) if target == "Q8_0" else values.shape
        dtype = {"F32": "float32", "F16": "float16", "Q8_0": "uint8"}[target]
        writer.add_tensor_info(name, list(shape), numpy.dtype(dtype), nbytes, raw_dtype=types[target])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, values in gguf_tensors(network.config, state):
        writer.write_tensor_data(_converted(values, types[_type_of(name, values, kind)], gguf=gguf))
    writer.close()
    return halved


def _type_of(name: str, values: Tensor, kind: GgufKind) -> str:
    """Vectors, and what llama.cpp wants whole, stay in float32."""
    if kind == "f32" or values.ndim == 1 or name in _KEPT_WHOLE:
        return "F32"
    if kind == "q8_0" and values.shape[-1] % _BLOCK_OF_Q8 == 0:
        return "Q8_0"
    return "F16"


def _converted(values: Tensor, target: Any, *, gguf: Any) -> Any:
    whole = values.to(torch.float32).contiguous().numpy()
    return gguf.quants.quantize(whole, target)


def _compare(path: Path, tokenizer: Tokenizer, *, composes: bool) -> int | None:
    if not llama_cpp_is_installed():
        return None
    texts = hard_texts()
    if composes:
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    different = token_mismatches(path, tokenizer, texts)
    if different:
        first = different[0]
        raise RefusedError(
            f"llama.cpp reads {len(different)} of {len(texts)} texts differently than this tokenizer, "
            f"{first.text!r} for one: {first.theirs[:12]}, here {first.ours[:12]}",
            hint="serve the model with chatwright or another program that reads `tokenizer.json`",
        )
    return len(texts)
