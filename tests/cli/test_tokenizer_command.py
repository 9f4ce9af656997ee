"""`chatwright tokenizer stats`: a table or JSON, beside other tokenizers of this machine, and nothing from elsewhere."""

import pytest

from chatwright.foundation.errors import ExitCode


@pytest.fixture
def place(tmp_path, tiny_tokenizer, word_tokenizer, monkeypatch):
    """Two tokenizers and a text; Hugging Face's cache is an empty folder."""
    for name, tokenizer in (("own", tiny_tokenizer), ("words", word_tokenizer)):
        (tmp_path / name).mkdir()
        tokenizer.save(tmp_path / name)
    (tmp_path / "text.txt").write_text("The ferry leaves at nine in the morning. Tickets: 12345.")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_tokenizer_stands_beside_another_and_beside_gpt2_where_it_is_cached(place, call, tiny_tokenizer):
    asked = ("tokenizer", "stats", "own", "text.txt")
    told = call(*asked, cwd=place)
    assert told.returncode == ExitCode.DONE, told.stderr
    assert "tokens per word" in told.stdout
    assert "GPT-2's tokenizer is not in" in told.stderr
    repository = place / "cache" / "models--openai-community--gpt2"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    tiny_tokenizer.save(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    told = call(*asked, "--beside", "words", "--json", cwd=place)
    assert told.stderr == ""
    assert list(told.json()) == ["own", "words", "openai-community/gpt2"]
    assert told.json()["own"] == told.json()["openai-community/gpt2"] != told.json()["words"]


def test_a_tokenizer_that_is_not_here_is_named_with_the_way_to_get_it(place, call):
    told = call("tokenizer", "stats", "own", "text.txt", "--beside", "somebody/else", cwd=place)
    assert told.returncode == ExitCode.USAGE
    assert "`somebody/else`" in told.stderr
    assert "hf download" in told.stderr
