"""What the tests of several layers share: shapes checked as types, a tiny tokenizer, tiny networks, a tiny disk."""

import os
import shutil
import subprocess

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer

# From here on the network's annotated shapes are checked at every call; it must stand before the first import of it.
install_import_hook("chatwright.model", "typechecks.checked")

# Tiny tensors gain nothing from a second thread, and two test processes share the cores.
torch.set_num_threads(1)

# Examples on shared cores have no deadline of their own: a test's time limit is pytest's.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("house")

TEXTS = (
    "The ferry leaves at nine in the morning and comes back at six. Tickets are sold on board; children ride free.",
    "def area(width, height):\n    return width * height  # in square metres\n",
    "Wie weit ist es bis zum Hafen? Zwölf Minuten zu Fuß, sagt der Wirt, vielleicht fünfzehn.",
    "Opening hours: 10:00-18:00, Monday to Saturday. Questions? Write to us, and we answer within 2 days.",
    "user\nassistant\nsystem\nWhen does the ferry leave?\nIt leaves at nine.\n",
)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE of 400 tokens at most."""
    return train_tokenizer(TEXTS, TokenizerConfig(vocabulary_size=400))


@pytest.fixture(scope="session")
def word_tokenizer():
    """Whole words of the same texts."""
    return train_tokenizer(TEXTS, TokenizerConfig(kind="words", vocabulary_size=400))


@pytest.fixture(scope="session")
def make_network(tiny_tokenizer):
    """Makes a network with every weight drawn at random; by default so large that scores differ clearly."""
    from chatwright.model.config import ModelConfig
    from chatwright.model.network import Network

    shape = {"width": 32, "layers": 2, "heads": 4, "key_heads": 2, "head_width": 8, "mlp_width": 48}

    def make(*, seed: int = 0, std: float = 0.3, **fields) -> Network:
        sizes = {**shape, "context_length": 64, "vocabulary_size": tiny_tokenizer.size, **fields}
        network = Network(ModelConfig(**sizes))
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            is_norm = parameter.ndim == 1
            torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.1 if is_norm else std, generator=generator)
        return network.eval()

    return make


@pytest.fixture(scope="session")
def tiny_network(make_network):
    """One such network for tests that only read it."""
    return make_network()


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 256 KiB of its own. Needs root and Linux, as in a container; elsewhere the test is skipped."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a disk of its own can be mounted by root on Linux only")
    yield place
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=True)
