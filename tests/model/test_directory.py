"""A model directory is opened whole or refused with what is wrong; saving never harms the one before."""

import json
import os
import pickle  # only to make the kind of file that must never be opened
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatwright.foundation import storage
from chatwright.foundation.errors import ExitCode, RefusedError, StorageFullError
from chatwright.model.directory import LINEAGE, WEIGHTS, WEIGHTS_INDEX, load_model, read_config, save_model
from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(directory: Path, said: str) -> RefusedError:
    with pytest.raises(RefusedError, match=said) as caught:
        load_model(directory)
    assert caught.value.exit_code == ExitCode.REFUSED
    return caught.value


def change_weights(directory: Path, change) -> None:
    weights = load_file(directory / WEIGHTS)
    change(weights)
    save_file(weights, directory / WEIGHTS)


def test_a_saved_model_comes_back_bit_for_bit_with_its_lineage(tmp_path, make_network, tiny_tokenizer):
    for tied in (True, False):
        network = make_network(tied=tied, seed=3)
        lineage = {"stage": "pretrain", "inputs": {"tokens": {"content": "abc"}}}
        digest = save_model(tmp_path / "model", network, tiny_tokenizer, lineage=lineage)
        loaded = load_model(tmp_path / "model")
        assert loaded.network.config == network.config
        expected = network.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.network.state_dict().items())
        assert loaded.tokenizer.digest == tiny_tokenizer.digest
        assert (loaded.lineage, loaded.digest) == (lineage, digest)


def test_the_digest_tells_the_content_and_not_the_lineage(tmp_path, make_network, tiny_tokenizer):
    digests = [
        save_model(tmp_path / "model", make_network(seed=seed), tiny_tokenizer, lineage={"run": run})
        for seed, run in ((0, "a"), (0, "b"), (1, "a"))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_foreign_model_has_a_digest_of_its_files(foreign):
    first = load_model(foreign).digest
    change_weights(foreign, lambda weights: weights["model.norm.weight"].add_(1))
    assert load_model(foreign).digest != first


def test_a_directory_that_is_no_model_is_told_what_one_is(tmp_path):
    for directory in (tmp_path, tmp_path / "none"):
        error = refused(directory, "not a model directory")
        assert "runs/" in (error.hint or "")


@pytest.mark.parametrize("name", ["tokenizer.json", WEIGHTS, "config.json", "generation_config.json"])
def test_a_missing_file_of_ours_is_named(ours, name):
    (ours / name).unlink()
    refused(ours, name)


def test_a_foreign_model_without_its_tokenizer_is_told_the_next_step(foreign):
    (foreign / "tokenizer.json").unlink()
    error = refused(foreign, r"no `tokenizer\.json`")
    assert "copy the tokenizer" in (error.hint or "")


@pytest.mark.parametrize(
    "name", ["tokenizer.json", WEIGHTS, "config.json", "generation_config.json", "tokenizer_config.json"]
)
def test_any_flipped_bit_or_cut_in_a_file_of_ours_is_found(ours, name):
    rng = random.Random(1)
    sound = (ours / name).read_bytes()
    for _ in range(12):
        place = rng.randrange(len(sound))
        damaged = bytearray(sound)
        damaged[place] ^= 1 << rng.randrange(8)
        (ours / name).write_bytes(damaged if rng.random() < 0.6 else sound[:place])
        with pytest.raises(RefusedError):
            load_model(ours)
    (ours / name).write_bytes(sound)
    load_model(ours)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "other"}, "not what chatwright writes"),
        ({"version": 2}, "another version"),
        ({"digest": "0" * 64}, "damaged"),
        ({"files": []}, "damaged"),
        ({"lineage": None}, "damaged"),
        ({"tokenizer": "0" * 64}, "not the one that its model was trained with"),
    ],
)
def test_a_changed_lineage_file_is_refused(ours, changes, said):
    edit(ours / LINEAGE, **changes)
    refused(ours, said)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", ".."])
def test_a_lineage_file_that_names_files_outside_is_refused(ours, name):
    files = {name: "0" * 64}
    edit(ours / LINEAGE, files=files, digest=storage.digest_json(files))
    refused(ours, "outside its directory")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", ".."])
def test_an_index_that_names_files_outside_is_refused(foreign, name):
    (foreign / WEIGHTS).unlink()
    (foreign / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    refused(foreign, "outside its directory")


@pytest.mark.parametrize("value", [[], {}, {"weight_map": []}, {"weight_map": {"a": 5}}])
def test_an_index_that_makes_no_sense_is_refused(foreign, value):
    (foreign / WEIGHTS).unlink()
    (foreign / WEIGHTS_INDEX).write_text(json.dumps(value))
    refused(foreign, "which file holds which weights")


def test_a_missing_shard_is_named(foreign):
    (foreign / WEIGHTS).unlink()
    (foreign / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "model-1.safetensors"}}))
    refused(foreign, "damaged")


def test_missing_unknown_and_misshaped_tensors_are_all_listed(foreign):
    def change(weights):
        del weights["model.norm.weight"]
        weights["model.extra.bias"] = torch.zeros(3)
        weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(5, 5)

    change_weights(foreign, change)
    error = refused(foreign, "do not fit")
    assert "missing `model.norm.weight`" in error.what
    assert "unknown `model.extra.bias`" in error.what
    assert "`model.layers.0.mlp.up_proj.weight` has shape (5, 5), expected (48, 32)" in error.what


