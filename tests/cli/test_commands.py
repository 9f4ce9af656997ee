"""Commands as processes: exit codes that programs can tell apart, JSON on stdout, all else on stderr."""

import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch
from tiny_recipe import STAGES, text_of, write_recipe

from chatwright.cli.main import app
from chatwright.foundation import storage
from chatwright.foundation.errors import ChatwrightError, ExitCode

pytestmark = pytest.mark.slow


def test_a_run_prints_json_for_machines_and_the_second_call_does_nothing(finished, call):
    path, run_dir, first = finished
    assert [(stage["stage"], stage["state"]) for stage in first.json()["stages"]] == [(name, "done") for name in STAGES]
    assert (run_dir / "report.html").is_file()
    again = call("run", path, "--set", f"runs={run_dir.parent}", "--json")
    assert again.returncode == ExitCode.DONE
    assert {stage["state"] for stage in again.json()["stages"]} == {"unchanged"}
    assert "nothing to do" in again.stderr


def test_without_json_a_person_reads_a_table(finished, call):
    path, run_dir, _ = finished
    told = call("evaluate", path, "--set", f"runs={run_dir.parent}")
    assert told.returncode == ExitCode.DONE
    assert "base model" in told.stdout
    assert "unchanged" in told.stdout


def test_a_recipe_with_three_mistakes_names_all_three(tmp_path, call):
    path = write_recipe(tmp_path, documents=1)
    text = path.read_text().replace("steps = 6", "stepps = 6").replace("width = 16", 'width = "wide"')
    path.write_text(text.replace("max_answer_tokens = 4", "max_answer_tokens = 0"))
    told = call("run", path, cwd=tmp_path)
    assert told.returncode == ExitCode.USAGE
    assert told.stdout == ""
    assert "has 3 problems" in told.stderr
    assert "`pretrain.stepps` is not a known key; did you mean `steps`?" in told.stderr
    assert '`model.width` should be a valid integer, not "wide"' in told.stderr
    assert "`evaluate.max_answer_tokens` should be greater than or equal to 1, not 0" in told.stderr
    assert "next:" in told.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("finetune", "{model}", "{chats}", "--test", "missing.jsonl"), "there is no file `missing.jsonl`"),
        (("rate", "latin.jsonl"), "`latin.jsonl` is not UTF-8"),
        (("pairs", "folder", "--out", "folder"), "folder"),
        (("evaluate", "{model}", "--records", "latin.jsonl"), "`latin.jsonl` is a file"),
        (("weak", "{run}", "--html", "folder"), "`folder` is a folder"),
    ],
)
def test_plain_mistakes_with_paths_are_told_without_a_traceback(finished, tmp_path, call, arguments, named):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("Where is the harbour? It lies behind the church.\n" * 20)
    (tmp_path / "latin.jsonl").write_bytes('{"asked": "Fähre?"}'.encode("latin-1"))
    places = {
        "model": finished[1] / "finetune" / "model",
        "run": finished[1],
        "chats": finished[0].parent / "chats" / "train.jsonl",
    }
    told = call(*(argument.format(**places) for argument in arguments), cwd=tmp_path)
    assert told.returncode in (ExitCode.FAILED, ExitCode.USAGE), told.stdout
    assert named in told.stderr
    assert "Traceback" not in told.stderr


def test_an_empty_folder_is_told_with_the_next_step(tmp_path, call):
    path = write_recipe(tmp_path, documents=0)
    told = call("run", path, cwd=tmp_path)
    assert told.returncode == ExitCode.FAILED
    assert str(tmp_path / "documents") in told.stderr
    assert "next:  put documents there" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_broken_pdf_beside_good_text_is_counted_and_the_work_goes_on(tmp_path, call):
    path = write_recipe(tmp_path, documents=20)
    (tmp_path / "documents" / "broken.pdf").write_bytes(b"%PDF-1.4\nnot a page in it")
    told = call("clean", path, "--json", cwd=tmp_path)
    assert told.returncode == ExitCode.DONE, told.stderr
    documents = storage.read_manifest(tmp_path / "runs" / "tiny" / "documents").facts["summary"]
    assert documents["documents"] == 20
    assert sum(documents["dropped"].values()) == 1
    assert any(reason in told.stderr for reason in documents["dropped"])


