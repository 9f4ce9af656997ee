"""What an import and an export keep of a foreign directory: its numbers to the bit, and how it is to be asked."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatwright.foundation.errors import RefusedError
from chatwright.model.directory import LINEAGE, WEIGHTS, save_model
from chatwright.model.exchange import export_to_hugging_face, import_model

THEIRS = {
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 1,
    "repetition_penalty": None,
    "eos_token_id": [7, 1],
    "bos_token_id": 3,
    "pad_token_id": -1,
    "transformers_version": "4.51.0",
}


@pytest.fixture
def theirs(tmp_path, tiny_network, tiny_tokenizer):
    """Saves a foreign directory in a number format, whose `config.json` claims another."""

    def save(dtype, *, claims):
        directory = tmp_path / "theirs"
        save_model(directory, tiny_network, tiny_tokenizer, lineage={}, dtype=dtype)
        (directory / LINEAGE).unlink()
        change(directory / "config.json", torch_dtype=claims)
        return directory

    return save


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("dtype", "claims"), [("float32", "bfloat16"), ("bfloat16", "float16"), ("float16", "float32")]
)
def test_numbers_stay_what_the_files_hold_whatever_the_configuration_says(theirs, tmp_path, dtype, claims):
    directory = theirs(dtype, claims=claims)
    exchanged = import_model(directory, tmp_path / "ours")
    assert exchanged.facts["numbers"] == dtype
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["torch_dtype"] == dtype
    before, after = load_file(directory / WEIGHTS), load_file(tmp_path / "ours" / WEIGHTS)
    assert all(values.dtype == after[name].dtype for name, values in before.items())
    assert all(torch.equal(values, after[name]) for name, values in before.items())


def test_numbers_of_several_kinds_become_the_one_that_holds_them_all(theirs, tmp_path):
    directory = theirs("bfloat16", claims="bfloat16")
    weights = load_file(directory / WEIGHTS)
    weights["model.norm.weight"] = weights["model.norm.weight"].float() + 1e-5
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    assert import_model(directory, tmp_path / "ours").facts["numbers"] == "float32"
    assert torch.equal(load_file(tmp_path / "ours" / WEIGHTS)["model.norm.weight"], weights["model.norm.weight"])


def test_tables_that_are_no_weights_do_not_count(theirs, tmp_path):
    directory = theirs("bfloat16", claims="float32")
    weights = load_file(directory / WEIGHTS)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    assert import_model(directory, tmp_path / "ours").facts["numbers"] == "bfloat16"


def test_how_a_model_is_to_be_asked_is_kept_by_import_and_export(theirs, tmp_path, tiny_tokenizer):
    directory = theirs("float32", claims="float32")
    ours = json.loads((directory / "generation_config.json").read_text())
    (directory / "generation_config.json").write_text(json.dumps(THEIRS))
    import_model(directory, tmp_path / "ours")
    export_to_hugging_face(tmp_path / "ours", tmp_path / "again", numbers="f32")
    ends = ours["eos_token_id"]
    expected = {
        "bos_token_id": 3,
        "eos_token_id": [*ends, *(number for number in (7, 1) if number not in ends)],
        "pad_token_id": tiny_tokenizer.end_of_text,
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 1,
    }
    for name in ("ours", "again"):
        assert json.loads((tmp_path / name / "generation_config.json").read_text()) == expected


def test_a_model_made_here_is_asked_greedily_and_exported_so(ours, tmp_path, tiny_tokenizer):
    end, turn_end = tiny_tokenizer.end_of_text, tiny_tokenizer.special("<|im_end|>")
    export_to_hugging_face(ours, tmp_path / "theirs", numbers="f32")
    expected = {"bos_token_id": end, "eos_token_id": [turn_end, end], "pad_token_id": end, "do_sample": False}
    for directory in (ours, tmp_path / "theirs"):
        assert json.loads((directory / "generation_config.json").read_text()) == expected


@pytest.mark.parametrize("text", ["[]", "{", '{"temperature": NaN}', '{"do_sample": 1, "eos_token_id": "</s>"}'])
def test_a_damaged_way_of_asking_is_refused(theirs, tmp_path, text):
    directory = theirs("float32", claims="float32")
    (directory / "generation_config.json").write_text(text)
    with pytest.raises(RefusedError, match="generation_config") as refused:
        import_model(directory, tmp_path / "ours")
    assert all(name in str(refused.value) for name in ("do_sample", "eos_token_id") if name in text)
    assert not (tmp_path / "ours").exists()
