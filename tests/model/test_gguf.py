"""GGUF files hold what llama.cpp computes the same from; what it would read or compute differently is refused by name.

llama.cpp itself is asked where `llama_cpp` can be imported, or by the interpreter that CHATWRIGHT_LLAMA_PYTHON names.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy
import pytest
import torch
from greedy import greedy_rows

from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.config import LinearScaling, Llama3Scaling, ModelConfig, YarnScaling
from chatwright.model.directory import save_model
from chatwright.model.exchange import export_to_gguf
from chatwright.model.export import hard_texts, write_gguf
from chatwright.model.export.gguf_shape import gguf_tensors, refuse_what_differs
from chatwright.model.export.gguf_tokenizer import QWEN2_PATTERN, gguf_tokenizer
from chatwright.tokens.tokenizer import LLAMA3_PATTERN, TokenizerConfig, load_tokenizer, train_tokenizer

gguf = pytest.importorskip("gguf")

LLAMA3 = Llama3Scaling(factor=8, low_frequency_factor=1, high_frequency_factor=4, original_context_length=32)
SHAPES = {
    "qwen3": {},
    "qwen3 untied": {"tied": False},
    "qwen3, yarn": {"rope_scaling": YarnScaling(factor=4.0, original_context_length=32)},
    "llama": {"family": "llama", "rope_base": 500_000.0, "rope_scaling": LLAMA3},
    "llama, linear, biases": {
        "family": "llama", "rope_scaling": LinearScaling(factor=2.0), "attention_bias": True, "mlp_bias": True,
    },
    "qwen2": {"family": "qwen2", "head_width": 8},
    "mistral": {"family": "mistral"},
    "smollm3": {"family": "smollm3", "layers": 5, "unrotated_layers": (3,)},
    "gpt2": {"family": "gpt2", "key_heads": 4, "head_width": 8, "norm_epsilon": 1e-5},
}  # fmt: skip
KINDS = ("f32", "f16", "q8_0")


@pytest.fixture(scope="module")
def tokenizer():
    """Learned from hard texts, so that its tokens cross all kinds of characters."""
    return train_tokenizer(hard_texts(400, seed=9), TokenizerConfig(vocabulary_size=900))


def network_of(make_network, tokenizer, shape):
    sizes = {"head_width": 16, "layers": 3, "mlp_width": 64, "context_length": 128}
    return make_network(std=0.2, vocabulary_size=tokenizer.size + 3, **{**sizes, **shape})


def read(path):
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {item.name: gguf.quants.dequantize(item.data, item.tensor_type) for item in reader.tensors}
    return fields, tensors


@pytest.mark.parametrize("name", SHAPES)
def test_every_number_stands_in_the_file(make_network, tokenizer, tmp_path, name):
    network = network_of(make_network, tokenizer, SHAPES[name])
    report = write_gguf(tmp_path / "model.gguf", network, tokenizer, kind="f32", name="x")
    fields, tensors = read(report.path)
    expected = {item.name: item.values for item in gguf_tensors(network.config, network.state_dict())}
    assert tensors.keys() == expected.keys()
    for key, values in expected.items():
        numpy.testing.assert_array_equal(tensors[key].reshape(values.shape), values.detach().numpy())
    arch = fields["general.architecture"]
    assert fields[f"{arch}.block_count"] == network.config.layers
    assert fields["tokenizer.ggml.pre"] == "llama-bpe"
    assert fields["tokenizer.chat_template"] == tokenizer.settings["chat_template"]
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.special("<|im_end|>")
    assert fields["tokenizer.ggml.tokens"][-1] == f"[PAD{tokenizer.size + 2}]"


def test_whether_a_text_begins_with_a_token_of_its_own_is_told_as_the_tokenizer_has_it(
    make_network, tokenizer, tmp_path
):
    def begin_first(value):
        end = {"id": "<|endoftext|>", "type_id": 0}
        told = {"ids": [tokenizer.end_of_text], "tokens": [end["id"]], "id": end["id"]}
        one = [{"SpecialToken": end}, {"Sequence": {"id": "A", "type_id": 0}}]
        value["post_processor"] = {
            "type": "TemplateProcessing",
            "single": one,
            "pair": [*one, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {end["id"]: told},
        }

    network = network_of(make_network, tokenizer, {})
    (tmp_path / "words").mkdir()
    for number, words in enumerate((tokenizer, changed(tokenizer, tmp_path / "words", begin_first))):
        report = write_gguf(tmp_path / f"{number}.gguf", network, words, kind="f32", name="x")
        assert read(report.path)[0]["tokenizer.ggml.add_bos_token"] == words.writes_begin == bool(number)


@pytest.mark.parametrize(("kind", "relative"), [("f16", 1e-3), ("q8_0", 1e-2)])
def test_smaller_numbers_are_near_the_weights(make_network, tokenizer, tmp_path, kind, relative):
    network = network_of(make_network, tokenizer, {})
    whole = write_gguf(tmp_path / "f32.gguf", network, tokenizer, kind="f32", name="x")
    report = write_gguf(tmp_path / "model.gguf", network, tokenizer, kind=kind, name="x")
    assert report.bytes < whole.bytes * (0.75 if kind == "f16" else 0.6)
    _, tensors = read(report.path)
    for item in gguf_tensors(network.config, network.state_dict()):
        values = item.values.detach().numpy()
        assert numpy.abs(tensors[item.name].reshape(values.shape) - values).max() <= relative * numpy.abs(values).max()


def test_rows_that_q8_cannot_hold_stand_in_f16_and_are_counted(make_network, tokenizer, tmp_path):
    network = network_of(make_network, tokenizer, {"mlp_width": 40})
    report = write_gguf(tmp_path / "model.gguf", network, tokenizer, kind="q8_0", name="x")
    assert any("3 matrices have rows that are no multiple of 32" in note for note in report.notes)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sliding_window": 8, "sliding_layers": (0,)}, "sliding window of 8 tokens"),
        ({"attention_bias": True}, "biases in the attention of `qwen3`"),
        ({"family": "smollm3", "mlp_bias": True, "unrotated_layers": (3,)}, "biases in the MLP of `smollm3`"),
        ({"family": "smollm3", "unrotated_layers": (1,)}, r"each 4th: \[1\]"),
        ({"rope_scaling": YarnScaling(factor=2.0, original_context_length=8, fast_turns=8.0)}, "YaRN with numbers"),
        ({"family": "qwen2", "head_width": 64}, "`qwen2` whose heads are together 384 wide, not 192"),
    ],
)
def test_what_llama_cpp_computes_differently_is_refused_by_name(fields, said):
    with pytest.raises(RefusedError, match=said):
        refuse_what_differs(ModelConfig(vocabulary_size=9, **fields))


def changed(tokenizer, directory, change):
    tokenizer.save(directory)
    path = directory / "tokenizer.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return load_tokenizer(directory)


def split_by(pattern):
    return lambda value: value["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": pattern})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (split_by(LLAMA3_PATTERN.replace("{1,3}", "{1,2}")), "its split pattern is"),
        (split_by("[a-z]+"), "its split pattern is"),
        (lambda value: value["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "its split pattern is"),
        (lambda value: value["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "plain byte-level"),
        (lambda value: value.update(pre_tokenizer={"type": "Whitespace"}), "plain byte-level"),
        (lambda value: value.update(normalizer={"type": "Lowercase"}), "changes text before it splits it: Lowercase"),
        (lambda value: value["model"].update(byte_fallback=True), "`byte_fallback` is set"),
        (lambda value: value["model"].update(merges=value["model"]["merges"][:-9]), "merges do not lead to"),
    ],
)
def test_a_tokenizer_that_llama_cpp_reads_differently_is_refused_with_the_reason(tokenizer, tmp_path, change, said):
    with pytest.raises(RefusedError, match=said):
        gguf_tokenizer(changed(tokenizer, tmp_path, change), rows=2_000)


def test_a_tokenizer_of_words_is_refused(word_tokenizer):
    with pytest.raises(RefusedError, match="`WordLevel`, not byte-level BPE"):
        gguf_tokenizer(word_tokenizer, rows=2_000)


def as_gpt2(value):
    value["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def test_the_three_known_patterns_are_named(tokenizer, tmp_path):
    assert gguf_tokenizer(tokenizer, rows=2_000).pattern == "llama-bpe"
    assert gguf_tokenizer(changed(tokenizer, tmp_path, split_by(QWEN2_PATTERN)), rows=2_000).pattern == "qwen2"
    assert gguf_tokenizer(changed(tokenizer, tmp_path, as_gpt2), rows=2_000).pattern == "gpt-2"


def test_a_composing_tokenizer_is_told_of(tokenizer, tmp_path, make_network):
    composing = changed(tokenizer, tmp_path, lambda value: value.update(normalizer={"type": "NFC"}))
    network = network_of(make_network, tokenizer, {})
    report = write_gguf(tmp_path / "model.gguf", network, composing, kind="f16", name="x")
    assert "composes characters" in report.notes[0]


def test_a_refused_export_leaves_nothing_behind(make_network, word_tokenizer, tmp_path):
    save_model(tmp_path / "model", make_network(), word_tokenizer, lineage={})
    with pytest.raises(RefusedError):
        export_to_gguf(tmp_path / "model", tmp_path / "out.gguf", numbers="f16")
    with pytest.raises(UsageError, match="bf16"):
        export_to_gguf(tmp_path / "model", tmp_path / "out.gguf", numbers="bf16")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_hard_texts_are_a_thousand_and_the_same_each_time():
    texts = hard_texts()
    assert len(texts) == 1_000
    assert len(set(texts)) > 950
    assert texts == hard_texts() != hard_texts(seed=1)


ASK = """
import json, sys
import llama_cpp, numpy
asked = json.load(open(sys.argv[1]))
told = {"ids": {}, "models": {}}
for path in asked["vocabularies"]:
    words = llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False)
    told["ids"][path] = [words.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
for name, kind, path in asked["models"]:
    model = llama_cpp.Llama(model_path=path, n_ctx=256, type_k=0, type_v=0, n_threads=2, verbose=False)
    rows = []
    for prompt in asked["prompts"]:
        row, scores = [], None
        for token in model.generate(prompt, temp=0.0, reset=True):
            if token in asked["stop"] or len(row) >= asked["tokens"]:
                break
            row.append(token)
        rows.append(row)
    told["models"][name + " " + kind] = rows
    model.close()
json.dump(told, open(sys.argv[2], "w"))
"""


def llama_python():
    named = os.environ.get("CHATWRIGHT_LLAMA_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama.cpp is not here: install llama-cpp-python, or name an interpreter that has it in "
                    "CHATWRIGHT_LLAMA_PYTHON")  # fmt: skip
    return sys.executable


@pytest.mark.slow
def test_llama_cpp_reads_the_same_ids_and_writes_the_same_greedy_tokens(make_network, tokenizer, tmp_path):
    python = llama_python()
    prompts = [tokenizer.encode(text) for text in ("Hello world", "def f(x):", "don't 12345", "漢字 and 😀", "THE")]
    asked = {"models": [], "vocabularies": [], "texts": hard_texts(), "prompts": prompts, "stop": [0, 2], "tokens": 20}
    expected = {}
    for name, shape in SHAPES.items():
        network = network_of(make_network, tokenizer, shape)
        for kind in ("f32", "f16"):
            path = tmp_path / f"{name}-{kind}.gguf"
            write_gguf(path, network, tokenizer, kind=kind, name=name)
            asked["models"].append([name, kind, str(path)])
            if kind == "f16":  # what llama.cpp computes with: matrices rounded, vectors whole
                with torch.no_grad():
                    for key, part in network.named_parameters():
                        if part.ndim > 1 and "embed_positions" not in key:
                            part.copy_(part.half().float())
            rows = greedy_rows(network, tokenizer, prompts, max_tokens=20, stop_ids={0, 2})
            expected[f"{name} {kind}"] = rows
    readers = {}
    for pattern, change in (("llama", dict), ("qwen2", split_by(QWEN2_PATTERN)), ("gpt2", as_gpt2)):
        (tmp_path / pattern).mkdir()
        reader = changed(tokenizer, tmp_path / pattern, change)
        path = tmp_path / f"{pattern}-words.gguf"
        write_gguf(path, network_of(make_network, tokenizer, {}), reader, kind="f16", name=pattern)
        readers[str(path)] = reader
    asked["vocabularies"] = list(readers)
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    subprocess.run([python, "-c", ASK, tmp_path / "asked.json", tmp_path / "told.json"], check=True, timeout=250)
    told = json.loads((tmp_path / "told.json").read_text())
    for path, reader in readers.items():
        ours = reader.encode_batch(asked["texts"])
        assert [text for text, a, b in zip(asked["texts"], ours, told["ids"][path], strict=True) if a != b] == []
    whole = [key for key in expected if key.endswith("f32")]
    assert {key: told["models"][key] for key in whole} == {key: expected[key] for key in whole}
    # In f16 llama.cpp rounds what goes into a product too: near ties of random networks may fall otherwise.
    equal = [
        a == b
        for key in expected
        if key.endswith("f16")
        for a, b in zip(expected[key], told["models"][key], strict=True)
    ]
    assert sum(equal) / len(equal) >= 0.8
