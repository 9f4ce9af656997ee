"""Ten thousand requests at once and odd ones of every kind: all are answered in our shape, and nobody waits for the flood."""

import asyncio
import collections
import json
import time

import pytest
from echo_server import CHAT, body, error_of, running

from chatwright.serve.settings import ServeSettings

CONNECTIONS = 250
EACH = 40


def request(host, port, content, *, method="POST", path=CHAT, **headers):
    named = {"Host": f"{host}:{port}", "Content-Type": "application/json", "Content-Length": len(content), **headers}
    head = "".join(
        [f"{method} {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in named.items()), "\r\n"]
    )
    return head.encode() + content


async def ask_again_and_again(host, port, seen):
    reader, writer = await asyncio.open_connection(host, port)
    asked = request(host, port, json.dumps(body("hello", max_tokens=2)).encode())
    for _ in range(EACH):
        writer.write(asked)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0])
        await reader.readexactly(length)
        seen[int(head.split()[1])] += 1
        if " 429 " in head.splitlines()[0]:
            assert "retry-after: " in head
    writer.close()


async def flood(host, port):
    seen = collections.Counter()
    await asyncio.gather(*(ask_again_and_again(host, port, seen) for _ in range(CONNECTIONS)))
    return seen


@pytest.mark.slow
def test_ten_thousand_requests_are_answered_or_told_to_come_again(tmp_path):
    with running(tmp_path, ServeSettings(max_waiting=8)) as server, server.client() as client:
        host, port = server.url.removeprefix("http://").split(":")
        seen = asyncio.run(flood(host, int(port)))
        assert client.post(CHAT, json=body("and then?")).status_code == 200
    assert set(seen) <= {200, 429}
    assert seen[200] > 0
    assert sum(seen.values()) == CONNECTIONS * EACH


@pytest.mark.parametrize(
    "ranges", ["bytes=0-1", "bytes=" + ",".join(f"{n}-{n + 1}" for n in range(900)), "lines=1-", "bytes=9-1"]
)
def test_ranges_are_not_heard_and_cost_nothing(client, ranges):
    whole = client.get("/static/app.js")
    began = time.process_time()
    response = client.get("/static/app.js", headers={"Range": ranges})
    assert (response.status_code, response.content) == (200, whole.content)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("fields", [{"top_k": 1_000_000}, {"top_k": 0}])
def test_more_tokens_than_the_vocabulary_has_are_no_limit(client, fields):
    assert client.post(CHAT, json=body(**fields)).status_code == 200


def test_a_limit_of_tokens_beyond_its_bound_is_refused_with_the_bound(client):
    response = client.post(CHAT, json=body(top_k=10_000_001))
    assert response.status_code == 400
    assert "10000000" in error_of(response)["message"]
