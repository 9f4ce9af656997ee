"""The length of training rows, chosen by the documents' lengths and the memory, and kept with the run."""

import numpy as np
import pytest

from chatwright.foundation.errors import OutOfMemoryError, RefusedError
from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.train.chunk import CHUNK, choose_chunk, row_bytes, settled_chunk, share_beyond
from chatwright.train.footprint import block_matrices, static_bytes

SHAPE = ModelConfig(
    width=32, layers=2, heads=2, key_heads=2, head_width=16, mlp_width=64, context_length=1024, vocabulary_size=300
)
PLENTY = 64 << 30


def test_the_share_of_tokens_beyond_a_length_is_counted_by_documents():
    lengths = np.array([10, 30])
    assert share_beyond(lengths, 10) == 20 / 40
    assert share_beyond(lengths, 30) == 0


@pytest.mark.parametrize(("each", "expected"), [(60, 64), (200, 256), (270, 256), (300, 512), (5_000, 1024)])
def test_the_least_length_is_taken_at_which_few_tokens_lose_what_stands_before_them(each, expected):
    chosen = choose_chunk(SHAPE, np.full(50, each), free_bytes=PLENTY)
    assert chosen.length == expected
    assert chosen.reasons[0] == f"chunk: {expected:,} tokens"


def test_memory_decides_where_a_longer_row_cannot_be_trained():
    room = row_bytes(SHAPE, 256, precision="float32") / 0.8 + 1
    chosen = choose_chunk(SHAPE, np.full(50, 5_000), free_bytes=int(room) + 1)
    assert chosen.length == 256
    assert "so the memory decides" in chosen.reasons[-1]


def test_a_model_of_which_no_row_fits_is_refused_with_the_need():
    with pytest.raises(OutOfMemoryError, match=r"a row of 64 tokens takes .* GB to train, 0.00 GB are free"):
        choose_chunk(SHAPE, np.full(50, 100), free_bytes=1000)


def test_the_choice_is_kept_whatever_memory_is_free_later(tmp_path):
    lengths = np.full(50, 200)
    first = settled_chunk(tmp_path, SHAPE, lengths, free_bytes=PLENTY, precision="float32")
    again = settled_chunk(tmp_path, SHAPE, lengths, free_bytes=1, precision="float32")
    assert again.length == first.length == 256
    (tmp_path / CHUNK).write_text('{"length": 0}')
    with pytest.raises(RefusedError, match="damaged"):
        settled_chunk(tmp_path, SHAPE, lengths, free_bytes=PLENTY, precision="float32")


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_the_matrices_of_a_layer_are_those_that_its_family_has(family):
    sizes = {"width": 32, "layers": 2, "heads": 4, "key_heads": 4, "head_width": 8, "mlp_width": 48}
    shape = ModelConfig(**sizes, vocabulary_size=100, family=family)
    network = Network(shape)
    own = [tuple(p.shape) for name, p in network.named_parameters() if ".layers.0." in name and p.ndim == 2]
    assert sorted(block_matrices(shape)) == sorted(own)
    assert static_bytes(shape) == 4 * (4 * shape.num_parameters() - 2 * sum(rows * columns for rows, columns in own))
