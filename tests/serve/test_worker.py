"""One engine for many: clients that leave, lines that are full, and a server that ends."""

import asyncio
import json
import socket
import threading

import pytest
from echo_server import CHAT, DEADLINE_S, EchoEngine, body, chunks_of, error_of, events_of, running, until

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import UsageError
from chatwright.model.chat import ChatModel
from chatwright.model.directory import LoadedModel
from chatwright.model.generation import Sampling
from chatwright.serve.metrics import Metrics
from chatwright.serve.settings import ServeSettings
from chatwright.serve.shelf import Shelf
from chatwright.serve.worker import EngineWorker, Job


@pytest.mark.slow
def test_a_streamed_answer_whose_client_is_gone_is_cancelled_and_kept(tmp_path):
    with running(tmp_path) as server:
        with (
            server.client() as client,
            client.stream("POST", CHAT, json=body("forever", stream=True)) as response,
        ):
            lines = response.iter_lines()  # held: collected, it would close the connection
            assert next(lines).startswith("data: ")
            assert server.engine.begun.acquire(timeout=20)
        until(lambda: server.engine.ended)
        until(lambda: list(server.store.export()))
        (entry,) = server.store.export()
        assert entry["finish"] == "cancelled"
        assert entry["answer"].startswith("word1 ")


@pytest.mark.slow
def test_a_whole_answer_whose_client_is_gone_is_cancelled(tmp_path):
    with running(tmp_path) as server:
        content = json.dumps(body("forever")).encode()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            assert server.engine.begun.acquire(timeout=20)
        until(lambda: server.engine.ended)
        assert server.engine.ended == ["cancelled"]


@pytest.mark.slow
def test_an_answer_whose_client_leaves_the_line_is_let_go_at_once_and_never_begun(tmp_path):
    with running(tmp_path) as server, server.client() as client:
        with client.stream("POST", CHAT, json=body("wait", stream=True)) as first:
            assert server.engine.begun.acquire(timeout=20)
            with server.client() as other, other.stream("POST", CHAT, json=body("second", stream=True)) as waiting:
                lines = waiting.iter_lines()  # held: collected, it would close the connection
                assert next(lines).startswith("data: ")
                assert len(server.server.server_state.tasks) == 2
            until(lambda: len(server.server.server_state.tasks) == 1)  # while the first is still being written
            server.engine.gate.set()
            first.read()
        assert client.post(CHAT, json=body("third")).status_code == 200
        kept = [entry["messages"][0]["content"] for entry in server.store.export()]
        assert kept == ["wait", "third"]


@pytest.mark.slow
def test_a_full_line_is_429_with_a_time_to_come_back(tmp_path):
    with running(tmp_path, ServeSettings(max_waiting=1)) as server, server.client() as client:
        with client.stream("POST", CHAT, json=body("wait", stream=True)):
            assert server.engine.begun.acquire(timeout=20)
            with client.stream("POST", CHAT, json=body("second", stream=True)) as second:
                refused = client.post(CHAT, json=body("third"))
                assert refused.status_code == 429
                assert 1 <= int(refused.headers["Retry-After"]) <= 60
                assert error_of(refused)["code"] == "rate_limit_exceeded"
                assert client.get("/health").status_code == 200
                server.engine.gate.set()
                second.read()
                assert chunks_of(second)[-1]["choices"][0]["finish_reason"] == "stop"
        assert client.post(CHAT, json=body("fourth")).status_code == 200


@pytest.mark.slow
def test_a_server_asked_to_stop_lets_an_answer_end(tmp_path):
    with running(tmp_path) as server, server.client() as client:
        with client.stream("POST", CHAT, json=body("wait", stream=True)) as response:
            assert server.engine.begun.acquire(timeout=20)
            server.server.should_exit = True
            until(lambda: not server.server.servers[0].is_serving())
            server.engine.gate.set()
            response.read()
        assert chunks_of(response)[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.slow
def test_a_server_asked_to_stop_cuts_what_runs_too_long_and_says_so(tmp_path):
    with running(tmp_path, grace_s=0.2) as server, server.client() as client:
        with client.stream("POST", CHAT, json=body("forever", stream=True)) as response:
            assert server.engine.begun.acquire(timeout=20)
            server.server.should_exit = True
            response.read()
        events = events_of(response)
        assert json.loads(events[-1])["error"]["code"] == "stopping"
        assert server.engine.ended == ["cancelled"]
        assert next(server.store.export())["finish"] == "cancelled"


def test_an_error_of_our_own_is_a_500_in_the_same_shape_behind_the_guard(tmp_path):
    with running(tmp_path) as server, server.client() as client:
        server.engine.chat_request = lambda messages, sampling: 1 / 0
        response = client.post(CHAT, json=body())
        assert response.status_code == 500
        assert error_of(response)["code"] == "internal_error"
        assert "default-src" in response.headers["content-security-policy"]
        assert "division" not in response.text


def job_for(engine, loop, text="Hello"):
    return Job(answer_id=text, request=engine.chat_request([Message("user", text)], Sampling()), loop=loop)


@pytest.fixture
def loop():
    """Of clients that wait: jobs tell their pieces to it."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_the_engine_is_made_by_the_thread_that_calls_it_before_anything_is_asked(tmp_path):
    with running(tmp_path) as server:
        until(lambda: server.engine.prepared_by)
    assert server.engine.prepared_by == "engine"


def test_an_engine_that_cannot_be_made_yet_is_told_and_those_who_ask_are_told_too(loop, capsys):
    class Poor(EchoEngine):
        def prepare(self):
            raise MemoryError("no memory")

    worker = EngineWorker(Poor(), store=None, max_waiting=4)
    worker.start()
    job = job_for(worker._engine, loop)
    worker.submit(job)
    assert worker._engine.begun.acquire(timeout=DEADLINE_S)
    worker.stop()
    assert "warning: `echo-1` cannot answer yet: no memory" in capsys.readouterr().err


def test_metrics_of_a_server_that_just_began_make_no_engine(make_network, tiny_tokenizer):
    """They are told on the event loop, which everybody waits for."""
    model = ChatModel(LoadedModel(make_network(), tiny_tokenizer, {}, "digest"), name="tiny")
    told = Metrics().text(Shelf([model], store=None, max_waiting=4))
    assert 'chatwright_cache_blocks{model="tiny"} 0' in told
    assert model._engine is None


def test_a_job_that_the_engine_is_taking_up_counts_as_running_so_that_a_change_does_not_drop_it(loop):
    class Slow(EchoEngine):
        def __init__(self):
            super().__init__()
            self.entered, self.go = threading.Event(), threading.Event()

        def submit(self, request):
            self.entered.set()
            assert self.go.wait(DEADLINE_S)
            if len(request.prompt) > 4:
                raise UsageError("too long")
            return super().submit(request)

    engine = Slow()
    worker = EngineWorker(engine, store=None, max_waiting=4)
    worker.start()
    refused, taken = job_for(engine, loop, "one two three"), job_for(engine, loop, "wait")
    for job, running_then in ((refused, 0), (taken, 1)):
        worker.submit(job)
        assert engine.entered.wait(DEADLINE_S)
        assert (worker.num_waiting, worker.num_running) == (0, 1)
        engine.entered.clear()
        engine.go.set()
        until(lambda: worker.num_running == running_then)  # noqa: B023 - called at once
        engine.go.clear()
    worker.stop()
