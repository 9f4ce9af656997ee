"""What makes training faster or smaller must not change what is learned: each setting's class of equality."""

from typing import NamedTuple

import pytest
import torch
from tiny_training import VOCABULARY, DrawnSource, digest, metrics, new_network, new_trainer
from torch.nn import functional as F

from chatwright.foundation import storage
from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.network import Network
from chatwright.train import compiling, objectives, scores
from chatwright.train.ahead import Ahead
from chatwright.train.batches import MicroBatch
from chatwright.train.metrics import METRICS
from chatwright.train.objectives import next_token
from chatwright.train.utilisation import Meter, measured_ceiling


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("fields", [{}, {"with_adapter": True}, {"precision": "bfloat16"}], ids=str)
def test_recomputed_blocks_learn_the_same_bits(tmp_path, fields):
    new_trainer(tmp_path / "kept", **fields).run()
    new_trainer(tmp_path / "again", recompute=True, **fields).run()
    assert metrics(tmp_path / "kept") == metrics(tmp_path / "again")


def test_recomputed_blocks_keep_less_for_the_backward_pass():
    ids = torch.zeros(2, 16, dtype=torch.long)
    kept = {}
    for is_on in (False, True):
        network = new_network(deep=True)
        network.recompute_blocks(is_on=is_on)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
            network.hidden(ids)
        kept[is_on] = sum(sizes)
    assert kept[True] < kept[False] / 4


