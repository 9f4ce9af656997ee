"""Silent damage is found and the rank named: a flipped bit, a rank that has left the others, arithmetic that does not repeat."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import flip_bit, start_ranks
from tiny_training import DrawnSource, Poison, digest, metrics, new_network, new_trainer

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DivergedError, ExitCode
from chatwright.train.audit import Audit, odd_ones
from chatwright.train.faults import FaultConfig
from chatwright.train.objectives import next_token
from chatwright.train.pretrain import PretrainConfig

AUDITED = FaultConfig(audit_every=4)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@given(place=st.integers(0, 36), bit=st.integers(0, 31), which=st.integers(0, 2))
def test_any_flipped_bit_is_a_change(place, bit, which):
    held = [torch.randn(7, 6, generator=torch.Generator().manual_seed(number)) for number in range(3)]
    audit = Audit(lambda: held, every=1)
    audit.note()
    assert not audit.is_changed()
    flip_bit(held[which], bit=bit, place=place)
    assert audit.is_changed()
    flip_bit(held[which], bit=bit, place=place)
    assert not audit.is_changed()


@pytest.mark.parametrize(
    ("digests", "odd"),
    [([5.0], []), ([5.0, 5.0, 5.0], []), ([5.0, 7.0, 5.0], [1]), ([5.0, 7.0], [0, 1]), ([5.0, 7.0, 7.0, 7.0], [0])],
)
def test_who_holds_something_else_than_most_is_odd(digests, odd):
    assert odd_ones(digests) == odd


class Flipping(DrawnSource):
    """A bit of a weight flips while the data of a step is read."""

    def __init__(self, network, *, at, bit):
        super().__init__()
        self._network, self._at, self._bit = network, at, bit

    def step(self, number):
        if number == self._at:
            self._at = None
            flip_bit(self._network.model.layers[0].mlp.up_proj.weight, bit=self._bit)
        return super().step(number)


@pytest.mark.parametrize(("at", "bit"), [(1, 0), (6, 12), (11, 22), (6, 31)])
def test_a_bit_that_flips_between_two_steps_stops_the_run_before_it_is_used_and_it_goes_on_to_the_same_bits(
    tmp_path, bit, at
):
    straight, network, resumed = new_network(), new_network(), new_network()
    new_trainer(tmp_path / "straight", network=straight, faults=AUDITED).run()
    source = Flipping(network, at=at, bit=bit)
    with pytest.raises(DivergedError, match=f"step {at + 1} could not be used: weights or optimizer state changed"):
        new_trainer(tmp_path / "run", network=network, source=source, faults=AUDITED).run()
    new_trainer(tmp_path / "run", network=resumed, faults=AUDITED).run()
    assert digest(resumed) == digest(straight)


def test_a_bit_that_flips_is_rolled_back_where_the_policy_says_so(tmp_path):
    network = new_network()
    faults = FaultConfig(policy="rollback", audit_every=4)
    new_trainer(tmp_path, network=network, source=Flipping(network, at=6, bit=3), faults=faults).run()
    (event,) = [line for line in metrics(tmp_path) if line["event"] == "rolled_back"]
    assert event["to_step"] == 4
    assert "changed between two steps" in event["reason"]


def test_without_an_audit_such_a_bit_goes_unnoticed(tmp_path):
    network = new_network()
    new_trainer(tmp_path, network=network, source=Flipping(network, at=6, bit=3)).run()
    assert [line["event"] for line in metrics(tmp_path) if line["event"] not in ("begins", "step", "evaluation")] == []


def test_an_audited_run_has_the_bits_and_the_log_of_one_that_is_not(tmp_path):
    audited, plain = new_network(), new_network()
    new_trainer(tmp_path / "audited", network=audited, with_adapter=True, faults=AUDITED).run()
    new_trainer(tmp_path / "plain", network=plain, with_adapter=True).run()
    assert metrics(tmp_path / "audited") == metrics(tmp_path / "plain")


def test_arithmetic_that_does_not_repeat_its_bits_is_found_at_the_next_audit(tmp_path):
    calls = []

    def shaky(network, batch):
        calls.append(batch)
        return next_token(network, batch) * (1 + 1e-6 * (len(calls) % 2))

    with pytest.raises(DivergedError, match="step 1 could not be used: one micro-batch computed twice gave two"):
        new_trainer(tmp_path, objective=shaky, faults=AUDITED).run()


def test_a_step_that_is_not_finite_twice_is_no_difference_and_is_left_out_as_ever(tmp_path):
    network, source = new_network(), DrawnSource()
    poison = Poison("loss", [4], network=network, source=source)
    new_trainer(tmp_path, network=network, source=source, objective=poison, faults=AUDITED).run()
    (event,) = [line for line in metrics(tmp_path) if line["event"] == "skipped"]
    assert event["step"] == 5
    assert "micro-batch 0 is not finite" in event["reason"]


@pytest.mark.slow
def test_a_bit_that_flips_on_one_rank_ends_all_and_names_it(tmp_path):
    trainings = start_ranks(tmp_path / "run", 2, steps=12, flip={"rank": 1, "step": 6, "bit": 1}, faults=AUDITED)
    ended = [training.wait() for training in trainings]
    assert [one.code for one in ended] == [ExitCode.STOPPED] * 2, ended
    assert all("step 7 could not be used: weights or optimizer state of rank 1 changed" in one.output for one in ended)


@pytest.mark.slow
def test_a_rank_whose_weights_leave_those_of_the_others_is_named_at_the_next_audit(tmp_path):
    trainings = start_ranks(tmp_path / "run", 3, steps=12, odd_rank=2, faults=AUDITED, rows=12)
    ended = [training.wait() for training in trainings]
    assert [one.code for one in ended] == [ExitCode.STOPPED] * 3, ended
    assert all("step 5 could not be used" in one.output for one in ended)
    assert all("of rank 2 are not those of the others" in one.output for one in ended)


def test_shards_are_not_audited():
    with pytest.raises(ConfigError, match="compares ranks that hold the same"):
        validate(PretrainConfig, {"parallel": "fsdp", "faults": {"audit_every": 5}}, where="a recipe")
