"""The one loop: exact accumulation, no step on a value that is not finite, and stops that leave no trace."""

import pytest
import torch
from tiny_training import DrawnSource, Poison, StoppingSource, digest, metrics, new_network, new_trainer
from torch.nn import functional as F

from chatwright.foundation.errors import DivergedError, ExitCode, RefusedError, StoppedError
from chatwright.foundation.stopping import StopFlag
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.train.faults import FaultConfig
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """An unbroken run: its network, its directory and its summary."""
    network = new_network()
    directory = tmp_path_factory.mktemp("unbroken")
    return network, directory, new_trainer(directory, network=network).run()


def gradient_of_a_step(directory, source):
    """The whole gradient that the optimizer was given in the first step, as one vector."""
    network = new_network(deep=True)
    found = {}
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: found.update({name: p.grad.clone()}))
    new_trainer(directory, network=network, steps=1, source=source).run()
    return torch.cat([found[name].flatten() for name, _ in network.named_parameters()])


@pytest.mark.parametrize("micro_rows", [1, 2, 3])
def test_micro_batches_of_unequal_target_counts_give_the_gradient_of_one_batch(tmp_path, micro_rows):
    whole = gradient_of_a_step(tmp_path / "whole", DrawnSource(rows=4, micro_rows=4))
    parts = gradient_of_a_step(tmp_path / "parts", DrawnSource(rows=4, micro_rows=micro_rows))
    assert float((whole - parts).norm() / whole.norm()) < 1e-6


def test_the_gradient_is_that_of_the_mean_over_all_target_tokens(tmp_path):
    accumulated = gradient_of_a_step(tmp_path, DrawnSource(rows=4, micro_rows=1))
    network = new_network(deep=True)
    (batch,) = DrawnSource(rows=4, micro_rows=4).step(0)
    scores = network(batch.ids_BT)
    F.cross_entropy(scores.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORED).backward()
    plain = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert float((accumulated - plain).norm() / plain.norm()) < 1e-6


def test_the_logged_loss_is_the_mean_over_the_window_s_target_tokens(tmp_path):
    network = new_network(deep=True)
    source = DrawnSource()
    new_trainer(tmp_path, network=network, steps=1, source=source).run()
    again = new_network(deep=True)
    batches = source.step(0)
    nats = sum(float(next_token(again, batch).detach()) for batch in batches)
    (line,) = [line for line in metrics(tmp_path) if line["event"] == "step"]
    assert line["loss"] == pytest.approx(nats / sum(batch.num_targets for batch in batches), abs=2e-6)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("rule", ["muon", "adamw"])
def test_a_step_that_is_not_finite_leaves_every_parameter_as_it_was(tmp_path, kind, rule):
    network, source = new_network(), DrawnSource()
    before = digest(network)
    poison = Poison(kind, [0], network=network, source=source)
    optimizer = OptimizerConfig(kind=rule)
    summary = new_trainer(
        tmp_path, network=network, steps=1, source=source, objective=poison, optimizer=optimizer
    ).run()
    assert digest(network) == before
    assert summary["target_tokens"] == 0
    assert [line["step"] for line in metrics(tmp_path) if line["event"] == "skipped"] == [1]


def test_a_rank_without_a_share_of_the_first_step_has_a_loss_scale_to_halve(tmp_path):
    trainer = new_trainer(tmp_path, precision="float16")
    began = trainer._stepper.scale
    trainer._stepper.discard(is_overflow=True)
    assert trainer._stepper.scale == began / 2
    trainer._stepper.scale = 64.0
    trainer._stepper.discard(is_overflow=True)
    assert trainer._stepper.scale == 32.0


def test_training_goes_on_after_a_step_that_was_skipped(tmp_path):
    network, source = new_network(), DrawnSource()
    before = digest(network)
    new_trainer(
        tmp_path,
        network=network,
        steps=6,
        source=source,
        objective=Poison("loss", [2, 3], network=network, source=source),
    ).run()
    assert digest(network) != before
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    assert [line["step"] for line in metrics(tmp_path) if line["event"] == "skipped"] == [3, 4]


def test_too_many_such_steps_stop_the_run_where_it_can_go_on(tmp_path):
    network, source = new_network(), DrawnSource()
    poison = Poison("gradient", range(5, 12), network=network, source=source)
    trainer = new_trainer(
        tmp_path, network=network, source=source, objective=poison, faults=FaultConfig(maximum_skips=2)
    )
    with pytest.raises(DivergedError, match="3 steps in a row up to step 8") as caught:
        trainer.run()
    assert caught.value.exit_code == ExitCode.STOPPED
    assert caught.value.hint
    kept = [line["step"] for line in metrics(tmp_path) if line["event"] == "skipped"]
    assert kept == [6, 7]
    assert [line["step"] for line in metrics(tmp_path) if line["event"] == "diverged"] == [8]
    resumed = new_network()
    new_trainer(tmp_path, network=resumed, source=source).run()
    straight = new_network()
    new_trainer(tmp_path / "straight", network=straight).run()
    assert digest(resumed) == digest(straight)


def stop_at(directory, step, **fields):
    flag = StopFlag()
    source = StoppingSource(flag, step)
    with pytest.raises(StoppedError) as caught:
        new_trainer(directory, source=source, **fields).run(flag)
    return caught.value


