"""Optimizers: what Muon does to a matrix, which rule gets which parameter, and a state that survives a file."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import digest, new_network

from chatwright.train import optimizers
from chatwright.train.optimizers import Optimizer, OptimizerConfig, orthogonalise


def trained_parameters(network):
    return [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]


def steps(network, optimizer, numbers):
    """Updates from gradients that depend on the step's number alone."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for parameter in optimizer.parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(0.5)
        optimizer.zero_grad()


@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16), (1, 8, 24)])
def test_orthogonalising_pushes_all_singular_values_towards_one(shape, in_bfloat16):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    values = torch.linalg.svdvals(orthogonalise(matrices, steps=5, in_bfloat16=in_bfloat16))
    assert float(values.min()) > 0.65
    assert float(values.max()) < 1.25


def test_orthogonalising_keeps_the_singular_vectors():
    matrix = torch.randn(1, 12, 40, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    core = left.T @ orthogonalise(matrix, steps=5)[0] @ right.T
    assert float((core - torch.diag(core.diagonal())).abs().max()) < 1e-4
    assert float(core.diagonal().min()) > 0.6


def test_orthogonalising_one_matrix_does_not_depend_on_those_beside_it():
    matrices = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(2))
    alone = orthogonalise(matrices[2:3], steps=5)[0]
    assert torch.allclose(orthogonalise(matrices, steps=5)[2], alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_state_that_went_through_a_file_gives_the_same_bits_at_the_next_step(tmp_path, kind):
    config = OptimizerConfig(kind=kind)
    straight = new_network(deep=True)
    optimizer = Optimizer(trained_parameters(straight), config)
    steps(straight, optimizer, range(3))
    save_file(optimizer.tensors(), tmp_path / "state.safetensors")
    resumed = new_network(seed=1)
    resumed.load_state_dict(straight.state_dict())
    restored = Optimizer(trained_parameters(resumed), config)
    restored.load(load_file(tmp_path / "state.safetensors"))
    steps(straight, optimizer, range(3, 6))
    steps(resumed, restored, range(3, 6))
    assert digest(resumed) == digest(straight)


def test_loading_copies_so_that_later_steps_leave_the_loaded_tensors_alone():
    network = new_network(deep=True)
    optimizer = Optimizer(trained_parameters(network), OptimizerConfig())
    steps(network, optimizer, range(2))
    tensors = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    optimizer.load(tensors)
    steps(network, optimizer, range(2, 4))
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_a_state_of_before_the_first_step_leaves_nothing_of_later_ones():
    network = new_network(deep=True)
    optimizer = Optimizer(trained_parameters(network), OptimizerConfig())
    before = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    steps(network, optimizer, range(2))
    optimizer.load(before)
    assert optimizer.tensors().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in optimizer.tensors().items())


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    network = new_network()
    optimizer = Optimizer(trained_parameters(network), OptimizerConfig())
    steps(network, optimizer, range(1))
    names = set(optimizer.tensors())
    matrices = {name for name, parameter in network.named_parameters() if ".layers." in name and parameter.ndim == 2}
    assert {name for name in names if name.startswith("momentum.")} == {f"momentum.{name}" for name in matrices}
    assert "exp_avg.model.embed_tokens.weight" in names
    assert "exp_avg.model.norm.weight" in names


def test_weight_decay_pulls_only_where_it_agrees_with_the_update():
    parameter = torch.nn.Parameter(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    plain = torch.nn.Parameter(parameter.detach().clone())
    gradient = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    for target, decay in ((parameter, 0.5), (plain, 0.0)):
        optimizer = Optimizer([("model.layers.0.w", target)], OptimizerConfig(weight_decay=decay))
        target.grad = gradient.clone()
        optimizer.step(1.0)
    pulled = (parameter != plain).tolist()
    update = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) - plain.detach()  # what was subtracted
    assert pulled == ((update * torch.tensor([[1.0, -1.0], [1.0, 1.0]])) > 0).tolist()


def test_no_decay_falls_on_norms():
    network = new_network()
    optimizer = Optimizer(trained_parameters(network), OptimizerConfig(kind="adamw", weight_decay=0.9))
    for parameter in optimizer.parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    assert torch.equal(network.model.norm.weight, torch.ones(16))


def test_the_state_is_given_without_a_copy_and_counted_before_it_is_there():
    network = new_network()
    optimizer = Optimizer(trained_parameters(network), OptimizerConfig())
    expected = optimizer.full_bytes
    steps(network, optimizer, range(1))
    held = {tensor.untyped_storage().data_ptr() for tensor in optimizer.held()}
    moments = {name: tensor for name, tensor in optimizer.tensors().items() if not name.startswith("step.")}
    assert all(tensor.untyped_storage().data_ptr() in held for tensor in moments.values())
    assert sum(tensor.nbytes for tensor in moments.values()) == expected


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_gpu_multiplies_muon_s_matrices_in_bfloat16_if_it_has_the_type(monkeypatch, has_bfloat16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: has_bfloat16)
    for is_asked in (True, False):
        assert optimizers._is_in_bfloat16(torch.device("cuda"), is_asked=is_asked) is has_bfloat16
        assert optimizers._is_in_bfloat16(torch.device("cpu"), is_asked=is_asked) is is_asked