def scored(rows=70, width=16, *, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [1, 64, 70, 200])
def test_the_loss_in_pieces_has_the_value_and_the_gradients_of_the_whole(rows, monkeypatch):
    monkeypatch.setattr(scores, "_CPU_SCORES", 1)
    hidden, weight, targets = scored(rows)
    whole = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    expected = torch.autograd.grad(whole / 7, (hidden, weight))
    pieces = scores.summed_cross_entropy(hidden, weight, targets)
    found = torch.autograd.grad(pieces / 7, (hidden, weight))
    assert pieces.item() == pytest.approx(whole.item(), rel=1e-6)
    for one, other in zip(expected, found, strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-6


def test_the_loss_in_pieces_equals_the_whole_in_bfloat16_too(monkeypatch):
    monkeypatch.setattr(scores, "_CPU_SCORES", 1)
    hidden, weight, targets = scored(200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
        pieces = scores.summed_cross_entropy(hidden, weight, targets)
    expected = torch.autograd.grad(whole, (hidden, weight))
    found = torch.autograd.grad(pieces, (hidden, weight))
    assert pieces.item() == pytest.approx(whole.item(), rel=1e-5)
    for one, other in zip(expected, found, strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-2  # a bfloat16 has 8 bits


def test_a_frozen_projection_costs_no_gradient():
    hidden, weight, targets = scored()
    loss = scores.summed_cross_entropy(hidden, weight.detach(), targets)
    assert loss.grad_fn.saved_tensors[1] is None
    loss.backward()
    assert hidden.grad is not None


def test_a_loss_without_a_gradient_is_the_same():
    hidden, weight, targets = scored()
    with torch.no_grad():
        alone = scores.summed_cross_entropy(hidden, weight, targets)
    assert float(alone) == float(scores.summed_cross_entropy(hidden, weight, targets).detach())


def test_next_token_takes_pieces_where_scores_would_be_many_and_learns_the_same(monkeypatch):
    ids = torch.randint(VOCABULARY, (4, 13), generator=torch.Generator().manual_seed(2))
    batch = MicroBatch(ids[:, :-1], ids[:, 1:], 48)
    gradients = []
    for most in (objectives._MAX_SCORES, VOCABULARY):
        monkeypatch.setattr(objectives, "_MAX_SCORES", most)
        network = new_network(deep=True)
        loss = next_token(network, batch)
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert "_Summed" in type(loss.grad_fn).__name__
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-6


def test_a_short_run_is_not_compiled_and_says_why(tmp_path, capsys):
    new_trainer(tmp_path, source=LongRows(), compile="auto").run()
    assert "blocks are not compiled: a run of about" in capsys.readouterr().err
    assert storage.read_json(tmp_path / compiling.COMPILING)["is_on"] is False


def test_compiling_is_tried_on_micro_batches_as_large_as_those_of_the_run(tmp_path, monkeypatch):
    seen = {}

    def noted(network, setting, **given):
        seen.update(given)
        return compiling.Decision(False, "a test")

    class Known(DrawnSource):
        def longest(self):
            (whole,) = DrawnSource(rows=8, micro_rows=8).step(0)
            return whole

    monkeypatch.setattr(compiling, "decide", noted)
    new_trainer(tmp_path, steps=5, source=Known(rows=8, micro_rows=2), compile="auto").run()
    assert tuple(seen["batch"].ids_BT.shape) == (2, 12)
    assert seen["passes"] == 5 * 4


def test_a_machine_without_a_compiler_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no C\\+\\+ compiler"):
        new_trainer(tmp_path / "asked", compile=True).run()
    new_trainer(tmp_path / "left", source=LongRows(), compile="auto").run()
    assert "compiler" in storage.read_json(tmp_path / "left" / compiling.COMPILING)["reason"]


class LongRows(DrawnSource):
    """Rows which know their longest step."""

    def longest(self):
        (batch,) = DrawnSource(rows=self._rows, micro_rows=self._rows).step(0)
        return batch


class Timed(NamedTuple):
    """Work whose passes take a second as written, and compiled so many; an error is raised."""

    network: Network
    device: torch.device
    compiled_s: float | RuntimeError
    tried: list[bool]  # of each pass, whether the blocks were compiled

    def run(self, batch):  # noqa: ARG002 - as `Work` has it
        self.tried.append(all(block._compiled_call_impl is not None for block in self.network.model.layers))
        if not self.tried[-1]:
            return 1.0
        if isinstance(self.compiled_s, RuntimeError):
            raise self.compiled_s
        return self.compiled_s


def decided(directory, monkeypatch, *, device, passes, compiled_s):
    """What `"auto"` decides where a compiler is there, and whether compiled passes were tried."""
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: None)
    network = new_network()
    work = Timed(network, torch.device(device), compiled_s, [])
    batch = LongRows().longest()
    decision = compiling.decide(network, "auto", work=work, batch=batch, passes=passes, directory=directory)
    assert all(block._compiled_call_impl is None for block in network.model.layers)  # as before
    return decision, any(work.tried)


@pytest.mark.parametrize(
    ("device", "passes", "compiled_s", "is_on", "is_tried"),
    [
        ("cpu", 1799, 0.5, False, False),
        ("cpu", 1801, 0.97, True, True),
        ("cpu", 1801, 0.99, False, True),
        ("cuda", 599, 0.5, False, False),
        ("cuda", 601, 0.97, True, True),
    ],
)
def test_auto_compiles_where_the_run_is_long_and_a_compiled_pass_clearly_faster(
    tmp_path, monkeypatch, device, passes, compiled_s, is_on, is_tried
):
    decision, tried = decided(tmp_path, monkeypatch, device=device, passes=passes, compiled_s=compiled_s)
    assert (decision.is_on, tried) == (is_on, is_tried)
    assert ("is over before it pays" in decision.reason) == (not is_tried)


def test_where_compiling_fails_the_run_goes_on_without_and_says_why(tmp_path, monkeypatch):
    failure = RuntimeError("the compiler crashed\nand said much more")
    decision, tried = decided(tmp_path, monkeypatch, device="cpu", passes=1801, compiled_s=failure)
    assert tried
    assert decision == (False, "compiling failed: the compiler crashed")


@pytest.mark.parametrize(("precision", "in_bfloat16"), [("float32", False), ("bfloat16", True)])
def test_muon_multiplies_in_bfloat16_where_the_training_does(tmp_path, precision, in_bfloat16):
    assert new_trainer(tmp_path, precision=precision)._optimizer._muon._in_bfloat16 is in_bfloat16


def test_utilisation_is_the_model_s_arithmetic_over_the_measured_product_s():
    placement = Placement(torch.device("cpu"), "float32", 1, "a test")
    ceiling = measured_ceiling(placement)
    assert 1e8 < ceiling < 1e13
    assert Meter(2e6, 1e9).share(250) == pytest.approx(0.5)


def test_the_log_holds_the_utilisation_where_the_arithmetic_is_known(tmp_path):
    summary = new_trainer(tmp_path, flops_per_token=1e5).run()
    lines = [line for line in storage.read_lines(tmp_path / METRICS) if line["event"] == "step"]
    assert all(0 < line["utilisation"] < 1 for line in lines)
    share = sum(line["utilisation"] for line in lines) / sum(line["tokens_per_second"] for line in lines)
    for line in lines:  # the log rounds both
        assert line["utilisation"] == pytest.approx(share * line["tokens_per_second"], abs=1.5e-4)
    assert 0 < summary["utilisation"] < 1


def test_a_source_read_ahead_gives_the_same_steps_and_the_same_errors(tmp_path):
    class Ending(DrawnSource):
        def step(self, number):
            if number == 3:
                raise RefusedError("step 3 is damaged")
            return super().step(number)

    ahead = Ahead(Ending(), steps=12)
    for number in (0, 1, 2, 7, 2):  # a resume jumps, and so does a repeated step
        for one, other in zip(ahead.step(number), DrawnSource().step(number), strict=True):
            assert torch.equal(one.ids_BT, other.ids_BT)
    with pytest.raises(RefusedError, match="step 3"):
        ahead.step(3)
    straight, read_ahead = new_network(), new_network()
    new_trainer(tmp_path / "straight", network=straight).run()
    new_trainer(tmp_path / "ahead", network=read_ahead, source=Ahead(DrawnSource(), steps=12)).run()
    assert digest(read_ahead) == digest(straight)


@pytest.mark.slow
def test_threads_change_the_result_by_rounding_only(tmp_path):
    drift = []
    networks = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        network = new_network()
        new_trainer(tmp_path / str(threads), network=network).run()
        networks.append(network)
    torch.set_num_threads(1)
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        drift.append((one - other).detach().abs().flatten())
    together = torch.cat(drift)
    assert float(together.max()) < 1e-3
    assert float(together.mean()) < 1e-5
