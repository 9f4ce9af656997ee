"""Directories made to deceive are refused by name before anything is allocated for them, and nothing in them runs."""

import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatwright.foundation.errors import ExitCode, RefusedError
from chatwright.foundation.memory import available_bytes
from chatwright.model import weights
from chatwright.model.directory import WEIGHTS, WEIGHTS_INDEX, load_model, save_model
from chatwright.model.tensors import MAX_HEADER_BYTES, TensorFile
from chatwright.tokens import soundness


def refused(directory, said: str) -> RefusedError:
    with pytest.raises(RefusedError, match=said) as caught:
        load_model(directory)
    assert caught.value.exit_code == ExitCode.REFUSED
    return caught.value


def edit(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_header(directory, header, *, body: bytes = bytes(8)) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + body)


def entry(shape, offsets, dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS = {
    "overlap": ({"a": entry([2], [0, 8]), "b": entry([1], [4, 8])}, "overlaps"),
    "hole": ({"a": entry([1], [4, 8])}, "leaves a hole"),
    "rest": ({"a": entry([1], [0, 4])}, "accounts for"),
    "beyond the end": ({"a": entry([4], [0, 16])}, "accounts for"),
    "negative place": ({"a": entry([1], [-4, 0])}, "beginning and an end"),
    "backwards": ({"a": entry([1], [8, 4])}, "beginning and an end"),
    "three places": ({"a": entry([1], [0, 4, 8])}, "beginning and an end"),
    "shape lies": ({"a": entry([3], [0, 8])}, "needs 12 bytes, its place has 8"),
    "huge shape": ({"a": entry([1 << 62, 1 << 62], [0, 8])}, "its place has 8"),
    "negative shape": ({"a": entry([-2], [0, 8])}, "list of counts"),
    "fractional shape": ({"a": entry([2.0], [0, 8])}, "list of counts"),
    "true as a shape": ({"a": entry([True, 2], [0, 8])}, "list of counts"),
    "nine dimensions": ({"a": entry([1] * 8 + [2], [0, 8])}, "list of counts"),
    "unknown type": ({"a": entry([2], [0, 8], "F31")}, "unknown type: F31"),
    "type that is no text": ({"a": entry([2], [0, 8], 5)}, "unknown type: 5"),
    "further keys": ({"a": entry([2], [0, 8]) | {"code": "x"}}, "is not `dtype`"),
    "no entry": ({"a": 5}, "is not `dtype`"),
    "a list": ([], "not an object"),
    "a name twice": (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "a": 5}', "stands there twice"),
    "depth": (b'{"a":' + b"[" * 100_000, "not sound JSON"),
    "no JSON": (b"{nonsense", "not sound JSON"),
    "no UTF-8": (b'{"\xff": 1}', "not sound JSON"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused_with_the_lie(foreign, name):
    header, said = HEADERS[name]
    with_header(foreign, header)
    refused(foreign, said)


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 1 << 40, (1 << 64) - 1])
def test_a_header_beyond_all_measure_is_refused(foreign, length):
    body = bytes(MAX_HEADER_BYTES + 100) if length < 1 << 30 else bytes(100)
    (foreign / WEIGHTS).write_bytes(struct.pack("<Q", length) + body)
    refused(foreign, "header")


def peak_rise(code: str, directory) -> int:
    """Bytes by which a process's peak memory grows while it runs a line of code on a directory."""
    program = (
        "import resource, sys; from pathlib import Path; import torch\n"
        "from chatwright.foundation.errors import RefusedError\n"
        "from chatwright.model.directory import load_model; from chatwright.model.tensors import TensorFile\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        f"before = peak(); directory = Path(sys.argv[1])\n{code}\nprint(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, directory], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_hostile_header_takes_little_memory(foreign):
    with_header(foreign, b'{"a":[' + b"{}," * ((MAX_HEADER_BYTES - 20) // 3) + b"0]}")
    code = f"try: TensorFile(directory / {WEIGHTS!r})\nexcept RefusedError: print(0, end='')"
    assert peak_rise(code, foreign) < (64 << 20) + MAX_HEADER_BYTES


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"PK\x03\x04", "a zip archive"),
        (b"\x80\x04\x95", "a pickle"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"GGUF\x03", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "pointer of Git LFS"),
    ],
)
def test_another_format_under_this_name_is_named(foreign, head, said):
    (foreign / WEIGHTS).write_bytes(head + bytes(200))
    refused(foreign, f"not safetensors.*{said}")


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path):
    text = json.dumps({"a": entry([2], [0, 8])}).encode().ljust(0x80)
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with TensorFile(tmp_path / WEIGHTS) as file:
        assert file.entries["a"].shape == (2,)


