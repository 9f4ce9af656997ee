"""Watching a training: what its lines say, how long it has left, and what is shown when there is nothing to see."""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from rich.console import Console
from sample_run import write_run

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.foundation.usage import UsageMeter
from chatwright.recipe import watch
from chatwright.recipe.improve import unfinished
from chatwright.recipe.report import facts
from chatwright.recipe.report.look import asset
from chatwright.recipe.watch_page import look, serve_watch
from chatwright.serve.settings import settings_for
from chatwright.train.metrics import MetricsLog, Window


@pytest.fixture
def stopped(tmp_path):
    """A run whose pretraining is at step 40 of 100, a second for ten steps; nothing works on it."""
    work = tmp_path / "run" / facts.WORK / "pretrain-0123456789abcdef"
    work.mkdir(parents=True)
    (tmp_path / "run" / "recipe.toml").write_text('name = "run"\n[pretrain]\nsteps = 100\n')
    bits = {"all": 4.0, "books": 3.0}
    storage.append_line(work / watch.METRICS, {"event": "evaluation", "step": 0, "seconds": 0.0, "bits_per_byte": bits})
    for step in (10, 20, 30, 40):
        event = {"event": "step", "step": step, "seconds": step / 10, "loss": 8 - step / 10, "norm": 1.0}
        storage.append_line(work / watch.METRICS, event | {"tokens_per_second": 1000.0 + step})
    return tmp_path / "run"


@pytest.fixture
def going(stopped):
    """The same while something works on it."""
    with storage.exclusive(stopped):
        yield stopped


def shown(run_dir):
    screen = io.StringIO()
    Console(file=screen, width=120).print(watch.render(run_dir, width=20))
    return screen.getvalue()


def test_a_training_that_goes_on_says_how_far_how_fast_and_how_long_still(going):
    found = watch.find_training(going)
    progress = watch.read_progress(going, found)
    assert (found.stage, found.is_done) == ("pretrain", False)
    assert (progress.step, progress.steps, progress.unit, progress.rate) == (40, 100, "tokens", 1040.0)
    assert json.loads(watch.as_json(going))["tokens_per_second"] == 1040.0
    assert progress.seconds_left == pytest.approx(6.0)
    assert progress.heldout == {"all": [4.0], "books": [3.0]}


def test_a_training_that_nothing_works_on_is_told_as_stopped_with_no_time_left(stopped):
    state = "stopped at step 40; the same command goes on"
    text = shown(stopped)
    assert state in text
    assert " left" not in text
    told = json.loads(watch.as_json(stopped))
    assert (told["state"], told["done"], told["held"], told["seconds_left"]) == (state, False, False, None)
    page = look(stopped, UsageMeter())
    assert (page["state"], page["held"], page["left"]) == (state, False, None)


def log_of(directory, *steps, total):
    log = MetricsLog(directory, is_writer=True)
    log.begin_anew(steps=total)
    for step in steps:
        log.write({"event": "step", "step": step, "seconds": step / 10, "loss": 1.0})
    return directory / watch.METRICS


@pytest.mark.parametrize("training", ["edits", "align"])
def test_a_round_of_improvement_is_watched_while_it_learns_and_afterwards(tmp_path, training):
    run_dir = write_run(tmp_path / "sample")
    for path in run_dir.glob(f"*/{watch.METRICS}"):
        os.utime(path, (1, 1))
    work = unfinished.work_of(run_dir, 2) / training
    work.mkdir(parents=True)
    metrics = log_of(work, 10, 20, total=50)
    with storage.exclusive(run_dir):
        assert f"round-0002/{training}, going on" in shown(run_dir)
        assert "20 of 50" in shown(run_dir)
        assert "3 s left" in shown(run_dir)
        storage.write_json(work / "report.json", {})  # the training is done, its model is judged
        assert f"round-0002/{training}, done; the run goes on" in shown(run_dir)
    with storage.publish(run_dir / "round-0002", {"summary": {"learning": {"steps": 20}}}) as scratch:
        (scratch / watch.METRICS).write_bytes(metrics.read_bytes())
    shutil.rmtree(work.parent)
    assert "sample: round-0002, done ─" in shown(run_dir)
    assert "20 of 20" in shown(run_dir)


