"""A recipe whose whole life takes seconds, and a program that runs it without the command line's report:

tiny_recipe.py RECIPE [KEY=VALUE ...]
"""

import json
import random
import sys
from pathlib import Path

from chatwright.foundation.errors import ChatwrightError
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe

STAGES = ("documents", "corpus", "tokenizer", "tokens", "pretrain", "finetune", "evaluate")
WORDS = [
    "harbour",
    "morning",
    "ferry",
    "ticket",
    "island",
    "gull",
    "rope",
    "market",
    "baker",
    "window",
    "letter",
    "garden",
    "river",
    "bridge",
    "lantern",
    "winter",
    "summer",
    "storm",
    "sailor",
    "captain",
    "kettle",
    "bread",
    "butter",
    "apple",
    "stone",
    "tower",
    "bell",
    "street",
    "corner",
    "story",
]
TOPICS = ("returns", "shipping", "opening")

RECIPE = """
name = "tiny"
workers = 1

[[collect.sources]]
kind = "files"
path = "documents"

[clean]
heldout_share = 0.2

[tokenizer]
vocabulary_size = 400

[model]
width = 16
layers = 1
heads = 2
key_heads = 2
head_width = 8
mlp_width = 24
context_length = 64

[pretrain]
steps = 6
batch_rows = 4
micro_rows = 2
checkpoint_every = 2
evaluate_every = 3
device = "cpu"
precision = "float32"
threads = 1

[finetune]
data = "chats/train.jsonl"
test = "chats/test.jsonl"
epochs = 2
batch_rows = 4
micro_tokens = 64
replay_length = 32
checkpoint_every = 2
lora = { rank = 2 }
device = "cpu"
precision = "float32"
threads = 1

[evaluate]
answers = "chats/test.jsonl"
max_answer_tokens = 4
prompts = ["The harbour"]
sample_tokens = 4
threads = 1
"""


def text_of(number):
    """A document of about sixty words that no rule drops and no other equals."""
    chance = random.Random(number)
    sentences = [" ".join(chance.sample(WORDS, 9)).capitalize() + "." for _ in range(7)]
    return f"{' '.join(sentences)}\n"


def write_recipe(folder, *, documents=60):
    """A folder with the recipe, its documents and its conversations; returns the recipe's path."""
    (folder / "documents").mkdir(parents=True)
    for number in range(documents):
        (folder / "documents" / f"{number:03}.txt").write_text(text_of(number))
    (folder / "chats").mkdir()
    for name, wordings in (("train", ("Tell me about", "What of", "How is it with")), ("test", ("Please explain",))):
        lines = [
            json.dumps({"question": f"{wording} {topic}?", "answer": f"All about {topic}.", "label": topic})
            for wording in wordings
            for topic in TOPICS
        ]
        (folder / "chats" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder / "recipe.toml"


def main() -> None:
    try:
        run_recipe(load_recipe(Path(sys.argv[1]), sys.argv[2:]))
    except ChatwrightError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