def test_no_pickle_is_opened_whatever_lies_beside(foreign):
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments) if event == "pickle.find_class" else None)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "weights.pkl"):
        (foreign / name).write_bytes(b"\x80\x04cos\nsystem\n(Vtrue\ntR.")
    load_model(foreign)
    (foreign / WEIGHTS).unlink()
    refused(foreign, r"no `model\.safetensors`")
    assert opened == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS])
def test_a_link_out_of_the_directory_is_refused(foreign, tmp_path, name):
    (foreign / name).rename(tmp_path / "elsewhere")
    (foreign / name).symlink_to(tmp_path / "elsewhere")
    refused(foreign, f"{name}` is a link that leads out")


def test_a_link_in_a_false_cache_is_refused(foreign, tmp_path):
    snapshots = tmp_path / "snapshots"
    snapshots.mkdir()
    foreign = foreign.rename(snapshots / "0")
    (foreign / WEIGHTS).rename(tmp_path / "elsewhere")
    (foreign / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    refused(foreign, "leads out")


def test_a_link_to_nothing_is_refused(foreign):
    (foreign / WEIGHTS).unlink()
    (foreign / WEIGHTS).symlink_to("gone.safetensors")
    refused(foreign, "link to a file that is missing")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_pipe_is_refused_and_nobody_waits_for_it(foreign, name):
    (foreign / name).unlink()
    os.mkfifo(foreign / name)
    refused(foreign, f"{name}` is not a regular file")


@pytest.mark.parametrize("name", ["a\\b.safetensors", "a/b.safetensors", "", "x\0.safetensors", "pytorch_model.bin"])
def test_an_index_may_name_only_safetensors_beside_it(foreign, name):
    (foreign / WEIGHTS).unlink()
    (foreign / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    refused(foreign, "outside its directory|only safetensors")


def test_a_tensor_that_stands_in_two_shards_is_refused(foreign):
    (foreign / WEIGHTS).rename(foreign / "1.safetensors")
    (foreign / "2.safetensors").write_bytes((foreign / "1.safetensors").read_bytes())
    names = {"a": "1.safetensors", "b": "2.safetensors"}
    (foreign / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": names}))
    refused(foreign, "stands there twice")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 10**12}, "between 1 and 1024"),
        ({"num_hidden_layers": -1}, "between 1 and 1024"),
        ({"num_hidden_layers": True}, "between 1 and 1024"),
        ({"vocab_size": 1 << 60}, "vocabulary_size"),
        ({"hidden_size": 1 << 30}, "width"),
        ({"head_dim": 1 << 20}, "head_width"),
        ({"intermediate_size": 1e300}, "mlp_width"),
        ({"rms_norm_eps": -1.0}, "norm_epsilon"),
        ({"rope_theta": -5.0, "rope_parameters": None}, "rope_base"),
    ],
)
def test_huge_and_senseless_numbers_are_refused(foreign, changes, said):
    edit(foreign / "config.json", **changes)
    refused(foreign, said)


def test_a_context_that_asks_for_a_huge_table_is_refused(foreign, make_network, tiny_tokenizer):
    edit(foreign / "config.json", max_position_embeddings=1 << 20, head_dim=8)
    load_model(foreign)  # 32 MiB of table
    edit(foreign / "config.json", num_attention_heads=1, num_key_value_heads=1, head_dim=64)
    change = load_file(foreign / WEIGHTS)
    for name in list(change):
        if "_proj" in name and "attn" in name:
            change[name] = torch.zeros(32, 64) if "o_proj" in name else torch.zeros(64, 32)
        elif "q_norm" in name or "k_norm" in name:
            change[name] = torch.ones(64)
    save_file(change, foreign / WEIGHTS)
    refused(foreign, "table of positions would take 256 MiB")


