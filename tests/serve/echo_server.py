"""A small engine that does as it is told, and a real server around it on a free loopback port."""

import contextlib
import json
import threading
from dataclasses import dataclass

import httpx

from chatwright.feedback.store import FeedbackStore
from chatwright.foundation.errors import UsageError
from chatwright.model.generation import Piece, Sampling
from chatwright.serve.api import create_app
from chatwright.serve.server import ChatServer, open_port, page_address
from chatwright.serve.settings import ServeSettings

DEADLINE_S = 20
CHAT = "/v1/chat/completions"
PATIENT = Sampling(max_tokens=1_000_000)  # an answer without end must not end before a slow machine stops it


class EchoEngine:
    """Repeats the last message word by word; a few words make it wait, break or never end."""

    name = "echo-1"
    digest = "0123456789abcdef" * 4
    context_length = 200

    def __init__(self):
        self.gate = threading.Event()  # `wait` answers stand before it
        self.begun = threading.Semaphore(0)  # released once for each answer that began
        self.ended = []  # how each answer ended

    def count(self, messages):
        return sum(3 + len(message.content.split()) for message in messages)

    def stream(self, messages, sampling, *, cancelled):
        if self.count(messages) >= self.context_length:
            raise UsageError("the prompt is longer than the context")
        self.begun.release()
        for number, word in enumerate(self._words(messages[-1].content, cancelled), start=1):
            finish = "cancelled" if cancelled() else "length" if number == sampling.max_tokens else None
            if finish:
                self.ended.append(finish)
            yield Piece(word, finish, self.count(messages), number)
            if finish:
                return
        self.ended.append("stop")
        yield Piece("", "stop", self.count(messages), number)

    def _words(self, text, cancelled):
        if text.startswith("break"):
            yield "Some "
            raise RuntimeError("a secret /path/of/ours")
        if text.startswith("wait"):
            yield "Waiting "
            while not self.gate.wait(0.005) and not cancelled():
                pass
        if text.startswith("forever"):
            number = 0
            while not cancelled():
                number += 1
                yield f"word{number} "
                self.gate.wait(0.005)
            yield "unheard"
            return
        words = f"You said: {text}".split(" ")
        yield from (word + " " for word in words[:-1])
        yield words[-1]


@dataclass
class Running:
    """A server that answers, with its engine and its store."""

    url: str
    engine: EchoEngine
    store: FeedbackStore
    server: object

    def client(self, **options):
        return httpx.Client(base_url=self.url, timeout=DEADLINE_S, trust_env=False, **options)


@contextlib.contextmanager
def running(tmp_path, settings=None, *, engine=None, port=0, grace_s=5.0):
    """A real server in a thread, ended when the block is left."""
    engine = engine or EchoEngine()
    store = FeedbackStore(tmp_path / "feedback.sqlite")
    listening = open_port("127.0.0.1", port)
    server = ChatServer(create_app(engine, store, settings or ServeSettings(sampling=PATIENT)), grace_s=grace_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Running(page_address(listening).rstrip("/"), engine, store, server)
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        listening.close()
        store.close()
        assert not thread.is_alive(), "the server did not end"


def until(condition):
    """Wait, with a deadline, for what another thread is about to do."""
    waiter = threading.Event()
    for _ in range(DEADLINE_S * 200):
        if condition():
            return
        waiter.wait(0.005)
    raise AssertionError("it did not come about in time")


def body(text="Hello there", **fields):
    return {"model": "echo-1", "messages": [{"role": "user", "content": text}], **fields}


def events_of(response):
    """The data of each event; fails on any line that is not of the framing."""
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def chunks_of(response):
    *chunks, end = events_of(response)
    assert end == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error
