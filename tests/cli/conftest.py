"""The tiny recipe of the tests one layer below, and the command line as a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "recipe"))

from tiny_recipe import write_recipe  # noqa: E402 - it lies beside the tests of the recipe


class Called(subprocess.CompletedProcess):
    """A finished call: its exit code, what it gave and what it said."""

    def json(self):
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def call():
    """Calls `chatwright` with these arguments and waits for it."""

    def run(*arguments, cwd=None):
        command = [sys.executable, "-m", "chatwright", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=200)
        return Called(done.args, done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def finished(call, tmp_path_factory):
    """A run that the command line made: its recipe's path, its folder, and the call."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_recipe(folder / "made")
    done = call("run", path, "--set", f"runs={folder / 'runs'}", "--json")
    assert done.returncode == 0, done.stderr
    return path, folder / "runs" / "tiny", done