def test_a_model_without_its_tokenizer_and_a_folder_that_is_no_model_are_refused(finished, tmp_path, call):
    shutil.copytree(finished[1] / "finetune" / "model", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    told = call("generate", tmp_path / "model", "Hello")
    assert told.returncode == ExitCode.REFUSED
    assert "tokenizer.json" in told.stderr
    assert "next:" in told.stderr
    for command in (("generate", tmp_path / "nowhere", "Hello"), ("lineage", tmp_path / "nowhere")):
        told = call(*command)
        assert told.returncode == ExitCode.REFUSED
        assert "is not a model directory" in told.stderr
        assert "next:" in told.stderr


def test_generating_is_repeated_by_its_seed(finished, call):
    model = finished[1] / "pretrain" / "model"
    texts = [call("generate", model, "The", "--seed", 3, "--max-tokens", 5, "--json").json()["text"] for _ in range(2)]
    assert texts[0] == texts[1]


def test_text_cannot_steer_the_terminal_and_machines_get_every_character(finished, call):
    asked = ("generate", finished[1] / "pretrain" / "model", "\x1b[2JThe", "--max-tokens", 1)
    assert call(*asked).stdout.startswith("[2JThe")
    assert call(*asked, "--json").json()["prompt"] == "\x1b[2JThe"


def test_lineage_prints_the_chain_down_to_the_source_folder(finished, call):
    path, run_dir, _ = finished
    told = call("lineage", run_dir / "finetune" / "model")
    assert told.returncode == ExitCode.DONE
    assert str(path.parent / "documents") in told.stdout
    for stage in ("pretrain", "tokens", "tokenizer", "corpus", "documents"):
        assert stage in told.stdout
    chain = call("lineage", run_dir / "finetune" / "model", "--json").json()
    assert chain["made_by"]["stage"] == "finetune"


def stopped_at(command, line, number, *, cwd):
    """A call that gets a signal when it has said a line with these words; its code and all that it said."""
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        told = ""
        for heard in process.stderr:
            told += heard
            if line in heard:
                process.send_signal(number)
        return process.wait(timeout=100), told


def test_a_signal_stops_with_code_three_and_the_same_command_goes_on(tmp_path):
    path = write_recipe(tmp_path, documents=30)
    settings = ("--set", "pretrain.steps=9000", "--set", "pretrain.checkpoint_every=9000")  # far from done in time
    command = [sys.executable, "-m", "chatwright", "pretrain", str(path), *settings]
    code, told = stopped_at(command, "step 0: held-out bits per byte", signal.SIGINT, cwd=tmp_path)
    assert code == ExitCode.STOPPED, told
    assert "stopped on request\n  kept:" in told
    assert "error" not in told
    assert "kept:  step " in told
    code, told = stopped_at(command, "goes on at step", signal.SIGTERM, cwd=tmp_path)
    assert code == ExitCode.STOPPED, told
    assert "goes on at step" in told


def test_ctrl_c_before_a_stage_has_begun_is_no_failure_either():
    program = (
        "import os, signal, sys, time\n"
        "from chatwright.cli import main\n"
        # A shell that starts the tests in its background lets them ignore the signal.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "@main.app.command()\n"
        "def wait() -> None:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    for _ in range(3000):\n"  # many short sleeps: the signal may come before one begins
        "        time.sleep(0.01)\n"
        "sys.argv = ['chatwright', 'wait']\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == ExitCode.STOPPED, done.stderr
    assert done.stderr == "stopped\n"


def test_usage_errors_end_with_code_two(call):
    for arguments in (("nonsense",), ("run",), ("run", "/nowhere/recipe.toml"), ("generate", "x", "y", "--top-p", "7")):
        told = call(*arguments)
        assert told.returncode == ExitCode.USAGE, arguments
        assert told.stdout == ""


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(tmp_path, call):
    path = write_recipe(tmp_path, documents=3)
    told = call("run", path, "--dry-run", "--json", cwd=tmp_path)
    assert told.returncode == ExitCode.DONE, told.stderr
    assert set(told.json()["stages"].values()) == {"would be done"}
    assert not (tmp_path / "runs").exists()


def test_help_answers_without_pytorch(call):
    program = "import sys; from chatwright.cli import main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    told = call("--help")
    assert told.returncode == ExitCode.DONE
    for command in ("run", "demo", "chat", "serve", "lineage", "report"):
        assert command in told.stdout


def test_a_document_more_is_collected_by_the_next_call(tmp_path, call):
    path = write_recipe(tmp_path, documents=12)
    assert call("collect", path, cwd=tmp_path).returncode == ExitCode.DONE
    (tmp_path / "documents" / "new.txt").write_text(text_of(500))
    assert call("collect", path, cwd=tmp_path).returncode == ExitCode.DONE
    assert storage.read_manifest(tmp_path / "runs" / "tiny" / "documents").facts["summary"]["documents"] == 13


MISTAKES = [
    (("run", "{folder}"), "is a folder, a recipe is a TOML file", "name `{folder}/recipe.toml`"),
    (("run", "{folder}/recipe.toml", "--set", "pretrain.width=3"), "`pretrain.width` is not a known key; there is `model.width`", "--set"),
    (("run", "{folder}/recipe.toml", "--set", "finetune.device=cuda"), "`finetune.device`: there is no GPU here", "--set"),
    (("run", "{folder}/recipe.toml", "--set", "pretrain.device=cuda", "--dry-run"), "`pretrain.device`: there is no GPU", "--set"),
    (("chat", "{run}"), "is not a model directory", "name `{run}/finetune/model` or `{run}/pretrain/model`"),
    (("generate", "{folder}/nowhere", "It was"), "there is no such folder", "finetune/model"),
    (("plan", "--documents", "{folder}/nowhere"), "there is no folder", "documents lie in"),
    (("finetune", "{folder}", "data.csv"), "is not a model directory", "name"),
    (("finetune", "{run}/pretrain/model", "{folder}/gone.csv"), "there is no file", "CSV"),
    (("finetune", "{folder}/nowhere", "data.csv"), "there is no model directory", "pretrain/model"),
    (("compare", "{folder}", "{run}/pretrain/model"), "is not a model directory", "name"),
    (("rate", "{folder}/nowhere"), "neither a run nor a file of items", "runs/demo"),
    (("report", "{folder}"), "is not a run", "chatwright run RECIPE"),
    (("pairs", "{folder}/nowhere", "--out", "{folder}/pairs.jsonl"), "there is no folder", "Markdown"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "what", "then"), MISTAKES)
def test_a_common_mistake_is_told_with_its_place_and_the_next_step(finished, capsys, arguments, what, then):
    if torch.cuda.is_available() and "no GPU" in what:
        pytest.skip("there is a GPU here")
    folder, run_dir = finished[0].parent, finished[1]
    with pytest.raises(ChatwrightError) as caught:
        app([argument.format(folder=folder, run=run_dir) for argument in arguments], standalone_mode=False)
    assert caught.value.exit_code in (ExitCode.USAGE, ExitCode.REFUSED)
    assert what in str(caught.value)
    assert then.format(folder=folder, run=run_dir) in caught.value.hint
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")  # nothing was begun


def test_a_port_that_is_taken_is_told_with_the_way_out(finished, call):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = call("serve", finished[1] / "finetune" / "model", "--port", port, cwd=finished[0].parent)
    assert told.returncode == ExitCode.USAGE
    assert f"port {port} of `127.0.0.1` is taken by another program" in told.stderr
    assert "`--port 0`" in told.stderr