def test_many_differences_are_counted(foreign):
    change_weights(foreign, lambda weights: [weights.pop(name) for name in list(weights)[:12]])
    assert "and 4 more" in refused(foreign, "do not fit").what


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(foreign, value):
    change_weights(foreign, lambda weights: weights["model.layers.1.mlp.up_proj.weight"].view(-1)[7:8].fill_(value))
    refused(foreign, "not finite: `model.layers.1.mlp.up_proj.weight`")


def test_quantised_weights_are_refused_by_name(foreign):
    def change(weights):
        weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)

    change_weights(foreign, change)
    refused(foreign, "`model.norm.weight` as I8")


def test_a_damaged_weights_file_is_refused_and_nothing_large_is_allocated(foreign):
    sound = (foreign / WEIGHTS).read_bytes()
    (header_length,) = struct.unpack("<Q", sound[:8])
    lies = [
        b"",
        sound[:4],
        sound[: len(sound) // 2],
        sound[:-1],
        sound + b"x",
        struct.pack("<Q", 1 << 60) + sound[8:],
        struct.pack("<Q", header_length + 1) + sound[8:],
        sound[:8] + b"[" * header_length + sound[8 + header_length :],
        b"PK\x03\x04" + sound,
    ]
    for damaged in lies:
        (foreign / WEIGHTS).write_bytes(damaged)
        refused(foreign, "weights of")


def test_a_header_whose_shapes_lie_is_refused(foreign):
    header = {"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (foreign / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    refused(foreign, "weights of")


class Bomb:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_a_pickle_is_never_opened(foreign, tmp_path):
    (foreign / WEIGHTS).unlink()
    for name in ("pytorch_model.bin", "model.pt"):
        (foreign / name).write_bytes(pickle.dumps(Bomb(str(tmp_path / "ran"))))
    error = refused(foreign, r"no `model\.safetensors`")
    assert "pickles can run code" in (error.cause or "")
    assert "convert" in (error.hint or "")
    (foreign / "pytorch_model.bin").rename(foreign / WEIGHTS)
    refused(foreign, "is a pickle, which can run code")
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_larger_than_the_model_is_refused(foreign, make_network, tmp_path):
    larger = train_tokenizer(["some other words entirely " * 9], TokenizerConfig(vocabulary_size=300))
    small = make_network(vocabulary_size=200)
    save_model(tmp_path / "small", small, larger, lineage={})
    (tmp_path / "small" / LINEAGE).unlink()
    assert f"{larger.size} tokens, 200 rows" in refused(tmp_path / "small", "do not fit").what


def test_another_tokenizer_of_the_same_size_is_refused(ours):
    path = ours / "tokenizer.json"
    value = json.loads(path.read_text())
    vocabulary = value["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(value))
    record = json.loads((ours / LINEAGE).read_text())
    files = {**record["files"], path.name: storage.digest_file(path)}  # even where the digests were brought in line
    edit(ours / LINEAGE, files=files, digest=storage.digest_json(files))
    refused(ours, "not the one that its model was trained with")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mamba2"}, "`mamba2`"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
        ({"hidden_size": 64}, "do not fit"),
        ({"num_hidden_layers": 3, "layer_types": None}, "missing `model.layers.2"),
        ({"tie_word_embeddings": False}, "missing `lm_head.weight`"),
        ({"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}, "`evil`"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(foreign, changes, said):
    edit(foreign / "config.json", **changes)
    refused(foreign, said)


@pytest.mark.parametrize("text", ["[]", "nonsense", ""])
def test_a_configuration_that_is_no_object_is_refused(foreign, text):
    (foreign / "config.json").write_text(text)
    with pytest.raises(RefusedError, match=r"config\.json"):
        read_config(foreign)


def test_a_tied_model_may_carry_its_output_weights_too(foreign):
    def change(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    before = load_model(foreign).network.state_dict()
    change_weights(foreign, change)
    after = load_model(foreign).network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("fields", [{}, {"family": "gpt2", "key_heads": 4}])
def test_a_tied_model_with_output_weights_of_its_own_is_refused(foreign, make_network, tiny_tokenizer, fields):
    save_model(foreign, make_network(**fields), tiny_tokenizer, lineage={})
    (foreign / LINEAGE).unlink()

    def change(weights):
        embedding = weights.get("model.embed_tokens.weight", weights.get("transformer.wte.weight"))
        weights["lm_head.weight"] = embedding.clone()
        weights["lm_head.weight"][-1, -1] += 1

    change_weights(foreign, change)
    assert "tie_word_embeddings" in (refused(foreign, "`lm_head.weight` is not its embedding").hint or "")


def test_output_weights_of_another_kind_or_shape_in_a_tied_model_are_refused(foreign):
    for other in (torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.int8)):
        change_weights(foreign, lambda weights, other=other: weights.update({"lm_head.weight": other}))
        refused(foreign, "`lm_head.weight` is not its embedding")


def test_saving_again_replaces_the_whole_directory(ours, make_network, tiny_tokenizer):
    (ours / "stale.bin").write_text("left over")
    save_model(ours, make_network(seed=9), tiny_tokenizer, lineage={})
    assert not (ours / "stale.bin").exists()
    load_model(ours)


def test_a_full_disk_while_saving_names_the_place_and_harms_no_older_model(tiny_disk, make_network, tiny_tokenizer):
    save_model(tiny_disk / "model", make_network(), tiny_tokenizer, lineage={"run": "old"})
    with pytest.raises(StorageFullError, match=str(tiny_disk)) as caught:
        save_model(tiny_disk / "model", make_network(width=64, mlp_width=128), tiny_tokenizer, lineage={"run": "new"})
    assert "free some space" in (caught.value.hint or "")
    assert load_model(tiny_disk / "model").lineage == {"run": "old"}
    assert [path.name for path in tiny_disk.iterdir()] == ["model"]
