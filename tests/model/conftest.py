"""Model directories made on the spot, ours and foreign ones."""

import pytest

from chatwright.model.directory import LINEAGE, save_model


@pytest.fixture(scope="session")
def saved_once(tmp_path_factory, make_network, tiny_tokenizer):
    """Saves a network of given fields once for all tests; the directory must only be read."""
    made = {}

    def save(**fields):
        key = repr(sorted(fields.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("saved") / "model"
            save_model(made[key], make_network(**fields), tiny_tokenizer, lineage={"stage": "pretrain"})
        return made[key]

    return save


@pytest.fixture
def ours(tmp_path, tiny_network, tiny_tokenizer):
    """A model directory of ours, to be damaged."""
    save_model(tmp_path / "model", tiny_network, tiny_tokenizer, lineage={"stage": "pretrain"})
    return tmp_path / "model"


@pytest.fixture
def foreign(ours):
    """The same without `chatwright.json`, as other programs write them."""
    (ours / LINEAGE).unlink()
    return ours
