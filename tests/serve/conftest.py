"""One real server, and one browser, for a whole file of tests."""

import pytest
from browsing import CHROMIUM, QUIET
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


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield opened
        opened.close()