def test_a_model_too_large_for_this_machine_is_refused_with_the_numbers(foreign, monkeypatch):
    monkeypatch.setattr(weights, "available_bytes", lambda: 1000)
    refused(foreign, "MiB of memory in float32, 0 MiB are free")


def test_free_memory_is_the_machines_or_the_containers(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:    500 kB\n")
    for name, text in (("memory.max", "300000"), ("memory.current", "100000"), ("memory.stat", "inactive_file 50\n")):
        (tmp_path / name).write_text(text)
    assert available_bytes(meminfo=tmp_path / "meminfo", group=tmp_path / "none") == 512_000
    assert available_bytes(meminfo=tmp_path / "meminfo", group=tmp_path) == 200_050
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo=tmp_path / "meminfo", group=tmp_path) == 512_000
    assert available_bytes(meminfo=tmp_path / "none", group=tmp_path / "none") is None


def change_tokenizer(directory, change) -> None:
    path = directory / "tokenizer.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


TOKENIZERS = {
    "two tokens with one id": (lambda value: value["model"]["vocab"].update(zzzz=3), "1 ids belong to two tokens"),
    "a negative id": (lambda value: value["model"]["vocab"].update(zzzz=-3), "the id of 'zzzz' is -3"),
    "an id that is no number": (lambda value: value["model"]["vocab"].update(zzzz="3"), "the id of 'zzzz' is 3"),
    "a huge id": (lambda value: value["model"]["vocab"].update(zzzz=1 << 40), "largest id"),
    "a merge without a result": (lambda value: value["model"]["merges"].append(["a", "Ġqq"]), "which is no token"),
    "a merge of nothing": (lambda value: value["model"]["merges"].append(["", "a"]), "joins nothing to 'a'"),
    "a merge that is no pair": (lambda value: value["model"]["merges"].append(["a"]), "is not a pair"),
    "an added token without text": (
        lambda value: value["added_tokens"].append({"id": 5, "content": ""}),
        "added token",
    ),
    "an added token twice": (
        lambda value: value["added_tokens"].append({**value["added_tokens"][0], "id": 99}),
        "has two ids",
    ),
    "no vocabulary": (lambda value: value["model"].pop("vocab"), "no `vocab`"),
    "no model": (lambda value: value.pop("model"), "no `model`"),
    "too many tokens": (
        lambda value: value["model"].update(vocab={str(number): number for number in range(2_001)}),
        "at most",
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_makes_no_sense_is_refused(foreign, name, monkeypatch):
    monkeypatch.setattr(soundness, "MAX_TOKENS", 2_000)
    change, said = TOKENIZERS[name]
    change_tokenizer(foreign, change)
    refused(foreign, said)


def test_a_gap_between_ids_is_no_fault(foreign, tiny_tokenizer):
    change_tokenizer(foreign, lambda value: value["added_tokens"].pop())
    change_tokenizer(foreign, lambda value: value["model"]["vocab"].pop("<|im_end|>", None))
    assert load_model(foreign).tokenizer.size == tiny_tokenizer.size


def test_a_template_file_is_taken_over_and_bounded(foreign):
    edit(foreign / "tokenizer_config.json", chat_template=None)
    (foreign / "chat_template.jinja").write_text("{{ messages }}")
    assert load_model(foreign).tokenizer.settings["chat_template"] == "{{ messages }}"
    (foreign / "chat_template.jinja").write_bytes(b"\xff\xfe")
    refused(foreign, "not text in UTF-8")
    (foreign / "chat_template.jinja").write_bytes(b"x" * (2 << 20))
    refused(foreign, "too large for a chat template")


def test_a_model_is_held_once(tmp_path, make_network, tiny_tokenizer):
    network = make_network(width=512, layers=5, heads=8, key_heads=8, head_width=64, mlp_width=2048)
    save_model(tmp_path / "model", network, tiny_tokenizer, lineage={})
    size = 4 * network.config.num_parameters()
    assert size > 80 << 20
    assert peak_rise("loaded = load_model(directory)", tmp_path / "model") < size + (48 << 20)
