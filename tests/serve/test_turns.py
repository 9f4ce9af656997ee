"""However many connections have something to say, a round of the event loop stays short, and all are heard in the end."""

import contextlib
import socket
import threading

import pytest
import uvicorn

from chatwright.serve.connections import HEARD_A_ROUND
from chatwright.serve.server import bounded_config, open_port

TALKERS, REQUESTS = 40, 30


class Watched:
    """Answers everything; when the first request is heard, a new connection asks whether all is well."""

    def __init__(self, port):
        self.port = port
        self.heard = []
        self.new = None

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.heard.append(scope["path"])
        if self.new is None:
            self.new = socket.create_connection(("127.0.0.1", self.port))
            self.new.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def listening():
    with open_port("127.0.0.1", 0) as listening:
        yield listening


@contextlib.contextmanager
def served(app, listening):
    server = uvicorn.Server(bounded_config(app, cancel_after_s=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def answers(connection, wanted):
    seen = b""
    while seen.count(b"HTTP/1.1 200") < wanted or not seen.endswith(b"ok"):
        seen += connection.recv(65536)
    return seen.count(b"HTTP/1.1 200")


def test_a_new_connection_that_asks_for_health_is_heard_before_those_that_talk_on(listening):
    port = listening.getsockname()[1]
    talkers = [socket.create_connection(("127.0.0.1", port)) for _ in range(TALKERS)]
    for talker in talkers:
        talker.sendall(b"GET /talk HTTP/1.1\r\nHost: a\r\n\r\n" * REQUESTS)
    app = Watched(port)
    with served(app, listening):
        assert [answers(talker, REQUESTS) for talker in talkers] == [REQUESTS] * TALKERS
        assert answers(app.new, 1) == 1
        for connection in (*talkers, app.new):
            connection.close()
    assert app.heard.count("/talk") == TALKERS * REQUESTS
    assert app.heard.index("/health") < 8 * HEARD_A_ROUND < TALKERS


def test_a_body_of_many_pieces_arrives_whole_while_others_talk(listening):
    port = listening.getsockname()[1]
    took = []

    class Reads(Watched):
        async def __call__(self, scope, receive, send):
            if scope["type"] == "http" and scope["method"] == "POST":
                body, more = b"", True
                while more:
                    message = await receive()
                    body, more = body + message["body"], message["more_body"]
                took.append(body)
            await super().__call__(scope, receive, send)

    app = Reads(port)
    body = bytes(range(256)) * 4096  # a megabyte
    with served(app, listening), socket.create_connection(("127.0.0.1", port)) as sender:
        talkers = [socket.create_connection(("127.0.0.1", port)) for _ in range(TALKERS)]
        for talker in talkers:
            talker.sendall(b"GET /talk HTTP/1.1\r\nHost: a\r\n\r\n" * REQUESTS)
        sender.sendall(b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert answers(sender, 1) == 1
        assert [answers(talker, REQUESTS) for talker in talkers] == [REQUESTS] * TALKERS
        for connection in (*talkers, app.new):
            connection.close()
    assert took == [body]