@pytest.mark.parametrize("step", [1, 3, 4, 7, 10, 11])
def test_a_run_stopped_at_any_step_and_resumed_gives_the_same_bits_and_the_same_log(tmp_path, unbroken, step):
    network, directory, summary = unbroken
    error = stop_at(tmp_path / "halves", step)
    assert error.exit_code == ExitCode.STOPPED
    assert error.kept == f"step {step} of 12"
    resumed = new_network(seed=9)
    again = new_trainer(tmp_path / "halves", network=resumed).run()
    assert digest(resumed) == digest(network)
    assert metrics(tmp_path / "halves") == metrics(directory)
    assert again["target_tokens"] == summary["target_tokens"]
    assert again["evaluation"] == summary["evaluation"]


@pytest.mark.parametrize(
    "fields", [{"with_adapter": True}, {"precision": "float16"}, {"precision": "bfloat16"}], ids=str
)
def test_dropout_and_reduced_precision_resume_to_the_same_bits_too(tmp_path, fields):
    straight = new_trainer(tmp_path / "straight", **fields)
    straight.run()
    stop_at(tmp_path / "halves", 6, **fields)
    new_trainer(tmp_path / "halves", **fields).run()
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "straight")


def test_only_the_adapter_learns_where_an_adapter_is_trained(tmp_path):
    network = new_network(deep=True)
    before = digest(network)
    new_trainer(tmp_path, network=network, with_adapter=True).run()
    assert digest(network) == before


def test_a_finished_run_that_is_called_again_gives_its_summary_without_a_step(tmp_path, unbroken):
    network, directory, summary = unbroken
    finished = new_network(seed=9)
    again = new_trainer(directory, network=finished).run()
    assert digest(finished) == digest(network)
    assert {key: again[key] for key in summary if key not in ("seconds", "tokens_per_second")} == {
        key: summary[key] for key in summary if key not in ("seconds", "tokens_per_second")
    }


def test_a_damaged_newest_checkpoint_is_named_and_the_older_one_used(tmp_path, unbroken, capsys):
    network, _, _ = unbroken
    stop_at(tmp_path / "halves", 9)
    newest = tmp_path / "halves" / "checkpoints" / "step-00000009" / "weights.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    resumed = new_network()
    new_trainer(tmp_path / "halves", network=resumed).run()
    told = capsys.readouterr().err
    assert "passed over" in told
    assert "step-00000009" in told
    assert "goes on at step 8 of 12" in told
    assert digest(resumed) == digest(network)


def test_a_run_none_of_whose_checkpoints_is_sound_is_refused_and_nothing_of_it_goes(tmp_path, unbroken):
    network, _, _ = unbroken
    stop_at(tmp_path, 9)
    weights = sorted(tmp_path.glob("checkpoints/step-*/weights.safetensors"))
    kept, log = [path.read_bytes() for path in weights], metrics(tmp_path)
    for path in weights:
        path.write_bytes(b"damaged")
    with pytest.raises(RefusedError, match="is sound: step-00000008, step-00000009") as caught:
        new_trainer(tmp_path).run()
    assert caught.value.exit_code == ExitCode.REFUSED
    assert "to begin anew" in caught.value.hint
    assert metrics(tmp_path) == log
    weights[0].write_bytes(kept[0])  # a copy from elsewhere is put back
    resumed = new_network()
    new_trainer(tmp_path, network=resumed).run()
    assert digest(resumed) == digest(network)


def test_a_checkpoint_of_other_data_or_another_length_is_refused(tmp_path):
    stop_at(tmp_path, 6)
    for other in ({"source": DrawnSource(fingerprint="changed")}, {"steps": 13}):
        with pytest.raises(RefusedError, match="other data or another length") as caught:
            new_trainer(tmp_path, **other).run()
        assert caught.value.exit_code == ExitCode.REFUSED
        assert str(tmp_path) in caught.value.hint


def test_a_run_without_a_checkpoint_begins_its_log_anew(tmp_path, unbroken):
    _, directory, _ = unbroken
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "metrics.jsonl").write_text('{"event": "evaluation", "step": 0}\n{"event": "st')
    new_trainer(tmp_path / "killed").run()
    assert metrics(tmp_path / "killed") == metrics(directory)


def test_what_a_kill_left_beside_the_log_does_not_enter_it(tmp_path, unbroken):
    _, directory, _ = unbroken
    stop_at(tmp_path / "halves", 7)
    (tmp_path / "halves" / ".metrics.jsonl.partial").write_text('{"event": "step", "step": 3}\n')
    new_trainer(tmp_path / "halves").run()
    assert metrics(tmp_path / "halves") == metrics(directory)


def test_a_step_whose_targets_are_all_masked_is_refused_by_number(tmp_path):
    class Masked(DrawnSource):
        def step(self, number):
            batches = super().step(number)
            if number != 2:
                return batches
            return [MicroBatch(batch.ids_BT, torch.full_like(batch.targets_BT, IGNORED), 0) for batch in batches]

    with pytest.raises(RefusedError, match="step 2 has no target token"):
        new_trainer(tmp_path, source=Masked()).run()
