"""A model to evaluate, in memory and as a directory."""

import pytest

from chatwright.model.chat import ChatModel
from chatwright.model.directory import LoadedModel, save_model


@pytest.fixture(scope="session")
def tiny_model(tiny_network, tiny_tokenizer):
    return ChatModel(LoadedModel(tiny_network, tiny_tokenizer, {}, "digest"), name="tiny")


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory, tiny_network, tiny_tokenizer):
    """The same as a model directory; it must only be read."""
    directory = tmp_path_factory.mktemp("evaluated") / "model"
    save_model(directory, tiny_network, tiny_tokenizer, lineage={})
    return directory
