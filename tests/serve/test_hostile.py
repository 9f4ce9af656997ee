"""Hundreds of hostile connections: the server's memory stays, `/health` answers, and then all is as before.

`CHATWRIGHT_HOSTILE_S=60` attacks for a minute instead of a few seconds; `CHATWRIGHT_GROWTH_MB=50` and
`CHATWRIGHT_HEALTH_MS=100` are the aims, for a machine that nobody else uses.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from chatwright.model.directory import save_model

ATTACK_S = float(os.environ.get("CHATWRIGHT_HOSTILE_S", "6"))
HEALTH_MS = float(os.environ.get("CHATWRIGHT_HEALTH_MS", "10000"))
CONNECTIONS = 500
GROWTH_MB = float(os.environ.get("CHATWRIGHT_GROWTH_MB", "120"))
HERE = Path(__file__)


def memory_mb(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


@pytest.fixture
def attacked(tmp_path, make_network, tiny_tokenizer):
    """A server of a real, tiny model in a process of its own: the process and its address."""
    network = make_network(context_length=256)
    save_model(tmp_path / "tiny", network, tiny_tokenizer, lineage={})
    command = [sys.executable, "-m", "chatwright", "serve", str(tmp_path / "tiny"), "--port", "0"]
    command += ["--store", f"sqlite:///{tmp_path}/kept.sqlite"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            address = next(word for line in child.stderr for word in line.split() if word.startswith("http://"))
            yield child, address.rstrip("/")
        finally:
            child.terminate()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of another process is read from /proc")
def test_hostile_connections_cost_little_memory_and_leave_the_server_well(attacked):
    process, address = attacked
    host, port = address.removeprefix("http://").split(":")
    with httpx.Client(base_url=address, timeout=20, trust_env=False) as client:
        with ThreadPoolExecutor(40) as pool:  # what a full house makes it hold: threads, connections of the store
            assert set(pool.map(lambda _: ask(client), range(120))) <= {200, 429}
        before = memory_mb(process)
        command = [sys.executable, str(HERE.with_name("hostile.py")), host, port, str(ATTACK_S), str(CONNECTIONS)]
        with subprocess.Popen([*command, "tiny"], stdout=subprocess.PIPE, text=True) as attack:
            waits, most = [], before
            while attack.poll() is None:
                waits.append(health_ms(host, int(port)))
                most = max(most, memory_mb(process))
                time.sleep(0.2)
            seen = {int(status): count for status, count in json.loads(attack.stdout.read()).items()}
        time.sleep(5)
        began = time.monotonic()
        status, after_s = ask(client), time.monotonic() - began
        load = client.get("/metrics").text
    print(
        f"{seen}; memory {before:.0f} to {most:.0f} MB; health {statistics.median(waits):.0f} ms, at most {max(waits):.0f}"
    )
    assert process.poll() is None
    assert not [code for code in seen if code >= 500]
    assert {200, 400} <= seen.keys()
    assert most - before < GROWTH_MB
    assert max(waits) < HEALTH_MS
    assert status == 200
    assert after_s < 5
    assert 'chatwright_running_answers{model="tiny"} 0' in load


def ask(client):
    messages = [{"role": "user", "content": "When does the ferry leave?"}]
    return client.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": messages, "max_tokens": 8}
    ).status_code


def health_ms(host, port):
    """Milliseconds until a connection of its own is told that all is well."""
    began = time.perf_counter()
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 200")
    return 1000 * (time.perf_counter() - began)
