"""A small engine that does as it is told, and a real server around it on a free loopback port."""

import contextlib
import itertools
import json
import re
import threading
from dataclasses import dataclass

import httpx

from chatwright.feedback.store import FeedbackStore
from chatwright.foundation.errors import UsageError
from chatwright.model.generation import EngineLoad, GenerationRequest, Likely, Piece, Sampling, ScoredToken
from chatwright.serve.api import create_app
from chatwright.serve.server import ChatServer, open_port, page_address
from chatwright.serve.settings import ServeSettings

DEADLINE_S = 20
CHAT = "/v1/chat/completions"
PATIENT = Sampling(max_tokens=1_000_000)  # an answer without end must not end before a slow machine stops it


class EchoEngine:
    """Repeats the last message word by word; a few words make it wait, break or never end. One answer at a time unless told otherwise."""

    name = "echo-1"
    digest = "0123456789abcdef" * 4
    context_length = 200

    def __init__(self):
        self.gate = threading.Event()  # `wait` answers stand before it
        self.begun = threading.Semaphore(0)  # released once for each answer that began
        self.ended = []  # how each answer ended
        self.width = 1  # answers at once
        self.prepared_by = None  # the thread that did
        self.written = 0  # words so far
        self._running = {}
        self._cancelled = set()
        self._texts = []  # an id of a prompt is a place in here
        self._numbers = itertools.count(1)

    def count(self, messages):
        return sum(3 + len(message.content.split()) for message in messages)

    def _request(self, text, length, sampling, **fields):
        self._texts.append(text)
        prompt = (len(self._texts) - 1,) * max(1, length)
        return GenerationRequest(prompt=prompt, sampling=sampling, **fields)

    def chat_request(self, messages, sampling, *, num_answers=1):
        return self._request(messages[-1].content, self.count(messages), sampling, num_answers=num_answers)

    def text_request(self, prompt, sampling, *, num_answers=1, echo=False):
        text = prompt if isinstance(prompt, str) else " ".join(f"id{number}" for number in prompt)
        length = len(text.split())
        return self._request(text, length, sampling, num_answers=num_answers, echo=echo)

    def prepare(self):
        self.prepared_by = threading.current_thread().name

    @property
    def free_answers(self):
        return max(0, self.width - len(self._running))

    def submit(self, request):
        if len(request.prompt) >= self.context_length:
            raise UsageError("the prompt is longer than the context")
        number = next(self._numbers)
        pieces = [self._pieces(request, answer, number) for answer in range(request.num_answers)]
        self._running[number] = pieces
        self.begun.release()
        return number

    def cancel(self, number):
        self._cancelled.add(number)

    def step(self):
        found = []
        for number, answers in list(self._running.items()):
            for answer in list(answers):
                piece = next(answer)
                if piece is not None:
                    found.append((number, piece))
                    if piece.finish is not None:
                        self.ended.append(piece.finish)
                        answers.remove(answer)
            if not answers:
                del self._running[number]
        return found

    def reset(self):
        self._running.clear()

    def load(self):
        return EngineLoad(len(self._running), 0, len(self._running), 2, 30, 10, self.written)

    def _pieces(self, request, answer, number):
        text, asked = self._texts[request.prompt[0]], request.sampling
        count, length, said = 0, len(request.prompt), ""
        for place, told in enumerate(self._echoed(text) if request.echo else []):
            is_first = text.startswith("id") and place == 0
            yield Piece(
                told,
                "length" if not asked.max_tokens and place == length - 1 else None,
                length,
                0,
                answer,
                self._scored(told, asked, is_first=is_first),
            )
        for word in self._words(text):
            if number in self._cancelled:
                yield Piece("", "cancelled", length, count, answer)
                return
            if word is None:
                yield None
                continue
            count += 1
            self.written += 1
            said += word
            stop = next((stop for stop in asked.stop if stop in said), None)
            if stop is not None:
                yield Piece(word[: max(0, said.index(stop) - len(said) + len(word))], "stop", length, count, answer)
                return
            finish = "length" if count == asked.max_tokens else None
            yield Piece(word, finish, length, count, answer, self._scored(word, asked))
        yield Piece("", "stop", length, count, answer)

    def _echoed(self, text):
        """The prompt as it is told again: token ids one by one, a text whole."""
        return re.findall(r"id\d+ ?", text) if text.startswith("id") else [text]

    def _scored(self, word, sampling, *, is_first=False):
        if sampling.top_logprobs is None:
            return ()
        top = [Likely(place, word, word.encode(), -0.5 - place) for place in range(sampling.top_logprobs)]
        return (ScoredToken(Likely(0, word, word.encode(), -0.5), tuple(top), is_first),)

    def _words(self, text):
        if text.startswith("break"):
            yield "Some "
            raise RuntimeError("a secret /path/of/ours")
        if text.startswith("wait"):
            yield "Waiting "
            while not self.gate.wait(0.005):
                yield None
        if text.startswith("forever"):
            for number in itertools.count(1):
                yield f"word{number} "
                self.gate.wait(0.005)
        words = f"You said: {text}".split(" ")
        yield from (word + " " for word in words[:-1])
        yield words[-1]

    def stream(self, messages, sampling, *, cancelled):
        """One answer alone, for the terminal."""
        number = self.submit(self.chat_request(messages, sampling))
        while True:
            if cancelled():
                self.cancel(number)
            for _, piece in self.step():
                yield piece
                if piece.finish is not None:
                    return


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
def running(tmp_path, settings=None, *, engine=None, other=None, port=0, grace_s=5.0):
    """A real server in a thread, ended when the block is left; with `other` it offers a second model."""
    engine = engine or EchoEngine()
    engines = [engine, other] if other else engine
    store = FeedbackStore(tmp_path / "feedback.sqlite")
    listening = open_port("127.0.0.1", port)
    server = ChatServer(create_app(engines, store, settings or ServeSettings(sampling=PATIENT)), grace_s=grace_s)
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
