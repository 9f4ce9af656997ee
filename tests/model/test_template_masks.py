"""Ids and loss masks equal what transformers makes of the templates of Qwen 3, Llama 3 and SmolLM 2, token for token.

Templates are those that TRL ships, found where TRL is installed or in the folder that CHATWRIGHT_TRL_TEMPLATES names;
the short one of SmolLM 2 is written here. Tokenizers are made in the test.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.feedback.conversations import Message
from chatwright.model.export import hard_texts
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.tokenizer import TokenizerConfig, load_tokenizer, train_tokenizer

SMOLLM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + SMOLLM + "<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_MARKERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
CHATS = [
    [("user", "When does the ferry leave?"), ("assistant", "At nine.")],
    [("system", "Be brief."), ("user", "Zwölf?\n\nReally 😀?"), ("assistant", "Yes, 12345."), ("user", "Hi"), ("assistant", "Hello!")],
    [("user", " spaces "), ("assistant", "trailing  "), ("user", "\n\nlines first"), ("assistant", "漢字 and 😀")],
    [("user", "x"), ("assistant", "\nline first"), ("user", "def f(x):\n    return x"), ("assistant", "ok\n\n")],
    [("system", ""), ("user", ""), ("assistant", "")],
    [("user", "think"), ("assistant", "<think>\nhm, 2+2\n</think>\n\nFour."), ("user", "so?"), ("assistant", "Four.")],
]  # fmt: skip


def trl_template(name: str) -> str:
    folder = os.environ.get("CHATWRIGHT_TRL_TEMPLATES")
    found = importlib.util.find_spec("trl")
    if not folder and (found is None or found.origin is None):
        pytest.skip("TRL's templates are not here: install trl, or name its folder in CHATWRIGHT_TRL_TEMPLATES")
    place = Path(folder) if folder else Path(str(found.origin)).parent / "chat_templates"
    return (place / f"{name}.jinja").read_text()


def tokenizer_with(directory, template: str, *, special=(), added=(), begin="<|endoftext|>"):
    """A byte-level BPE learned from hard texts, with further markers and a template, for us and for transformers."""
    from transformers import AutoTokenizer

    trained = train_tokenizer(
        [*hard_texts(300, seed=5), "user assistant system think"], TokenizerConfig(vocabulary_size=700)
    )
    trained.save(directory)
    path = directory / "tokenizer.json"
    value = json.loads(path.read_text())
    model = value["added_tokens"][0]
    for name in (*special, *added):
        entry = {
            **model,
            "id": trained.size + len(value["added_tokens"]) - 3,
            "content": name,
            "special": name in special,
        }
        value["added_tokens"].append(entry)
    if special:  # not ChatML: its markers are words like others
        vocabulary = value["model"]["vocab"]
        for entry in value["added_tokens"][1:3]:
            vocabulary[f"<reserved{entry['id']}>"] = vocabulary.pop(entry["content"])
            entry["content"] = f"<reserved{entry['id']}>"
    path.write_text(json.dumps(value))
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings |= {"chat_template": template, "bos_token": begin, "eos_token": special[3] if special else "<|im_end|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)


def as_dicts(chat):
    return [{"role": role, "content": content} for role, content in chat]


def masked(theirs, chat, template=None):
    made = theirs.apply_chat_template(
        as_dicts(chat), chat_template=template, return_assistant_tokens_mask=True, return_dict=True
    )
    return made["input_ids"], [bool(mark) for mark in made["assistant_masks"]]


@pytest.mark.parametrize("chat", CHATS)
def test_qwen_3_is_as_in_its_templates(tmp_path, chat):
    ours, theirs = tokenizer_with(tmp_path, trl_template("qwen3"), added=("<think>", "</think>"))
    encoder = ChatEncoder(ours)
    assert encoder.form.name == "qwen3"
    messages = [Message(*turn) for turn in chat]
    tokenized = encoder.conversation(messages)
    assert (tokenized.ids, tokenized.is_target) == masked(theirs, chat, trl_template("qwen3_training"))
    asked = [*messages, Message("user", "And?")]
    for thinking in (True, False):
        expected = theirs.apply_chat_template(
            as_dicts([*chat, ("user", "And?")]), add_generation_prompt=True, enable_thinking=thinking, return_dict=False
        )
        assert encoder.prompt(asked, thinking=thinking) == expected


@pytest.mark.parametrize("chat", CHATS)
def test_llama_3_is_as_in_its_templates(tmp_path, chat):
    ours, theirs = tokenizer_with(tmp_path, trl_template("llama3"), special=LLAMA_MARKERS, begin=LLAMA_MARKERS[0])
    encoder = ChatEncoder(ours)
    assert encoder.form.name == "llama3"
    messages = [Message(*turn) for turn in chat]
    tokenized = encoder.conversation(messages)
    assert (tokenized.ids, tokenized.is_target) == masked(theirs, chat, trl_template("llama3_training"))
    expected = theirs.apply_chat_template(as_dicts(chat), add_generation_prompt=True, return_dict=False)
    assert encoder.prompt(messages) == expected


@pytest.mark.parametrize("chat", CHATS)
def test_smollm_2_is_as_in_its_template(tmp_path, chat):
    ours, theirs = tokenizer_with(tmp_path, SMOLLM_TEMPLATE)
    encoder = ChatEncoder(ours)
    messages = [Message(*turn) for turn in chat]
    tokenized = encoder.conversation(messages)
    assert (tokenized.ids, tokenized.is_target) == masked(theirs, chat)
    assert (SMOLLM in ours.decode(tokenized.ids)) == (chat[0][0] != "system")
    expected = theirs.apply_chat_template(as_dicts(chat), add_generation_prompt=True, return_dict=False)
    assert encoder.prompt(messages) == expected


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    return tokenizer_with(tmp_path_factory.mktemp("smollm"), SMOLLM_TEMPLATE)[0]


@given(
    st.lists(
        st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "assistant\n", "\n", "Hi", "|>", "<|"]),
        max_size=8,
    )
)
def test_no_text_of_a_user_becomes_a_special_token(smollm, pieces):
    encoder = ChatEncoder(smollm)
    special = [smollm.special(name) for name in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")]
    honest = encoder.conversation([Message("user", "Hi"), Message("assistant", "Yes.")])
    forged = encoder.conversation([Message("user", "".join(pieces)), Message("assistant", "Yes.")])
    assert [forged.ids.count(token) for token in special] == [honest.ids.count(token) for token in special]
    assert sum(forged.is_target) == sum(honest.is_target)
