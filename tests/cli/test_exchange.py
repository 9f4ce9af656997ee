"""`chatwright import` and `chatwright export` as processes."""

import json

import pytest

from chatwright.foundation.errors import ExitCode
from chatwright.model.directory import LINEAGE, load_model

pytestmark = pytest.mark.slow


def test_a_foreign_model_is_imported_and_exported_again(finished, call, tmp_path):
    model = finished[1] / "finetune" / "model"
    done = call("export", model, "--to", "hf", "--numbers", "bf16", "--out", tmp_path / "theirs", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json()["numbers"] == "bfloat16"
    assert done.json()["transformers"]["logit_difference"] < 1e-3
    card = (tmp_path / "theirs" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name:")
    assert "fine-tuned model" in card
    assert (tmp_path / "theirs" / "data-card.md").is_file()
    (tmp_path / "theirs" / LINEAGE).unlink()
    done = call("import", tmp_path / "theirs", "--out", tmp_path / "ours", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json()["turn_form"] == "chatml"
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert load_model(tmp_path / "ours").lineage["stage"] == "import"
    again = call("import", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert again.returncode == ExitCode.USAGE
    assert "is there already" in again.stderr


def test_a_model_is_written_for_llama_cpp(finished, call, tmp_path):
    pytest.importorskip("gguf")
    model = finished[1] / "finetune" / "model"
    done = call("export", model, "--to", "gguf", "--numbers", "q8_0", "--out", tmp_path / "model.gguf")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"
    wrong = call("export", model, "--to", "gguf", "--numbers", "bf16", "--out", tmp_path / "other.gguf")
    assert wrong.returncode == ExitCode.USAGE


def test_a_pickled_model_is_refused_with_its_exit_code(call, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    done = call("import", tmp_path, "--out", tmp_path / "ours")
    assert done.returncode == ExitCode.REFUSED
    assert "lacks hidden_size" in done.stderr
