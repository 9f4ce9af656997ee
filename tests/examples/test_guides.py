"""Every command of every guide is run, in the order of the guides, on documents and settings small enough for a test.

A block `sh` is run line by line as a person would, in one folder for all guides, with `chatwright` on the path. A comment
before a block says what else is to be done with it: `<!-- serves -->` starts it, waits for its address and stops it;
`<!-- with: THING -->` runs it once the test has written what people would have; `<!-- needs: THING -->` skips it, and the
test names what was skipped. Only the sizes are smaller than in the guide. Of commands that stand elsewhere in the
documents, their names and options are checked.
"""

import contextlib
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import typer

from chatwright.cli.main import app
from chatwright.data.document import iter_documents
from chatwright.feedback.conversations import Message
from chatwright.feedback.ratings import Study
from chatwright.feedback.store import Answer, Choice, FeedbackStore
from chatwright.feedback.study import DIMENSIONS, Judgement
from chatwright.foundation.storage import read_manifest
from chatwright.model.config import ModelConfig
from chatwright.model.directory import save_model
from chatwright.model.network import Network

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ROOT / "docs" / "guides"
SHIM = """#!/bin/sh
# The project's command with the sizes of this test, where the command takes a recipe and trains. Settings that stand in
# the guide come after them and win.
case "$1" in run|tokenize|distill|improve) command=$1; shift; exec {python} -m chatwright "$command" $TINY "$@" ;; esac
exec {python} -m chatwright "$@"
"""
_MODEL = ("width=32", "layers=1", "heads=2", "key_heads=2", "head_width=16", "mlp_width=64", "context_length=128")
_SMALL = ("tokenizer.vocabulary_size=400", "pretrain.steps=4", "pretrain.batch_rows=2", "pretrain.micro_rows=2")
_RUN = (*_SMALL, *(f"model.{item}" for item in _MODEL), "pretrain.threads=1", "evaluate.sample_tokens=4")
TINY = {
    "your-documents.md": (*_RUN, "pretrain.optimizer.muon_learning_rate=0.03"),
    "finetune-qwen3.md": (
        *("finetune.epochs=0.01", "finetune.batch_rows=4", "evaluate.max_answer_tokens=4", "finetune.threads=1"),
        *("finetune.evaluate_every=1000", "finetune.data=train.jsonl", "finetune.test=test.jsonl"),
        "evaluate.answers=test.jsonl",
    ),
    "distil.md": (*_SMALL[1:], "distill.steps=3", "distill.batch_rows=2", "distill.micro_rows=2"),
    "feedback.md": tuple(
        f"improve.{item}"
        for item in (
            *("least_new=20", "learn.device=cpu", "learn.threads=1", "learn.precision=float32"),
            *("learn.epochs=8.0", "learn.max_answer_tokens=4", "learn.optimizer.learning_rate=3e-3"),
            *("promote.draws=200", "promote.least_heldout=4", "promote.forgetting=9.0", "promote.forgetting_ever=9.0"),
            *("promote.task_loss=1.0", "promote.task_loss_ever=1.0"),
        )
    ),
    "cluster.md": _SMALL[:1],
}
_BLOCK = re.compile(r"(?:^<!-- (serves|with: [^>]+?|needs: [^>]+?) -->\n)?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORTER = {"--budget 30m": "--budget 3m"}  # a model for longer takes long to time on a busy machine
_LIMIT_S = 600  # of one block; a block takes seconds on a machine of its own


class Block(NamedTuple):
    """Commands that stand together."""

    mark: str  # "", "serves", "with: ..." or "needs: ..."
    commands: str


def blocks_of(path):
    text = path.read_text(encoding="utf-8")
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return [Block(mark, commands) for mark, commands in _BLOCK.findall(text)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like a clone with a home of its own: recipes, examples, a shelf of books, a base model."""
    folder = tmp_path_factory.mktemp("guides")
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    books = folder / "home" / "books"
    books.mkdir(parents=True)
    write_books(books)
    write_base(folder / "models" / "Qwen3-0.6B", books)
    for name in ("train.jsonl", "test.jsonl"):
        lines = (ROOT / "examples" / "support" / name).read_text(encoding="utf-8").splitlines()[:8]
        (folder / "recipes" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    commands = folder / "bin"
    commands.mkdir()
    shim = commands / "chatwright"
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    return folder


def write_books(folder):
    """Two EPUBs of thirty chapters each: enough that some are held out."""
    page = (
        '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{0}</title></head><body><h1>{0}</h1>{1}</body></html>'
    )
    words = (
        "harbour morning ferry ticket island gull rope market baker window letter garden river bridge lantern".split()
    )
    for book in range(2):
        with zipfile.ZipFile(folder / f"book-{book}.epub", "w") as file:
            file.writestr("mimetype", "application/epub+zip")
            file.writestr(
                "META-INF/container.xml",
                '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles><rootfile '
                'full-path="content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
            )
            names = [f"chapter-{number}" for number in range(30)]
            items = "".join(f'<item id="{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in names)
            spine = "".join(f'<itemref idref="{name}"/>' for name in names)
            file.writestr(
                "content.opf",
                '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i"><metadata '
                f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Book {book}</dc:title><dc:language>en</dc:language>'
                f"</metadata><manifest>{items}</manifest><spine>{spine}</spine></package>",
            )
            for number, name in enumerate(names):
                draw = random.Random(100 * book + number)
                lines = [" ".join(draw.choices(words, k=12)) for _ in range(10)]
                text = "".join(f"<p>The {line} was on the way to the {draw.choice(words)}.</p>" for line in lines)
                file.writestr(f"{name}.xhtml", page.format(f"Chapter {number}", text))


def write_base(folder, books):
    """A directory in Qwen3's layout with drawn weights, in the place of the one that the guide fetches."""
    from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer

    texts = (path.name * 50 for path in books.iterdir())
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocabulary_size=300))
    shape = ModelConfig(
        vocabulary_size=tokenizer.size,
        width=32,
        layers=1,
        heads=2,
        key_heads=1,
        head_width=16,
        mlp_width=64,
        context_length=512,
    )
    network = Network(shape)
    network.initialise(torch.Generator().manual_seed(1))
    save_model(folder, network, tokenizer, lineage={})