def looks_until(screen, text):
    """Read the terminal until it shows this; without it, until it ends."""
    assert any(text in line for line in screen), f"the watching ended before `{text}`"


def test_the_terminal_follows_a_run_from_training_to_training_until_nothing_works_on_it(tmp_path):
    run_dir = write_run(tmp_path / "sample", stages=("documents", "corpus", "tokenizer", "tokens", "pretrain"))
    command = [sys.executable, "-m", "chatwright", "watch", str(run_dir), "--every", "0.2"]
    as_terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "140"}
    with storage.exclusive(run_dir):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | as_terminal)
        looks_until(process.stdout, "pretrain, done; the run goes on")
        work = run_dir / facts.WORK / "finetune-0123456789abcdef"
        work.mkdir(parents=True)
        log_of(work, 10, total=50)
        looks_until(process.stdout, "finetune, going on")
    looks_until(process.stdout, "finetune, stopped at step 10; the same command goes on")
    process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 0


def test_the_picture_has_the_bar_the_curve_and_the_time_left(going):
    text = shown(going)
    for part in ("step", "40 of 100", "████████░", "6 s left", "4.000 nats/token", "held out, books", "1,040 tokens/s"):
        assert part in text, part


def test_a_line_torn_by_a_kill_and_skipped_steps_are_met_calmly(going):
    path = watch.find_training(going).path
    storage.append_line(path, {"event": "skipped", "step": 41, "reason": "loss or gradient is not finite"})
    with path.open("a") as file:
        file.write('{"event": "step", "st')
    assert watch.read_progress(going, watch.find_training(going)).skipped == 1
    assert "1 steps" in shown(going)


def test_a_step_left_out_for_a_spike_is_not_told_as_one_that_was_not_finite(going):
    path = watch.find_training(going).path
    reason = "the loss of 9 is a spike: above 4"
    storage.append_line(path, {"event": "skipped", "step": 41, "reason": reason})
    assert f"as unsound; the last: {reason}" in shown(going)
    assert "finite" not in shown(going)
    told = look(going, UsageMeter())
    assert (told["skipped"], told["skipped_why"]) == (1, reason)
    assert "finite" not in asset("watch.js")


@pytest.mark.parametrize(("stage", "unit"), [("reward", "pairs"), ("align", "verdicts"), ("align", "answers")])
def test_a_training_on_other_things_than_tokens_names_them_and_knows_how_long_still(tmp_path, stage, unit):
    work = tmp_path / "run" / facts.WORK / f"{stage}-0123456789abcdef"
    work.mkdir(parents=True)
    log = MetricsLog(work, is_writer=True)
    log.begin_anew(steps=100)
    for step in (10, 20):
        window = Window(steps=10, targets=40, nats=20.0, norms=1.0, seconds=2.0, unit=unit)
        log.write({"event": "step", "step": step, "seconds": step / 5, **window.take()})
    with storage.exclusive(tmp_path / "run"):
        text = shown(tmp_path / "run")
        told = look(tmp_path / "run", UsageMeter())
    for part in ("20 of 100", "16 s left", f"0.500 mean over {unit}", f"20 {unit}/s"):
        assert part in text, part
    assert "token" not in text
    assert (told["unit"], told["rate"], told["left"]) == (unit, 20.0, "16 s")
    assert told["figures"]["rate"]["y"] == f"{unit} a second"
    assert "token" not in told["figures"]["loss"]["y"]


def test_how_much_of_the_machine_is_used_is_shown_where_the_log_says_it(going):
    assert "of the machine" not in shown(going)
    event = {"event": "step", "step": 50, "seconds": 5.0, "loss": 3.0, "tokens_per_second": 1050.0}
    storage.append_line(watch.find_training(going).path, event | {"utilisation": 0.456})
    assert "1,050 tokens/s, 46% of the machine" in shown(going)
    assert look(going, UsageMeter())["utilisation"] == 0.456


