"""Curves in other programs say what `metrics.jsonl` says, also after a resume; one that is not there is named."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import DrawnSource, StoppingSource, metrics, new_trainer

from chatwright.foundation.errors import StoppedError, UsageError
from chatwright.foundation.stopping import StopFlag
from chatwright.train.curves import open_curves, scalars_of


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(directory, name):
    curves = EventAccumulator(str(directory / "curves"))
    curves.Reload()
    return {point.step: point.value for point in curves.Scalars(name)}


def test_tensorboard_reads_back_what_the_log_says(tmp_path):
    new_trainer(tmp_path, curves=["tensorboard"]).run()
    logged = {line["step"]: line["loss"] for line in metrics(tmp_path) if line["event"] == "step"}
    assert drawn(tmp_path, "step/loss") == pytest.approx(logged, rel=1e-6)
    measured = {line["step"]: line["weights"] for line in metrics(tmp_path) if line["event"] == "evaluation"}
    assert drawn(tmp_path, "evaluation/weights") == pytest.approx(measured, rel=1e-6)


def test_a_resumed_run_draws_one_curve(tmp_path):
    flag = StopFlag()
    with pytest.raises(StoppedError):
        new_trainer(tmp_path, source=StoppingSource(flag, 7), curves=["tensorboard"]).run(flag)
    new_trainer(tmp_path, source=DrawnSource(), curves=["tensorboard"]).run()
    logged = {line["step"]: line["loss"] for line in metrics(tmp_path) if line["event"] == "step"}
    assert drawn(tmp_path, "step/loss") == pytest.approx(logged, rel=1e-6)


def test_without_the_setting_nothing_is_drawn(tmp_path):
    new_trainer(tmp_path).run()
    assert not (tmp_path / "curves").exists()


def test_numbers_are_named_by_their_place_and_texts_are_left_out():
    event = {"event": "evaluation", "step": 4, "bits_per_byte": {"all": 1.5, "web": 2}, "summary": "x", "best": True}
    assert scalars_of(event) == {"evaluation/bits_per_byte/all": 1.5, "evaluation/bits_per_byte/web": 2.0}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_read_back_what_the_log_says(tmp_path, name):
    pytest.importorskip(name)
    run = tmp_path / "run"
    command = [sys.executable, str(Path(__file__).with_name("tracked_training.py")), name, str(run)]
    settings = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    stored = json.loads(done.stdout)  # and nothing else: what they print goes to stderr
    for event, figure in (("step", "loss"), ("step", "norm"), ("evaluation", "weights")):
        logged = {str(line["step"]): line[figure] for line in metrics(run) if line["event"] == event}
        assert stored[f"{event}/{figure}"] == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize("name", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_trackio_is_refused_where_it_would_send(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "somewhere")
    with pytest.raises(UsageError, match=f"`{name}` would have it send"):
        open_curves(["trackio"], tmp_path)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) for name in ("wandb", "trackio")), reason="asks for what is not installed"
)
def test_a_program_that_is_not_installed_is_named_with_its_extra(tmp_path, name):
    with pytest.raises(UsageError, match=f'"{name}", which is not installed') as caught:
        open_curves([name], tmp_path)
    assert f"chatwright[{name}]" in caught.value.hint


def test_a_program_that_fails_is_left_out_and_training_goes_on(tmp_path, capsys):
    (tmp_path / "curves").write_text("a file where event files should be")
    new_trainer(tmp_path, curves=["tensorboard"]).run()
    assert capsys.readouterr().err.count("tensorboard failed and draws no more, training goes on") == 1
    assert [line["step"] for line in metrics(tmp_path) if line["event"] == "step"] == [3, 6, 9, 12]