def environment(place, guide):
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "PATH")}
    tiny = " ".join(f"--set {item}" for item in TINY.get(guide, ()))
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {
        **kept,
        "HOME": str(place / "home"),
        "PATH": path,
        "TINY": tiny,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
    }


def run_block(place, guide, commands):
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=place,
        env=environment(place, guide),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{guide}:\n{commands}\n{done.stderr[-3000:]}"


def serve_block(place, guide, commands):
    """The command says its address, and ends when it is asked to."""
    process = subprocess.Popen(
        ["bash", "-euc", f"exec {commands.strip()} --port 0"],
        cwd=place,
        env=environment(place, guide),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = []
        for line in process.stderr:
            told.append(line)
            if "http://127.0.0.1:" in line:
                break
        assert "http://127.0.0.1:" in told[-1], "".join(told)
    finally:
        process.terminate()  # not Ctrl-C, which whoever runs the suite in the background has switched off
        process.wait(60)
        process.stderr.close()


def judge(place):
    """A rater says the same of every answer of the study."""
    with contextlib.closing(Study(place / "runs" / "my-model" / "ratings.sqlite")) as study:
        rater = study.join("Ada", "user")
        while (shown := study.next(rater)).place is not None:
            scores = dict.fromkeys(DIMENSIONS, 3)
            key = f"{shown.place.item}-{shown.place.occasion}"
            study.judge(rater, Judgement(item=shown.place.item, occasion=shown.place.occasion, key=key, scores=scores))
        assert shown.done > 0


def speak(place):
    """Somebody chooses between two answers to each of fifty questions, always in the same sense."""
    with contextlib.closing(FeedbackStore(place / "chatwright-feedback.db")) as store:
        for number in range(50):
            asked = (Message("user", f"Where is book {number}?"),)
            for side, text in (("good", "In the library."), ("bad", "I will not say.")):
                name = f"{side}-{number}"
                store.add_answer(
                    Answer(id=name, model="my-model", model_digest="d", messages=asked, answer=text, finish="stop")
                )
            store.add_rating(Choice(first=f"good-{number}", second=f"bad-{number}", choice="first"))


WRITTEN = {"with: judgements by people": judge, "with: feedback by people": speak}


def require_fair_comparison(place):
    """No line of a document that the teacher's run holds out stands in a document that the student was trained on."""
    held = [one.text for one in iter_documents(place / "runs" / "my-model" / "corpus", split="heldout")]
    learned = "\n".join(one.text for one in iter_documents(place / "runs" / "student" / "corpus", split="train"))
    assert held
    assert learned
    assert [line for text in held for line in text.splitlines() if len(line) > 60 and line in learned] == []


def require_two_rates(place):
    """What the guide sets on the command line is what was trained with, not what this test sets."""
    configs = [read_manifest(place / "runs" / run / "pretrain").facts["config"] for run in ("my-model", "slower")]
    assert [config["pretrain"]["optimizer"]["muon_learning_rate"] for config in configs] == [0.03, 0.01]


AFTERWARDS = {"your-documents.md": require_two_rates, "distil.md": require_fair_comparison}

# The first guide makes what others begin from.
ORDER = (
    "your-documents.md",
    "distil.md",
    "ratings.md",
    "feedback.md",
    "finetune-qwen3.md",
    "gpt2-small.md",
    "cluster.md",
)


def test_every_guide_is_run():
    assert sorted(path.name for path in GUIDES.glob("*.md") if path.name != "README.md") == sorted(ORDER)


def test_the_list_of_guides_names_each_and_every_link_leads_somewhere():
    for path in GUIDES.glob("*.md"):
        links = re.findall(r"\]\(((?!http)[^)#]+)\)", path.read_text(encoding="utf-8"))
        assert [link for link in links if not (GUIDES / link).resolve().exists()] == []
    listed = (GUIDES / "README.md").read_text(encoding="utf-8")
    assert [name for name in ORDER if f"({name})" not in listed] == []


def test_the_readme_leads_to_where_the_first_guide_goes_on():
    readme = next(block for block in blocks_of(ROOT / "README.md") if "chatwright new" in block.commands)
    guide = next(block for block in blocks_of(GUIDES / ORDER[0]) if "chatwright new" in block.commands)
    plain = [re.sub(r"\s+(#.*)?$", "", line) for line in readme.commands.splitlines()]
    assert plain[1:] == guide.commands.splitlines()  # the first line installs


DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
DOCUMENTS += [path for path in (ROOT / "docs").rglob("*.md") if path.name != "log.md"]
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CALL = re.compile(r"(?:^|\s-m )chatwright ([a-z].*)")


def calls_of(path):
    """What is said to `chatwright` in blocks and between backticks; comments behind are left out."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for block in _FENCED.findall(text) for line in block.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _FENCED.sub("", text))]
    return [found[1].split(" #")[0] for line in lines if (found := _CALL.search(line))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_a_document_names_is_there_with_its_options(path):
    unknown = []
    for call in calls_of(path):
        command, words = typer.main.get_command(app), call.split()
        while words and hasattr(command, "commands"):
            command = command.commands.get(words.pop(0))
        known = {"--help"}.union(*(one.opts for one in getattr(command, "params", ())))
        unknown += [call] if command is None or set(re.findall(r"(?<!\S)--[a-z-]+", call)) - known else []
    assert unknown == []


def run_guide(place, guide):
    """All of its commands in their order, with what people do between them."""
    skipped = []
    for block in blocks_of(GUIDES / guide):
        if block.mark.startswith("needs"):
            skipped.append(block.mark)
        elif block.mark == "serves":
            serve_block(place, guide, block.commands)
        else:
            if block.mark:
                WRITTEN[block.mark](place)
            run_block(place, guide, block.commands)
    if guide in AFTERWARDS:
        AFTERWARDS[guide](place)
    print(f"{guide}: left out here, {skipped or 'nothing'}")


@pytest.fixture(scope="module")
def first(place):
    """The place as the first guide leaves it, whichever of the others is run in this process."""
    run_guide(place, ORDER[0])
    return place


@pytest.mark.slow
@pytest.mark.timeout(2 * _LIMIT_S)
@pytest.mark.parametrize("guide", ORDER)
def test_the_commands_of_the_guide_work(first, guide):
    if guide != ORDER[0]:
        run_guide(first, guide)
