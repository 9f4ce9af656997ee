"""Another model takes the place of one that is serving: by a watched file, and without a request that is dropped."""

import contextlib
import threading
import weakref

from echo_server import CHAT, DEADLINE_S, PATIENT, EchoEngine, Running, body, until

from chatwright.feedback.store import FeedbackStore
from chatwright.foundation.errors import RefusedError
from chatwright.foundation.storage import publish_file
from chatwright.serve.api import create_app
from chatwright.serve.server import ChatServer, open_port, page_address, serve
from chatwright.serve.settings import ServeSettings
from chatwright.serve.shelf import Shelf


class NewEngine(EchoEngine):
    """The same name, other weights."""

    digest = "f" * 64


@contextlib.contextmanager
def watching(tmp_path, opened):
    """A server of a run whose note of what is in service is `watched`; `opened` opens what it names."""
    engine, store = EchoEngine(), FeedbackStore(tmp_path / "feedback.sqlite")
    listening = open_port("127.0.0.1", 0)
    app = create_app(engine, store, ServeSettings(sampling=PATIENT))
    server = ChatServer(app, grace_s=5.0, reload=opened, watched=tmp_path / "service.json")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Running(page_address(listening).rstrip("/"), engine, store, server)
    finally:
        engine.gate.set()
        server.should_exit = True
        thread.join(DEADLINE_S)
        listening.close()
        store.close()
        assert not thread.is_alive()


def write(path, text):
    with publish_file(path) as scratch:
        scratch.write_text(text)


def fingerprint(client):
    return client.post(CHAT, json=body("Hello")).json()["system_fingerprint"]


def test_a_file_that_is_replaced_changes_the_model_and_who_is_being_answered_is_answered_by_the_old_one(tmp_path):
    with watching(tmp_path, lambda: [NewEngine()]) as server, server.client() as client, server.client() as other:
        assert fingerprint(client) == "fp_0123456789ab"
        answers = []
        slow = threading.Thread(target=lambda: answers.append(other.post(CHAT, json=body("wait for it"))))
        slow.start()
        server.engine.begun.acquire(timeout=DEADLINE_S)
        server.engine.begun.acquire(timeout=DEADLINE_S)
        write(tmp_path / "service.json", "{}")
        until(lambda: server.server._app.shelf.first.model.digest == NewEngine.digest)
        assert fingerprint(client) == "fp_ffffffffffff"
        assert not answers
        server.engine.gate.set()
        slow.join(DEADLINE_S)
    assert answers[0].status_code == 200
    assert answers[0].json()["system_fingerprint"] == "fp_0123456789ab"


def test_a_model_that_cannot_be_opened_leaves_the_old_one_and_the_next_change_counts(tmp_path):
    opened = []

    def reload():
        opened.append(1)
        if len(opened) == 1:
            raise RefusedError("the model is damaged")
        return [NewEngine()]

    with watching(tmp_path, reload) as server, server.client() as client:
        write(tmp_path / "service.json", "1")
        until(lambda: opened)
        assert fingerprint(client) == "fp_0123456789ab"
        write(tmp_path / "service.json", "22")
        until(lambda: fingerprint(client) == "fp_ffffffffffff")


def test_a_worker_for_which_a_job_is_being_made_outlives_its_replacement():
    shelf = Shelf([EchoEngine()], store=None, max_waiting=4)
    shelf.start()
    old = shelf.first
    with old.held():
        shelf.replace(NewEngine())
        threading.Event().wait(0.4)  # twice what it takes to be seen idle
        old.worker.require_room()
    until(lambda: not shelf._retired)
    shelf.stop()


def test_a_model_that_was_replaced_is_let_go(monkeypatch):
    """Its weights are most of a server's memory, and the server may run for months."""
    servers, engines = [], []

    class Told(ChatServer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            servers.append(self)

    def opened():
        engine = EchoEngine()
        engines.append(weakref.ref(engine))
        return [engine]

    def run():
        serve(opened(), ServeSettings(), store_url=None, port=0, announce=str, reload=lambda: [NewEngine()])

    monkeypatch.setattr("chatwright.serve.server.ChatServer", Told)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        until(lambda: servers and servers[0].started)
        assert engines[0]() is not None
        servers[0].reload_models()
        until(lambda: engines[0]() is None)
    finally:
        servers[0].should_exit = True
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
