"""Running a recipe: everything once, then nothing, then only what changed; one process at a time; kills leave no trace."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_recipe
from tiny_recipe import STAGES, text_of, write_recipe

from chatwright.data.document import iter_documents
from chatwright.foundation import storage
from chatwright.foundation.errors import (
    BusyError,
    ConfigError,
    DataError,
    ExitCode,
    RefusedError,
    StoppedError,
    UsageError,
)
from chatwright.recipe import stages as recipe_stages
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its recipe's path and its folder, with what its first call did."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_recipe(folder / "made")
    outcomes = run_recipe(load_recipe(path, [f"runs={folder / 'runs'}"]))
    return path, folder / "runs" / "tiny", outcomes


@pytest.fixture
def copied(finished, tmp_path):
    """The same in a folder of the test's own: a function that runs it there with overrides."""
    path, run_dir, _ = finished
    shutil.copytree(run_dir, tmp_path / "runs" / "tiny")

    def run(*overrides, **fields):
        recipe = load_recipe(path, [f"runs={tmp_path / 'runs'}", *overrides])
        return {outcome.stage: outcome.state for outcome in run_recipe(recipe, **fields)}

    run.directory = tmp_path / "runs" / "tiny"
    return run


def states(**changed):
    return {stage: changed.get(stage, "unchanged") for stage in STAGES}


def test_the_first_call_does_every_stage_in_order(finished):
    _, run_dir, outcomes = finished
    assert [(outcome.stage, outcome.state) for outcome in outcomes] == [(stage, "done") for stage in STAGES]
    for stage in STAGES:
        manifest = storage.verify(run_dir / stage)
        assert manifest.facts["stage"] == stage
        assert {"config", "inputs", "seed", "versions", "seconds", "peak_memory_bytes", "summary"} <= set(
            manifest.facts
        )
    assert not any((run_dir / ".work").iterdir())
    assert load_recipe(run_dir / "recipe.toml").name == "tiny"


def test_the_second_call_does_none_and_is_quick(copied):
    began = time.process_time()
    assert copied() == states()
    assert time.process_time() - began < 5


def test_another_run_folder_or_number_of_workers_changes_nothing(copied):
    assert copied("workers=2") == states()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "chatwright.manifest", "version": 1}'])
def test_a_damaged_manifest_is_moved_aside_and_its_stage_alone_done_again(copied, capsys, damage):
    (copied.directory / "tokenizer" / storage.MANIFEST).write_text(damage)
    assert copied() == states(tokenizer="done")
    said = capsys.readouterr().err
    assert "the stage is done again" in said
    assert ".tokenizer.damaged" in said
    assert (copied.directory / ".tokenizer.damaged" / storage.MANIFEST).read_text() == damage
    assert copied() == states()


def test_a_manifest_of_a_newer_version_is_refused_and_left_in_its_place(copied):
    path = copied.directory / "tokenizer" / storage.MANIFEST
    newer = path.read_text().replace('"version": 1', '"version": 99', 1)
    path.write_text(newer)
    with pytest.raises(RefusedError, match="another version"):
        copied()
    assert path.read_text() == newer


def test_another_lora_rank_redoes_fine_tuning_and_what_follows(copied):
    assert copied("finetune.lora.rank=3") == states(finetune="done", evaluate="done")
    assert copied("finetune.lora.rank=3") == states()


def test_another_setting_of_the_evaluation_redoes_it_alone(copied):
    assert copied("evaluate.sample_tokens=3") == states(evaluate="done")


HABITS = (
    "pretrain.checkpoint_every=5",
    "pretrain.log_every=2",
    "pretrain.keep_every=3",
    "pretrain.save_in_background=false",
    "pretrain.faults.policy=rollback",
    "finetune.log_every=1",
    "finetune.faults.maximum_skips=2",
    "finetune.recompute=true",
)


def test_habits_of_a_training_redo_nothing_and_are_told(copied, capsys):
    assert copied(*HABITS) == states()
    said = capsys.readouterr().err
    assert "pretrain: unchanged (`pretrain.checkpoint_every`, `pretrain.faults.policy`" in said
    assert "finetune: unchanged (`faults.maximum_skips`, `log_every`, `recompute`: for the next training)" in said


def test_what_a_training_does_with_other_habits_is_the_same_to_the_bit(finished, copied):
    weights = [run / "pretrain" / "model" / "model.safetensors" for run in (finished[1], copied.directory)]
    shutil.rmtree(copied.directory / "pretrain")
    assert copied(*HABITS, "pretrain.recompute=true", until="pretrain")["pretrain"] == "done"
    assert storage.digest_file(weights[0]) == storage.digest_file(weights[1])


def test_what_decides_which_steps_are_trusted_redoes_the_training(copied):
    assert copied("pretrain.faults.spike_sigmas=6.0", until="pretrain")["pretrain"] == "done"


