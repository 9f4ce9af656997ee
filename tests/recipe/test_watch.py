"""Watching a training: what its lines say, how long it has left, and what is shown when there is nothing to see."""

import io
import json
import os

import pytest
from rich.console import Console
from sample_run import write_run

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.recipe import runner, watch


@pytest.fixture
def going(tmp_path):
    """A run whose pretraining is at step 40 of 100, a second for ten steps."""
    work = tmp_path / "run" / runner._WORK / "pretrain-0123456789abcdef"
    work.mkdir(parents=True)
    (tmp_path / "run" / "recipe.toml").write_text('name = "run"\n[pretrain]\nsteps = 100\n')
    bits = {"all": 4.0, "books": 3.0}
    storage.append_line(work / watch.METRICS, {"event": "evaluation", "step": 0, "seconds": 0.0, "bits_per_byte": bits})
    for step in (10, 20, 30, 40):
        event = {"event": "step", "step": step, "seconds": step / 10, "loss": 8 - step / 10, "norm": 1.0}
        storage.append_line(work / watch.METRICS, event | {"tokens_per_second": 1000.0 + step})
    return tmp_path / "run"


def shown(run_dir):
    screen = io.StringIO()
    Console(file=screen, width=120).print(watch.render(run_dir, width=20))
    return screen.getvalue()


def test_a_training_that_goes_on_says_how_far_how_fast_and_how_long_still(going):
    found = watch.find_training(going)
    progress = watch.read_progress(going, found)
    assert (found.stage, found.is_done) == ("pretrain", False)
    assert (progress.step, progress.steps, progress.tokens_per_second) == (40, 100, 1040.0)
    assert progress.seconds_left == pytest.approx(6.0)
    assert progress.heldout == {"all": [4.0], "books": [3.0]}


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
