"""What a person deletes, or stops before its first word, leaves no answer behind, whenever its writing ends."""

import threading

import pytest
from echo_server import EchoEngine, running, until
from test_conversations_api import HERE, begin, say

from chatwright.feedback.history import History
from chatwright.serve.worker import EngineWorker


class HeldEngine(EchoEngine):
    """Says nothing to `hold` before the gate opens."""

    def _words(self, text):
        while text == "hold" and not self.gate.wait(0.005):
            yield None
        yield from super()._words(text)


@pytest.mark.parametrize("first", ["the record", "the turn"])
def test_an_answer_stopped_before_its_first_word_is_not_kept_whoever_hears_of_it_first(tmp_path, monkeypatch, first):
    keep, take_back = EngineWorker._keep, History.take_back
    is_kept, is_back = threading.Event(), threading.Event()

    def kept(*told):
        assert first == "the record" or is_back.wait(20)
        keep(*told)
        is_kept.set()

    def taken_back(*told, **leaf):
        assert first == "the turn" or is_kept.wait(20)
        take_back(*told, **leaf)
        is_back.set()

    monkeypatch.setattr(EngineWorker, "_keep", kept)
    monkeypatch.setattr(History, "take_back", taken_back)
    with running(tmp_path, engine=HeldEngine()) as server, server.client() as client:
        conversation = begin(client)
        question = say(client, conversation, "hold")
        with client.stream("POST", f"{HERE}/{conversation}/answers", json={"parent": question}):
            assert server.engine.begun.acquire(timeout=20)
        until(lambda: is_kept.is_set() and is_back.is_set())
        assert server.engine.ended == ["cancelled"]
        assert len(client.get(f"{HERE}/{conversation}").json()["turns"]) == 1
        assert client.delete(f"{HERE}/{conversation}").status_code == 200
        assert list(server.store.export()) == []


@pytest.mark.parametrize("path", [None, "/v1/me"], ids=["the conversation", "everything of mine"])
def test_what_is_deleted_while_its_answer_is_written_stays_deleted_after_its_end(tmp_path, path):
    with running(tmp_path) as server, server.client() as client:
        conversation = begin(client)
        question = say(client, conversation, "wait")
        with client.stream("POST", f"{HERE}/{conversation}/answers", json={"parent": question}) as response:
            assert server.engine.begun.acquire(timeout=20)
            with server.client() as other:
                assert other.delete(path or f"{HERE}/{conversation}").status_code == 200
            server.engine.gate.set()
            response.read()
        assert server.engine.ended == ["stop"]
        assert list(server.store.export()) == []