def test_a_stopped_training_goes_on_with_other_habits(copied, monkeypatch):
    shutil.rmtree(copied.directory / "pretrain")
    pretrained = recipe_stages.STAGES[4]

    def stopping(context):
        context.stop.requested = True
        return pretrained.run(context)

    with monkeypatch.context() as patch:
        changed = [
            stage._replace(run=stopping) if stage.name == "pretrain" else stage for stage in recipe_stages.STAGES
        ]
        patch.setattr(recipe_stages, "STAGES", tuple(changed))
        with pytest.raises(StoppedError):
            copied("pretrain.faults.policy=stop", until="pretrain")
    (work,) = (copied.directory / ".work").glob("pretrain-*")
    assert any((work / "checkpoints").iterdir())
    assert copied(*HABITS, until="pretrain")["pretrain"] == "done"
    steps = [line["step"] for line in storage.read_lines(copied.directory / "pretrain" / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert not work.exists()


@contextlib.contextmanager
def edited(path, text):
    """A file with another text for a while, and then as it was, to the time of its last change."""
    before, times = path.read_text(), path.stat()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_conversation_that_changed_redoes_fine_tuning(finished, copied):
    data = finished[0].parent / "chats" / "train.jsonl"
    with edited(data, data.read_text().replace("How is it with", "And what about")):
        assert copied() == states(finetune="done", evaluate="done")


def test_a_document_that_changed_redoes_what_follows_it(finished, copied):
    with edited(finished[0].parent / "documents" / "007.txt", text_of(1007)):
        assert copied(until="tokenize") == dict.fromkeys(STAGES[:4], "done")
        assert copied(until="tokenize") == dict.fromkeys(STAGES[:4], "unchanged")


def test_a_document_that_was_only_touched_is_read_again_and_nothing_else_done(finished, copied):
    with edited(finished[0].parent / "documents" / "007.txt", text_of(7)):
        assert copied() == states(documents="done")


def test_a_file_that_is_gone_or_cut_is_made_again(copied, capsys):
    weights = copied.directory / "finetune" / "model" / "model.safetensors"
    digest = storage.digest_file(weights)
    weights.unlink()
    assert copied()["finetune"] == "done"
    assert "`model/model.safetensors` is missing or cut" in capsys.readouterr().err
    assert storage.digest_file(weights) == digest


def test_a_command_does_its_stage_and_those_before_it(copied):
    shutil.rmtree(copied.directory / "tokens")
    shutil.rmtree(copied.directory / "pretrain")
    done = copied(until="tokenize")
    assert done == {"documents": "unchanged", "corpus": "unchanged", "tokenizer": "unchanged", "tokens": "done"}
    assert not (copied.directory / "pretrain").exists()


def test_a_stage_that_the_recipe_lacks_is_named(copied):
    with pytest.raises(UsageError, match="no stage `distill`"):
        copied(until="distill")


def test_the_report_is_written_when_all_is_done_and_not_before(copied):
    reported = []
    copied(report=reported.append)
    copied(until="pretrain", report=reported.append)
    assert reported == [copied.directory]


def test_a_second_process_on_the_same_run_is_refused(copied):
    holder = (
        "import sys, pathlib; from chatwright.foundation import storage\n"
        "with storage.exclusive(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(copied.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {process.pid} since") as caught:
            copied()
        assert caught.value.exit_code == ExitCode.USAGE
        process.kill()
    assert copied() == states()


def test_files_of_late_stages_that_are_missing_are_told_before_any_work(tmp_path):
    path = write_recipe(tmp_path / "made", documents=2)
    overrides = [f"runs={tmp_path / 'runs'}", "finetune.data=gone.jsonl", "evaluate.answers=gone-too.jsonl"]
    with pytest.raises(ConfigError) as caught:
        run_recipe(load_recipe(path, overrides))
    assert "`finetune.data`: there is no file" in str(caught.value)
    assert "`evaluate.answers`: there is no file" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_stage_that_fails_leaves_what_was_made_before(finished, copied):
    path, _, _ = finished
    shutil.copytree(path.parent / "chats", copied.directory.parent / "chats")
    bad = copied.directory.parent / "chats" / "train.jsonl"
    bad.write_text('{"question": "Hi?"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:1"):
        copied(f"finetune.data={bad}")
    for stage in STAGES:
        storage.verify(copied.directory / stage)
    assert copied() == states()


def test_a_stop_between_stages_keeps_them_and_the_next_call_goes_on(copied, monkeypatch):
    shutil.rmtree(copied.directory / "evaluate")
    shutil.rmtree(copied.directory / "finetune")
    tuned = recipe_stages.STAGES[5]

    def stopping(context):
        context.stop.requested = True
        return tuned.run(context)

    with monkeypatch.context() as patch:
        changed = [
            stage._replace(run=stopping) if stage.name == "finetune" else stage for stage in recipe_stages.STAGES
        ]
        patch.setattr(recipe_stages, "STAGES", tuple(changed))
        with pytest.raises(StoppedError):
            copied()
    assert copied() == states(finetune="done", evaluate="done")


PROGRAM = Path(tiny_recipe.__file__)


def stop_once_saved(run_dir):
    """Ask this process to stop as soon as a pretraining has a checkpoint."""

    def wait():
        ends = time.monotonic() + 60
        while not list((run_dir / ".work").glob("pretrain-*/checkpoints/step-*")) and time.monotonic() < ends:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


LONG = ("pretrain.steps=120", "pretrain.evaluate_every=120")


def test_an_interrupted_pretraining_whose_documents_changed_is_refused_and_goes_on_once_they_are_back(finished, copied):
    learned = min(Path(one.path).name for one in iter_documents(copied.directory / "corpus", split="train"))
    document = finished[0].parent / "documents" / learned
    stop_once_saved(copied.directory)
    with pytest.raises(StoppedError):
        copied(*LONG, until="pretrain")
    with edited(document, document.read_text() + "Something else.\n"):
        with pytest.raises(
            RefusedError, match="`pretrain` was interrupted at step .* documents have changed"
        ) as caught:
            copied(*LONG, until="pretrain")
        assert caught.value.exit_code == ExitCode.REFUSED
        assert "training tokens was" in caught.value.cause
        assert "delete" in caught.value.hint
        assert copied(until="pretrain")["pretrain"] == "done"  # another recipe is another matter
    assert copied(*LONG, until="pretrain")["pretrain"] == "done"
    assert list((copied.directory / ".work").glob(".pretrain-*")) == []


def test_an_interrupted_pretraining_whose_settings_changed_begins_anew_and_says_what_changed_and_what_lies_where(
    copied, capsys
):
    stop_once_saved(copied.directory)
    with pytest.raises(StoppedError):
        copied(*LONG, until="pretrain")
    (interrupted,) = (copied.directory / ".work").glob("pretrain-*/checkpoints")
    capsys.readouterr()
    assert copied("pretrain.steps=4", "pretrain.optimizer.learning_rate=0.002", until="pretrain")["pretrain"] == "done"
    told = capsys.readouterr().err
    assert "with other settings: " in told
    assert "pretrain.steps was 120 and is now 4" in told
    assert f"`{interrupted.parent}` until it is done" in told


def start(path, runs, *overrides):
    command = [sys.executable, str(PROGRAM), str(path), f"runs={runs}", *overrides]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def kill_in(process, stage, *, after_s):
    """Kill the process some milliseconds after it has said that the stage begins; what it had said so far."""
    told = ""
    for line in process.stderr:
        told += line
        if line.startswith(f"{stage}:"):
            break
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    return told


@pytest.mark.slow
def test_a_run_killed_in_each_stage_ends_with_the_weights_of_an_unbroken_one(finished, tmp_path):
    path, straight, _ = finished
    killed = 0
    for number, stage in enumerate(STAGES):
        process = start(path, tmp_path / "runs")
        told = kill_in(process, stage, after_s=0.01 * number)
        assert process.returncode in (-signal.SIGKILL, ExitCode.DONE), told
        killed += process.returncode == -signal.SIGKILL
        for done in STAGES[: max(0, number - 1)]:  # the one killed before this one still had to be done
            assert f"{done}: unchanged" in told
    assert killed >= len(STAGES) - 2  # on a loaded machine a run may end before its kill comes
    last = start(path, tmp_path / "runs")
    _, told = last.communicate(timeout=120)
    assert last.returncode == 0, told
    for stage in ("pretrain", "finetune"):
        weights = [run / stage / "model" / "model.safetensors" for run in (straight, tmp_path / "runs" / "tiny")]
        assert storage.digest_file(weights[0]) == storage.digest_file(weights[1])


def newest_checkpoint(run_dir):
    """Its step, 0 where a pretraining that is under way has none."""
    found = (run_dir / ".work").glob("pretrain-*/checkpoints/step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


@pytest.mark.slow
def test_a_pretraining_killed_again_and_again_gives_the_bits_of_an_unbroken_one(finished, tmp_path):
    path, _, _ = finished
    settings = ("pretrain.steps=120", "pretrain.checkpoint_every=5", "pretrain.evaluate_every=120", "finetune.epochs=1")
    straight = start(path, tmp_path / "straight", *settings)
    _, told = straight.communicate(timeout=120)
    assert straight.returncode == 0, told
    run_dir = tmp_path / "runs" / "tiny"
    for _ in range(3):
        before = newest_checkpoint(run_dir)
        process = start(path, tmp_path / "runs", *settings)
        while newest_checkpoint(run_dir) <= before and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        _, told = process.communicate()
        assert process.returncode == -signal.SIGKILL, told
        assert not (run_dir / "pretrain").exists()
    last = start(path, tmp_path / "runs", *settings)
    _, told = last.communicate(timeout=120)
    assert last.returncode == 0, told
    assert "goes on at step" in told
    weights = [tmp_path / runs / "tiny" / "pretrain" / "model" / "model.safetensors" for runs in ("straight", "runs")]
    assert storage.digest_file(weights[0]) == storage.digest_file(weights[1])
