"""What `chatwright new DIR` writes: a commented recipe for documents of one's own, and the folder they go into."""

from pathlib import Path

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError

RECIPE = "recipe.toml"
DOCUMENTS = "documents"

_TEXT = """\
# A small language model from your own documents. Put them into the folder `documents` beside this file, then:
#
#     chatwright run {recipe} --dry-run      checks this file, says what would be done and how much it takes
#     chatwright run {recipe}                does it; after a stop or a change, the same command does only what is left
#
# Every key that is not here has a default; `recipe.toml` in the run's folder shows them all, written out.
# Any key can be set for one call: `--set pretrain.steps=500`.

name = "{name}"          # also the name of the run's folder
runs = "runs"            # where that folder is made, from where the command is called
seed = 1                 # another seed: another order of the data, other first weights

# ------------------------------------------------------------------------------------------------ documents
# txt, md, html, epub, pdf, docx, csv, jsonl, parquet and archives are read, folders within folders too. Add as many
# sources as needed.
[[collect.sources]]
kind = "files"
path = "documents"       # from this file's folder
books = "chapter"        # an EPUB's chapters are documents: of a few whole books none might be held out
# domain = "books"       # losses are reported by domain; without this, the folder's name
# licence = "CC-BY-4.0"  # noted in the report
# include = ["**/*.txt"] # only these files

[clean]
heldout_share = 0.05     # of documents, never trained on: the scores are measured on them

[tokenizer]
vocabulary_size = 4096   # larger: shorter sequences, but rare tokens are learned badly from few documents

# ------------------------------------------------------------------------------------------------ the model
# About 3.4 million parameters. Twice the width is four times the parameters, and takes four times as long a token.
[model]
width = 192
layers = 6
heads = 6
key_heads = 6
head_width = 32
mlp_width = 512
context_length = 256     # tokens that the model sees at once

[pretrain]
steps = 300              # about five minutes on two cores; a model on a GPU can afford a hundred times as much
batch_rows = 16          # windows of the context a step
micro_rows = 16          # of them at once; lower it if memory is short, the result stays the same
evaluate_every = 50
checkpoint_every = 50    # a stop loses nothing, a crash at most these steps
sample_prompts = ["The", "It is"]  # what it writes after them at each measurement stands in the report

# ------------------------------------------------------------------------------------------------ conversations
# To make an assistant of the model, put conversations beside this file and take the marks away. One a line:
# {{"messages": [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]}}
# CSV with the columns `question` and `answer` is read too.
# [finetune]
# data = "train.jsonl"
# test = "test.jsonl"    # never trained on: gain is measured on them, and both models answer them in the evaluation
# epochs = 4

[evaluate]
prompts = ["The", "It is", "When we"]  # continued by the model, as samples in the report
"""


def write_starter(directory: Path) -> str:
    """Write `recipe.toml` and an empty `documents/` into a folder that is not there yet, or empty.

    Returns:
        What to do next, for the person.

    Raises:
        UsageError: the folder holds something, or is a file.
        StorageFullError: no room.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"`{directory}` is a file", hint="name a folder that is not there yet, or an empty one")
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(
            f"`{directory}` is not empty",
            kept="everything in it",
            hint="name a folder that is not there yet, or an empty one",
        )
    recipe = directory / RECIPE
    (directory / DOCUMENTS).mkdir(parents=True)
    with storage.publish_file(recipe) as scratch:
        scratch.write_text(_TEXT.format(recipe=recipe, name=_run_name(directory)), encoding="utf-8")
    return (
        f"`{recipe}` is yours to read and change.\n"
        f"  1. put your documents into `{directory / DOCUMENTS}`: txt, md, html, epub, pdf, docx, csv, jsonl, zip\n"
        f"  2. chatwright run {recipe} --dry-run\n"
        f"  3. chatwright run {recipe}"
    )


def _run_name(directory: Path) -> str:
    """The folder's name as a run may be called: letters, digits, `.`, `_` and `-`, beginning with one of the first."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in directory.resolve().name)
    return kept.lstrip("._-")[:64] or "my-model"
