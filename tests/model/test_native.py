"""The compiled kernels give the same bits whatever shares them, and what PyTorch's products give."""

import math
import shutil

import pytest
import torch

from chatwright.model.engine import compiling
from chatwright.model.engine.compiling import compiled, kernels
from chatwright.model.engine.cores import for_kernels, kernel_threads
from chatwright.model.engine.engine import Engine, EngineSettings
from chatwright.model.engine.memory import RowMemory
from chatwright.model.engine.native import NativeMatrix
from chatwright.model.engine.planning import NextToken, Stretch
from chatwright.model.engine.runner import Runner
from chatwright.model.generation import GenerationRequest, Sampling

has_kernels = pytest.mark.skipif(kernels() is None, reason="this machine has no C compiler")
SIZES = [(32, 48), (48, 32), (13, 7), (192, 130)]  # inputs and outputs, of whole panels and of parts
FAMILIES = {
    "qwen3": {},
    "llama": {"family": "llama", "mlp_bias": True},
    "gpt2": {"family": "gpt2", "key_heads": 4},
    "sliding": {"family": "qwen3", "sliding_layers": (1,), "sliding_window": 5},
    "unrotated": {"family": "smollm3", "unrotated_layers": (0,)},
}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@has_kernels
@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it_nor_on_threads(inputs, outputs, kind):
    matrix = NativeMatrix(kernels(), drawn(outputs, inputs), drawn(outputs, seed=1), as_format=kind)
    rows = drawn(33, inputs, seed=2)
    whole = matrix.times(rows)
    for count in range(1, 14):
        assert torch.equal(matrix.times(rows[5 : 5 + count]), whole[5 : 5 + count])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(matrix.times(rows), whole)
    finally:
        torch.set_num_threads(threads)


@has_kernels
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_products_are_pytorchs(inputs, outputs):
    weight, bias, rows = drawn(outputs, inputs), drawn(outputs, seed=1), drawn(9, inputs, seed=2)
    wanted = torch.nn.functional.linear(rows, weight, bias)
    matrix = NativeMatrix(kernels(), weight, bias, as_format="float32")
    assert (matrix.times(rows) - wanted).abs().max() < 1e-5 * math.sqrt(inputs)


@has_kernels
def test_int8_loses_what_rounding_the_weights_loses_and_little_more():
    weight, rows = drawn(130, 192), drawn(9, 192, seed=2) * torch.logspace(-2, 2, 192)
    scale = weight.abs().amax(1, keepdim=True) / 127
    rounded = rows @ ((weight / scale).round() * scale).T
    found = NativeMatrix(kernels(), weight, None, as_format="int8").times(rows)
    assert (found - rounded).norm() < 1e-3 * rounded.norm()


@has_kernels
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_gives_the_networks_scores_also_where_a_width_fills_no_vector(make_network, family):
    network = make_network(std=0.1, **{"mlp_width": 45, **FAMILIES[family]})
    runner = Runner(network)
    ids = torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(3))
    memory = RowMemory(runner.shape, total_blocks=8)
    states = runner.read(memory, (), [Stretch(memory.take(40), 0, ids.tolist())])
    with torch.inference_mode():
        wanted = network(ids[None])[0]
    assert torch.allclose(runner.scores(states), wanted, rtol=1e-4, atol=1e-4)


@has_kernels
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokens_bits_are_the_same_read_alone_or_in_a_stretch_of_any_length(make_network, family):
    runner = Runner(make_network(std=0.1, context_length=256, **FAMILIES[family]))
    ids = torch.randint(0, 300, (100,), generator=torch.Generator().manual_seed(3)).tolist()
    memory = RowMemory(runner.shape, total_blocks=16)
    whole_row, row = memory.take(100), memory.take(100)
    whole = runner.read(memory, (), [Stretch(whole_row, 0, ids)])
    parts = [
        runner.read(memory, (), [Stretch(row, 0, ids[:64])]),
        runner.read(memory, (), [Stretch(row, 64, ids[64:71])]),
    ]
    parts += [runner.read(memory, [NextToken(row, place, ids[place])], ()) for place in range(71, 100)]
    assert torch.equal(torch.cat(parts), whole)


@has_kernels
def test_pytorch_works_alone_while_the_kernels_do_and_gets_its_threads_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with for_kernels():
            assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
            with for_kernels():
                assert kernel_threads() == 3
            assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
        assert (torch.get_num_threads(), kernel_threads()) == (3, 3)
    finally:
        torch.set_num_threads(before)


@has_kernels
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_writes_what_it_writes_with_pytorchs_products(make_network, tiny_tokenizer, family):
    network = make_network(**FAMILIES[family])
    prompts = [tuple(range(5, 5 + length)) for length in (1, 7, 30)]
    sampling = Sampling(max_tokens=20, temperature=0, top_logprobs=0)
    asked = [GenerationRequest(prompt=prompt, sampling=sampling) for prompt in prompts]
    ours, theirs = (
        Engine(network, tiny_tokenizer, settings=EngineSettings(compiles=compiles)) for compiles in (True, False)
    )
    assert ours.runner.is_compiled
    assert not theirs.runner.is_compiled
    for (mine,), (wanted,) in zip(ours.run(asked), theirs.run(asked), strict=True):
        assert mine.ids == wanted.ids
        for one, other in zip(mine.tokens, wanted.tokens, strict=True):
            assert abs(one.token.logprob - other.token.logprob) < 1e-4


def test_without_a_compiler_pytorchs_products_are_taken(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compiling.kernels.__wrapped__() is None


@has_kernels
def test_a_cache_that_others_may_write_is_not_trusted(tmp_path, monkeypatch, capsys):
    (tmp_path / "chatwright" / "kernels").mkdir(parents=True)
    (tmp_path / "chatwright" / "kernels").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiling.kernels.__wrapped__() is None
    assert "may be written" in capsys.readouterr().err
    assert not list((tmp_path / "chatwright" / "kernels").iterdir())


@has_kernels
def test_kernels_are_compiled_once(tmp_path):
    compiler = next(path for name in compiling.COMPILERS if (path := shutil.which(name)))
    first = compiled(compiler, cache=tmp_path / "kernels")
    made = first.stat().st_mtime_ns
    assert compiled(compiler, cache=tmp_path / "kernels") == first
    assert first.stat().st_mtime_ns == made
