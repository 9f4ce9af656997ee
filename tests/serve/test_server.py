"""Ports, addresses and the end of a server, as a person who starts it meets them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from echo_server import CHAT, EchoEngine, body, until

from chatwright.foundation.errors import UsageError
from chatwright.serve.server import open_port, page_address, serve
from chatwright.serve.settings import ServeSettings


def test_a_taken_port_is_told_with_the_way_out():
    with (
        open_port("127.0.0.1", 0) as first,
        pytest.raises(UsageError, match="is taken") as refused,
    ):
        open_port("127.0.0.1", first.getsockname()[1])
    assert "--port 0" in str(refused.value)


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [("192.0.2.1", 0, "not an address of this machine"), ("127.0.0.1", 70000, "65535"), ("no such host", 0, "address")],
)
def test_places_that_cannot_be_opened_are_told(host, port, words):
    with pytest.raises(UsageError, match=words):
        open_port(host, port)


def test_the_address_is_one_that_a_browser_takes():
    with open_port("127.0.0.1", 0) as listening:
        assert page_address(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}/"


def test_an_open_address_without_a_token_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match="no token"):
        serve(EchoEngine(), ServeSettings(), host="0.0.0.0", port=0, store_url=tmp_path / "f.sqlite")  # noqa: S104 - refused
    assert not list(tmp_path.iterdir())


PROGRAM = """
import sys
from echo_server import CHAT, EchoEngine, body, until
from chatwright.serve.server import serve
from chatwright.serve.settings import settings_for
class New(EchoEngine):
    digest = "9" * 64
serve(
    EchoEngine(),
    settings_for("127.0.0.1"),
    port=0,
    store_url=sys.argv[1],
    announce=lambda text: print(text, flush=True),
    reload=lambda: [New()],
)
print("ended well", flush=True)
"""


@contextlib.contextmanager
def started(place):
    """The program in a process of its own, and the address that it says."""
    here = Path(__file__)
    paths = os.pathsep.join([str(here.parent), str(here.parents[2] / "src")])
    command = [sys.executable, "-c", PROGRAM, str(place / "f.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}) as child:
        try:
            announced = child.stdout.readline()
            yield child, next(word for word in announced.split() if word.startswith("http://"))
        finally:
            child.kill()  # it has ended already, unless the test failed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_gracefully(tmp_path, number):
    with started(tmp_path) as (child, url):
        with httpx.Client(trust_env=False, timeout=20) as client:
            assert client.get(f"{url}health").json() == {"status": "ok"}
        child.send_signal(number)
        assert child.stdout.read() == "ended well\n"
        assert child.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])), timeout=5)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
def test_a_hangup_changes_the_model_without_an_end_of_the_service(tmp_path):
    with started(tmp_path) as (child, url), httpx.Client(base_url=url, trust_env=False, timeout=20) as client:

        def fingerprint():
            return client.post(CHAT, json=body(max_tokens=2)).json()["system_fingerprint"]

        assert fingerprint() == "fp_0123456789ab"
        child.send_signal(signal.SIGHUP)
        until(lambda: fingerprint() == "fp_999999999999")
        child.send_signal(signal.SIGTERM)
        assert child.stdout.read() == "ended well\n"
        assert child.wait(20) == 0
