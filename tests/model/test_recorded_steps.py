"""A step over whole slabs, as a GPU replays it, gives what the same rows give alone, and leaves the others as they were."""

import pytest
import torch

from chatwright.model.engine.engine import Engine, EngineSettings
from chatwright.model.engine.graphs import RecordedSteps
from chatwright.model.engine.memory import RowMemory
from chatwright.model.engine.planning import NextToken, Stretch
from chatwright.model.engine.runner import Runner
from chatwright.model.generation import GenerationRequest, Sampling

FAMILIES = {
    "qwen3": {},
    "gpt2": {"family": "gpt2", "key_heads": 4},
    "sliding": {"family": "qwen3", "sliding_layers": (1,), "sliding_window": 5},
}
SAME = {"atol": 2e-5, "rtol": 1e-4}  # other shapes sum in another order


def some_ids(length, *, seed=0):
    return torch.randint(0, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def begun(runner, memory, lengths):
    rows = sorted(memory.take(96) for _ in lengths)
    texts = [some_ids(length, seed=length) for length in lengths]
    for row, text in zip(rows, texts, strict=True):
        runner.read(memory, (), [Stretch(row, 0, text)])
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_slab_read_as_they_do_alone_and_others_keep_what_they_hold(make_network, family):
    # The rows' 128 slots are more than the network has positions.
    runner = Runner(make_network(std=0.1, context_length=100, **FAMILIES[family]), compiles=False)
    lengths = (3, 63, 64, 80, 20)
    plain, recorded = (RowMemory(runner.shape, total_blocks=32) for _ in range(2))
    rows, same_rows = begun(runner, plain, lengths), begun(runner, recorded, lengths)
    seen = []

    def counted(act):
        seen.append(act)
        return act

    steps = RecordedSteps(runner.read_slab, context_length=100, record=counted)
    positions = list(lengths)
    for turn, chosen in enumerate([(0, 1, 2, 3, 4), (0, 3), (1,), (0, 1, 2, 3, 4), (4,)]):
        tokens = some_ids(len(chosen), seed=100 + turn)
        wanted = runner.read(
            plain, [NextToken(rows[c], positions[c], t) for c, t in zip(chosen, tokens, strict=True)], ()
        )
        found = steps.read(
            recorded, [NextToken(same_rows[c], positions[c], t) for c, t in zip(chosen, tokens, strict=True)]
        )
        torch.testing.assert_close(found, wanted, **SAME)
        for c in chosen:
            positions[c] += 1
    slabs = {row.slab for row in same_rows}
    assert len(seen) <= 2 * len(slabs)  # one for each number of slots: 64 and 128


def test_what_points_to_memory_that_was_given_up_is_forgotten(make_network):
    runner = Runner(make_network(std=0.1, context_length=256), compiles=False)
    memory = RowMemory(runner.shape, total_blocks=64)
    steps = RecordedSteps(runner.read_slab, context_length=256, record=lambda act: act)
    for _ in range(2):
        for capacity in (64, 128, 256):
            row = memory.take(capacity)
            steps.read(memory, [NextToken(row, 0, 1)])
            memory.give_back(row)
        assert all(memory.has_slab(slab) for slab, _ in list(steps._known)[-1:])
    assert len(steps._known) <= 3
    steps.read(other := RowMemory(runner.shape, total_blocks=8), [NextToken(other.take(64), 0, 1)])
    assert len(steps._known) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_engine_writes_what_one_without_graphs_writes(make_network, tiny_tokenizer):
    network = make_network(std=0.1, context_length=256).to("cuda")
    requests = [
        GenerationRequest(prompt=tuple(some_ids(length, seed=length)), sampling=Sampling(max_tokens=40, temperature=0))
        for length in (5, 70, 130)
    ]
    written = [
        Engine(network, tiny_tokenizer, settings=EngineSettings(compiles=compiles)).run(requests)
        for compiles in (True, False)
    ]
    assert [[one.ids for one in group] for group in written[0]] == [[one.ids for one in group] for group in written[1]]
