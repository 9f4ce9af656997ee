"""Every command of docs/support.md, in its order, on a tiny base: from a folder of documents to a served assistant."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from chatwright.foundation.errors import ExitCode
from chatwright.model.directory import save_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a dozen processes
GUIDE = Path(__file__).parents[2] / "docs" / "support.md"
FAQ = """# Delivery
## Do you ship to France?
Yes, to all of the mainland, in about five days.
## When do parcels leave?
Parcels leave every working day at four.
# Returns
## Can I return opened tea?
Opened tea cannot come back, unopened packets can.
Q: Is there a shop?
A: There is one in Saltmere, by the harbour.
"""
TINY = ("finetune.epochs=1.0", "evaluate.max_answer_tokens=8", "finetune.threads=1", "evaluate.threads=1")


def commands():
    blocks = re.findall(r"```\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("chatwright ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_network, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("desk")
    (folder / "documents").mkdir()
    (folder / "documents" / "faq.md").write_text(FAQ)
    network = make_network(context_length=256, tied=False)
    save_model(folder / "models" / "base", network, tiny_tokenizer, lineage={})
    return folder


def served_answer(process, question):
    """The address that the server names, asked through its API."""
    for line in process.stderr:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found:
            break
    address = f"http://127.0.0.1:{found[1]}/v1"
    with urllib.request.urlopen(f"{address}/models", timeout=60) as answer:  # noqa: S310 - loopback
        model = json.load(answer)["data"][0]["id"]
    messages = [{"role": "user", "content": question}]
    body = json.dumps({"model": model, "messages": messages, "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{address}/chat/completions", body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
        return json.load(answer)


def test_the_guide_s_commands_lead_from_documents_to_a_served_assistant(place, call):
    asked = commands()
    assert [command[1] for command in asked] == [
        "pairs",
        "finetune",
        "report",
        "generate",
        "serve",
        "adapter",
        "adapter",
        "export",
    ]
    for command in asked:
        arguments = command[1:]
        if arguments[0] == "serve":
            continue
        if arguments[0] == "finetune":
            arguments += [part for setting in TINY for part in ("--set", setting)]
        if arguments[0] == "generate":
            arguments += ["--max-tokens", "4"]
        done = call(*arguments, cwd=place)
        assert done.returncode == 0, (arguments, done.stderr)
    run = place / "runs" / "base-pairs"
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    assert "out of scope" in json.dumps(scores)
    assert (run / "report.html").is_file()
    assert (place / "adapter-peft" / "adapter_config.json").is_file()
    serve = next(command for command in asked if command[1] == "serve")
    server = [sys.executable, "-m", "chatwright", *serve[1:], "--port", "0"]
    with subprocess.Popen(server, cwd=place, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            reply = served_answer(process, "Do you ship to France?")
        finally:
            process.terminate()
    assert reply["choices"][0]["message"]["role"] == "assistant"


def test_the_same_call_again_does_nothing_and_a_folder_is_told_the_way(place, call):
    data = place / "few.csv"
    data.write_text("question,answer\n" + "".join(f"What is {n}?,It is number {n}.\n" for n in range(12)))
    arguments = ["finetune", "models/base", "few.csv", *(part for one in TINY[:1] for part in ("--set", one)), "--json"]
    first, again = (call(*arguments, cwd=place) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr
    assert "nothing to do" in again.stderr
    folder = call("finetune", "models/base", "documents", cwd=place)
    assert folder.returncode == ExitCode.USAGE
    assert "chatwright pairs" in folder.stderr
    none = call("finetune", "models/base", cwd=place)
    assert none.returncode == ExitCode.USAGE
