"""The llama.cpp side of bench/serve.py: run by the peer's own Python, which has llama-cpp-python and gguf."""

import argparse
import ctypes
import json
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: Path, target: Path, kind: str) -> None:
    """The model's weights without a vocabulary: both sides are given ids."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(str(target), "qwen3")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, tensor in load_file(model / "model.safetensors").items():
        ours = name.removeprefix("model.").removesuffix(".weight")
        if ours.startswith("layers."):
            _, number, rest = ours.split(".", 2)
            theirs = f"blk.{number}.{NAMES[rest]}.weight"
        else:
            theirs = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[ours]
        if kind == "q8_0" and tensor.ndim > 1:
            packed = gguf.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(theirs, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(theirs, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """llama.cpp's own calls: a batch of tokens in, the likeliest next ids out."""

    def __init__(self, path: Path, *, threads: int, rows: int, length: int):
        llama_cpp.llama_log_set(SILENT, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = rows * length
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_seq_max = rows
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        self.size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def read(self, tokens: list[tuple[int, int, int]], wanted: list[int]) -> list[int]:
        """Each token is (id, position, row); `wanted` are the places whose next token is asked for."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, (number, position, row) in enumerate(tokens):
            batch.token[place], batch.pos[place] = number, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = place in wanted
        assert llama_cpp.llama_decode(self.context, batch) == 0
        found = []
        for place in wanted:
            pointer = llama_cpp.llama_get_logits_ith(self.context, place)
            found.append(int(np.ctypeslib.as_array(pointer, (self.size,)).argmax()))
        llama_cpp.llama_batch_free(batch)
        return found

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)


@llama_cpp.llama_log_callback
def SILENT(level, text, data):  # noqa: ANN001, ANN201, N802, ARG001
    """No log."""


def measure(path: Path, options: argparse.Namespace) -> dict:
    rows = options.rows
    engine = Llama(path, threads=options.threads, rows=rows, length=len(options.prompts[0]) + options.new + 64)
    prefill = []
    for _ in range(options.repeats):
        engine.forget()
        prompt = options.prompts[0]
        began = time.perf_counter()
        engine.read([(number, place, 0) for place, number in enumerate(prompt)], [len(prompt) - 1])
        prefill.append(len(prompt) / (time.perf_counter() - began))
    engine.forget()
    ids = [list(prompt) for prompt in options.prompts[:rows]]
    for row, written in enumerate(ids):
        tokens = [(number, place, row) for place, number in enumerate(written)]
        written.extend(engine.read(tokens, [len(tokens) - 1]))
    steps = []
    for _ in range(options.new):
        began = time.perf_counter()
        found = engine.read([(r[-1], len(r) - 1, row) for row, r in enumerate(ids)], list(range(rows)))
        for row, number in zip(ids, found, strict=True):
            row.append(number)
        steps.append(time.perf_counter() - began)
    length = len(options.prompts[0])
    return {"prefill": prefill, "steps": steps, "ids": [row[length:] for row in ids]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--task", type=Path, required=True, help="JSON: prompts, rows, new, repeats, threads")
    parser.add_argument("--kind", choices=("f32", "q8_0"), required=True)
    arguments = parser.parse_args()
    options = argparse.Namespace(**json.loads(arguments.task.read_text()))
    path = arguments.model.with_name(f"{arguments.kind}.gguf")
    if not path.exists():
        write_gguf(arguments.model, path, arguments.kind)
    print(json.dumps(measure(path, options)))


if __name__ == "__main__":
    main()
