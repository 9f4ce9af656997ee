"""One real server for a whole file of tests."""

import pytest
from echo_server import running

from chatwright.model.generation import Sampling
from chatwright.serve.settings import PageText, ServeSettings


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    settings = ServeSettings(sampling=Sampling(max_tokens=50), page=PageText(title="Echo", starters=("How are you?",)))
    with running(tmp_path_factory.mktemp("served"), settings) as server:
        yield server


@pytest.fixture(scope="module")
def client(served):
    with served.client() as opened:
        yield opened
