"""What we write opens alike in another version of transformers: same logits, template ids and greedy text.

CHATWRIGHT_TRANSFORMERS_PYTHON names an interpreter that has it (4.57 beside the installed 5); without it, skipped.
"""

import json
import os
import subprocess

import pytest
import torch
from greedy import greedy_rows

from chatwright.feedback.conversations import Message
from chatwright.model.config import LinearScaling, Llama3Scaling, YarnScaling
from chatwright.model.directory import load_model, save_model
from chatwright.model.export import hard_texts
from chatwright.model.prompts import ChatEncoder

SHAPES = {
    "qwen3": {},
    "qwen3 untied, another base": {"tied": False, "rope_base": 1e6, "attention_bias": True},
    "qwen3 sliding": {"sliding_window": 7, "sliding_layers": (1,)},
    "qwen3, yarn": {"rope_scaling": YarnScaling(factor=4.0, original_context_length=16)},
    "qwen2": {"family": "qwen2", "rope_base": 1e6, "tied": False},
    "llama 3": {
        "family": "llama", "rope_base": 500_000.0,
        "rope_scaling": Llama3Scaling(factor=8, low_frequency_factor=1, high_frequency_factor=4, original_context_length=16),
    },
    "llama, linear": {"family": "llama", "rope_scaling": LinearScaling(factor=3.0), "attention_bias": True},
    "mistral": {"family": "mistral", "sliding_window": 7, "sliding_layers": (0, 1)},
    "smollm3": {"family": "smollm3", "unrotated_layers": (1,)},
    "gpt2": {"family": "gpt2", "key_heads": 4, "norm_epsilon": 1e-5},
}  # fmt: skip

ASK = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
transformers.logging.set_verbosity_error()
asked = json.load(open(sys.argv[1]))
told = {"version": transformers.__version__, "models": {}}
for name, place in asked["models"].items():
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForCausalLM.from_pretrained(place).eval()
    with torch.inference_mode():
        logits = model(torch.tensor(asked["ids"])).logits
        made = [model.generate(torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.long),
                max_new_tokens=10, do_sample=False)[0, len(p):].tolist() for p in asked["prompts"]]
    told["models"][name] = {
        "logits": logits.flatten().tolist(),
        "greedy": made,
        "template": tokenizer.apply_chat_template(asked["chat"], add_generation_prompt=True, return_dict=False),
        "texts": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]],
    }
json.dump(told, open(sys.argv[2], "w"))
"""


@pytest.mark.slow
def test_another_transformers_computes_and_reads_the_same(make_network, tiny_tokenizer, tmp_path):
    python = os.environ.get("CHATWRIGHT_TRANSFORMERS_PYTHON")
    if not python:
        pytest.skip("name an interpreter with another version of transformers in CHATWRIGHT_TRANSFORMERS_PYTHON")
    chat = [Message("system", "Be brief."), Message("user", "When?\nZwölf 😀?"), Message("assistant", "At nine.")]
    ids = torch.randint(0, tiny_tokenizer.size, (2, 40), generator=torch.Generator().manual_seed(1))
    prompts = [tiny_tokenizer.encode(text) for text in ("The ferry", "12 minutes", "def area(", "zwölf")]
    texts = [text for text in hard_texts(250) if "<|" not in text]
    for name, shape in SHAPES.items():
        save_model(tmp_path / name, make_network(**shape), tiny_tokenizer, lineage={})
    asked = {
        "models": {name: str(tmp_path / name) for name in SHAPES},
        "ids": ids.tolist(), "prompts": prompts, "texts": texts, "chat": [message._asdict() for message in chat],
    }  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    subprocess.run([python, "-c", ASK, tmp_path / "asked.json", tmp_path / "told.json"], check=True, timeout=250)
    told = json.loads((tmp_path / "told.json").read_text())
    stop_ids = frozenset({tiny_tokenizer.end_of_text, ChatEncoder(tiny_tokenizer).end})
    for name, answer in told["models"].items():
        network = load_model(tmp_path / name).network
        with torch.inference_mode():
            expected = network(ids)
        torch.testing.assert_close(torch.tensor(answer["logits"]).view_as(expected), expected, atol=1e-4, rtol=0)
        rows = greedy_rows(network, tiny_tokenizer, prompts, max_tokens=10, stop_ids=stop_ids)
        assert [[token for token in row if token not in stop_ids] for row in answer["greedy"]] == rows, name
        assert answer["template"] == ChatEncoder(tiny_tokenizer).prompt(chat)
        assert answer["texts"] == tiny_tokenizer.encode_batch(texts)