def test_a_heldout_loss_that_is_not_finite_is_passed_over(going):
    bits = {"all": None, "books": 2.5, "odd": None}
    event = {"event": "evaluation", "step": 40, "seconds": 4.0, "bits_per_byte": bits}
    storage.append_line(watch.find_training(going).path, event)
    assert watch.read_progress(going, watch.find_training(going)).heldout == {"all": [4.0], "books": [3.0, 2.5]}
    assert "odd" not in shown(going)
    names = [series["name"] for series in look(going, UsageMeter())["figures"]["heldout"]["series"]]
    assert names == ["all", "books"]


def test_a_log_without_a_line_yet_shows_step_zero(going):
    watch.find_training(going).path.write_text("")
    assert "0 of 100" in shown(going)


def test_a_finished_run_shows_its_last_training(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    os.utime(run_dir / "pretrain" / watch.METRICS, (1, 1))
    found = watch.find_training(run_dir)
    assert (found.stage, found.is_done) == ("finetune", True)
    assert "test answers" in shown(run_dir)
    assert json.loads(watch.as_json(run_dir))["seconds_left"] is None


def test_a_folder_without_a_training_is_told(tmp_path):
    with pytest.raises(UsageError, match="no training has begun"):
        watch.find_training(tmp_path)


def test_a_sparkline_falls_with_its_values_and_keeps_to_its_width():
    assert watch.sparkline([4.0, 3.0, 2.0, 1.0], width=4) == "█▆▃▁"
    assert len(watch.sparkline([float(value) for value in range(1000)], width=37)) == 37
    assert watch.sparkline([2.0, 2.0], width=5) == "▁▁"
    assert watch.sparkline([], width=5) == ""


def test_how_busy_the_machine_is_is_told_where_it_can_be_read(going, tmp_path):
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "stat").write_text("cpu  100 0 0 100 0 0 0 0 0 0\n")
    (proc / "meminfo").write_text("MemTotal: 2000000 kB\nMemAvailable: 500000 kB\n")
    meter = UsageMeter(proc=proc)
    (proc / "stat").write_text("cpu  175 0 0 125 0 0 0 0 0 0\n")
    usage = meter.look()
    assert usage == (0.75, 1_536_000_000, 2_048_000_000)
    screen = io.StringIO()
    Console(file=screen, width=120).print(watch.render(going, width=20, usage=usage))
    assert "processor 75%" in screen.getvalue()
    assert UsageMeter(proc=tmp_path / "none").look() == (None, None, None)


@contextlib.contextmanager
def watch_page(run_dir):
    """The page's server on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "chatwright", "watch", str(run_dir), "--page", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert "the training is shown at" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_draws_a_training_as_it_goes_and_asks_nobody_else(going, width):
    from playwright.sync_api import sync_playwright

    requests, complaints = [], []
    with watch_page(going) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_default_timeout(120_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#heldout .frame svg")
        assert page.text_content("#title") == "run: pretrain"
        assert "40" in page.text_content("#cards")
        assert "6 s left" in page.text_content("#cards")
        assert page.text_content("#state") == "going on"
        event = {"event": "step", "step": 50, "seconds": 5.0, "loss": 3.0, "norm": 1.0, "tokens_per_second": 1050.0}
        storage.append_line(watch.find_training(going).path, event)
        page.locator("#cards strong").get_by_text("50", exact=True).wait_for()
        assert page.evaluate("document.querySelector('#progress').value") == 0.5
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert all(url.startswith(address) for url in requests)
    assert complaints == []


def test_a_page_is_refused_where_no_training_has_begun(tmp_path):
    with pytest.raises(UsageError, match="no training has begun"):
        serve_watch(tmp_path, settings_for("127.0.0.1"), port=0)
