"""Models for other programs: GGUF files for llama.cpp. (A Hugging Face directory is what a model is here anyway.)"""

from chatwright.model.export.gguf_file import GgufKind, GgufReport, write_gguf
from chatwright.model.export.hard_texts import hard_texts
from chatwright.model.export.parity import Mismatch, llama_cpp_is_installed, token_mismatches

__all__ = [
    "GgufKind",
    "GgufReport",
    "Mismatch",
    "hard_texts",
    "llama_cpp_is_installed",
    "token_mismatches",
    "write_gguf",
]
