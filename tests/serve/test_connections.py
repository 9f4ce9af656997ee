"""Connections that say nothing, or no HTTP, are ended in time and in our shape."""

import json
import socket

import pytest
from echo_server import running

from chatwright.serve import connections


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    with running(tmp_path) as server:
        server.server.config.timeout_keep_alive = 1  # else a test waits ten seconds
        host, port = server.url.removeprefix("http://").split(":")
        yield host, int(port)


def opened(address):
    return socket.create_connection(address, timeout=20)


def all_of(connection):
    return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_connection_without_whole_headers_is_closed(address, monkeypatch, begun):
    monkeypatch.setattr(connections, "HEADERS_S", 0.2)
    with opened(address) as connection:
        connection.sendall(begun)
        assert all_of(connection) == b""


@pytest.mark.parametrize("waits", [False, True])
def test_the_next_request_of_a_connection_has_a_deadline_too(address, monkeypatch, waits):
    monkeypatch.setattr(connections, "HEADERS_S", 0.2)
    whole, begun = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET /hea"
    with opened(address) as connection:
        connection.sendall(whole if waits else whole + begun)
        told = connection.recv(4096)
        if waits:
            connection.sendall(begun)
        assert (told + all_of(connection)).startswith(b"HTTP/1.1 200")


def test_an_answer_that_takes_longer_than_headers_may_is_not_cut(address, monkeypatch):
    monkeypatch.setattr(connections, "HEADERS_S", 1.0)
    most = 400  # words, of which each takes five milliseconds
    body = json.dumps({"model": "echo-1", "messages": [{"role": "user", "content": "forever"}], "max_tokens": most})
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with opened(address) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        assert f'"completion_tokens":{most}'.encode() in all_of(connection)


def test_what_is_no_http_is_refused_in_the_one_shape_of_errors(address):
    with opened(address) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
        head, _, body = all_of(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_a_connection_too_many_is_told_to_come_again(address):
    held = [opened(address) for _ in range(3)]
    with opened(address) as connection:
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"Retry-After" in answer
    for connection in held:
        connection.close()
