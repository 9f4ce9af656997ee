"""Conversations through the API: kept, streamed into, apart from each other's, and whole after a break."""

import json
import time
import uuid

import httpx
import pytest
from echo_server import PATIENT, EchoEngine, error_of, running, until

from chatwright.serve.settings import ServeSettings
from chatwright.serve.worker import EngineWorker

HERE = "/v1/conversations"
TOKENS = {"": "owner-token-of-the-test", "ann": "ann-token-of-the-test", "ben": "ben-token-of-the-test"}


class OtherEngine(EchoEngine):
    name = "echo-2"
    digest = "f" * 64


def new_id():
    return uuid.uuid4().hex


def begin(client, **fields):
    response = client.post(HERE, json={"id": new_id(), **fields})
    assert response.status_code == 200, response.text
    return response.json()["id"]


def say(client, conversation, text, parent=None):
    turn = {"id": new_id(), "parent": parent, "content": text}
    assert client.post(f"{HERE}/{conversation}/turns", json=turn).status_code == 200
    return turn["id"]


def answered(client, conversation, parent, **fields):
    response = client.post(f"{HERE}/{conversation}/answers", json={"parent": parent, **fields})
    assert response.status_code == 200, response.text
    blocks = [block.removeprefix("data: ") for block in response.text.split("\n\n") if block.startswith("data: ")]
    return [json.loads(block) for block in blocks if block != "[DONE]"]


def test_a_question_is_kept_before_and_its_answer_after(client):
    conversation = begin(client, system="Be kind.", settings={"max_tokens": 3})
    question = say(client, conversation, "Hello there")
    first, *chunks = answered(client, conversation, question)
    whole = client.get(f"{HERE}/{conversation}").json()
    turn = whole["turns"][1]
    assert first["turns"][0]["id"] == turn["id"]
    assert turn["content"] == "You said: Hello "
    assert (turn["finish"], turn["model"], turn["parent"]) == ("length", "echo-1", question)
    assert whole["leaf"] == turn["id"]
    assert whole["title"] == "Hello there"
    assert chunks[-1]["usage"]["completion_tokens"] == 3


def test_a_turn_sent_twice_is_kept_once(client):
    conversation = begin(client)
    turn = {"id": new_id(), "content": "Hello"}
    for _ in range(2):
        assert client.post(f"{HERE}/{conversation}/turns", json=turn).status_code == 200
    assert len(client.get(f"{HERE}/{conversation}").json()["turns"]) == 1
    assert client.post(f"{HERE}/{conversation}/turns", json={**turn, "content": "x"}).status_code == 409


def test_a_failed_answer_leaves_the_question_and_says_so(client):
    conversation = begin(client)
    question = say(client, conversation, "break")
    events = answered(client, conversation, question)
    assert events[-1]["error"]["code"] == "engine_failed"

    def ended():
        turns = client.get(f"{HERE}/{conversation}").json()["turns"]
        return len(turns) == 1 or turns[1]["finish"] == "failed"

    until(ended)


def test_probabilities_are_told_for_the_tokens_of_the_answer(client):
    conversation = begin(client)
    answered(client, conversation, say(client, conversation, "Hello"))
    turn = client.get(f"{HERE}/{conversation}").json()["turns"][1]
    tokens = client.get(f"{HERE}/{conversation}/turns/{turn['id']}/probabilities").json()["tokens"]
    assert tokens
    assert len(tokens[0]["top_logprobs"]) == 5
    question = client.get(f"{HERE}/{conversation}").json()["turns"][0]
    refused = client.get(f"{HERE}/{conversation}/turns/{question['id']}/probabilities")
    assert refused.status_code == 404


def test_what_is_asked_for_without_a_second_model_is_refused(client):
    conversation = begin(client)
    question = say(client, conversation, "Hello")
    response = client.post(f"{HERE}/{conversation}/answers", json={"parent": question, "compare": True})
    assert (response.status_code, error_of(response)["code"]) == (400, "one_model")
    assert len(client.get(f"{HERE}/{conversation}").json()["turns"]) == 1


@pytest.mark.parametrize("path", ["", "/turns", "/answers", "/export", "/turns/x/probabilities"])
@pytest.mark.parametrize("name", ["nothing", "0" * 32, "%2e%2e"])
def test_unknown_conversations_are_not_found(client, path, name):
    method = "POST" if path in ("/turns", "/answers") else "GET"
    content = {"/turns": {"id": new_id(), "content": "x"}, "/answers": {"parent": new_id()}}.get(path)
    response = client.request(method, f"{HERE}/{name}{path}", json=content)
    assert response.status_code == (400 if "%" in name else 404)


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ({"id": "short"}, "id"),
        ({"id": "0" * 32, "title": ""}, "title"),
        ({"id": "0" * 32, "settings": {"temperature": 9}}, "settings"),
        ({"id": "0" * 32, "system": "a\0b"}, "system"),
        ({"id": "0" * 32, "owner": "ann"}, "owner"),
    ],
)
def test_bad_fields_are_named(client, content, param):
    response = client.post(HERE, json=content)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


def test_each_guest_has_conversations_of_their_own(tmp_path):
    guests = {name: token for name, token in TOKENS.items() if name}
    settings = ServeSettings(sampling=PATIENT, token=TOKENS[""], guests=guests)
    with running(tmp_path, settings) as server:
        ann, ben = (server.client(headers={"Authorization": f"Bearer {TOKENS[name]}"}) for name in ("ann", "ben"))
        with ann, ben:
            conversation = begin(ann)
            question = say(ann, conversation, "a secret")
            assert ben.get(HERE).json()["data"] == []
            for response in (
                ben.get(f"{HERE}/{conversation}"),
                ben.delete(f"{HERE}/{conversation}"),
                ben.patch(f"{HERE}/{conversation}", json={"title": "mine"}),
                ben.post(f"{HERE}/{conversation}/turns", json={"id": new_id(), "content": "x"}),
                ben.post(f"{HERE}/{conversation}/answers", json={"parent": question}),
                ben.get(f"{HERE}/{conversation}/export"),
            ):
                unknown = ben.get(f"{HERE}/{'0' * 32}")
                assert (response.status_code, response.json()) == (404, unknown.json())
            assert len(ann.get(f"{HERE}/{conversation}").json()["turns"]) == 1
            assert ann.delete(f"{HERE}/{conversation}").json()["deleted"] is True


def test_what_was_being_written_when_a_server_died_is_marked(tmp_path):
    with running(tmp_path) as server, server.client() as client:
        conversation = begin(client)
        question = say(client, conversation, "Hello")
        answered(client, conversation, question)
        turn = client.get(f"{HERE}/{conversation}").json()["turns"][1]["id"]
        import sqlite3

        with sqlite3.connect(tmp_path / "feedback.sqlite") as database:  # as a kill would have left it
            database.execute("UPDATE turns SET finish = NULL, content = 'half' WHERE id = ?", [turn])
    with running(tmp_path) as server, server.client() as client:
        kept = client.get(f"{HERE}/{conversation}").json()["turns"][1]
        assert (kept["content"], kept["finish"]) == ("half", "broken")


@pytest.mark.parametrize("worker_s", [0, 0.5], ids=["quick", "slow"])
def test_a_reader_that_leaves_ends_the_answer_and_what_was_written_stays(tmp_path, monkeypatch, worker_s):
    keep = EngineWorker._keep

    def kept_later(*told):
        time.sleep(worker_s)  # the engine hears of it only after its step
        keep(*told)

    monkeypatch.setattr(EngineWorker, "_keep", kept_later)
    with running(tmp_path) as server, server.client() as client:
        conversation = begin(client)
        question = say(client, conversation, "forever")
        with client.stream("POST", f"{HERE}/{conversation}/answers", json={"parent": question}) as response:
            for line in response.iter_lines():
                if "word3" in line:
                    break
        until(lambda: server.engine.ended == ["cancelled"])
        until(lambda: client.get(f"{HERE}/{conversation}").json()["turns"][1]["finish"] is not None)
        assert client.get(f"{HERE}/{conversation}").json()["turns"][1]["finish"] == "cancelled"
        assert "word3" in client.get(f"{HERE}/{conversation}").json()["turns"][1]["content"]


def test_a_full_line_leaves_no_empty_turn(tmp_path):
    settings = ServeSettings(sampling=PATIENT, max_waiting=1)
    with running(tmp_path, settings) as server, server.client() as client:
        conversation = begin(client)
        question = say(client, conversation, "wait")
        body = {"parent": question}
        with client.stream("POST", f"{HERE}/{conversation}/answers", json=body):
            server.engine.begun.acquire()
            with client.stream("POST", f"{HERE}/{conversation}/answers", json=body):
                refused = httpx.post(f"{server.url}{HERE}/{conversation}/answers", json=body, trust_env=False)
                assert refused.status_code == 429
                assert int(refused.headers["Retry-After"]) >= 1
                assert len(client.get(f"{HERE}/{conversation}").json()["turns"]) == 3
            server.engine.gate.set()


def test_two_models_answer_blind_and_are_told_after_the_choice(tmp_path):
    with running(tmp_path, other=OtherEngine()) as server, server.client() as client:
        conversation = begin(client)
        question = say(client, conversation, "Hello")
        first, *chunks = answered(client, conversation, question, compare=True)
        assert {turn["side"] for turn in first["turns"]} == {"left", "right"}
        assert {chunk["model"] for chunk in chunks} == {"hidden"}
        turns = client.get(f"{HERE}/{conversation}").json()["turns"][1:]
        assert [turn["model"] for turn in turns] == [None, None]
        left, right = (turn["answer_id"] for turn in first["turns"])
        client.post("/v1/feedback", json={"first": left, "second": right, "choice": "tie"})
        turns = client.get(f"{HERE}/{conversation}").json()["turns"][1:]
        assert {turn["model"] for turn in turns} == {"echo-1", "echo-2"}


def test_the_side_of_a_model_is_drawn_anew_each_time(tmp_path):
    with running(tmp_path, other=OtherEngine()) as server, server.client() as client:
        conversation = begin(client)
        question = say(client, conversation, "Hello")
        for _ in range(12):
            answered(client, conversation, question, compare=True)
        lefts = {turn.model for turn in server.store.history.get("", conversation).turns if turn.side == "left"}
        assert lefts == {"echo-1", "echo-2"}


def test_metrics_count_requests_and_tokens(client):
    counted = (
        'chatwright_requests_total{route="other",method="GET",status="404"} ',
        'chatwright_completion_tokens_total{model="echo-1"} ',
    )

    def read():
        lines = client.get("/metrics").text.splitlines()
        for line in lines:
            assert line.startswith("# ") or line.rpartition(" ")[2].replace(".", "").isdigit(), line
        assert not any("nothing-of-this-name" in line for line in lines)
        return [sum(int(line.removeprefix(name)) for line in lines if line.startswith(name)) for name in counted]

    before = read()
    for _ in range(2):
        client.get("/nothing-of-this-name")
    ask = {"model": "echo-1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    assert client.post("/v1/chat/completions", json=ask).status_code == 200
    assert [now - then for now, then in zip(read(), before, strict=True)] == [2, 2]


def test_a_model_is_changed_while_its_answers_are_finished(tmp_path):
    with running(tmp_path) as server, server.client() as client:
        fresh = EchoEngine()
        fresh.digest = "9" * 64
        fresh._words = lambda text: ["new ", "weights"]
        ask = {"model": "echo-1", "messages": [{"role": "user", "content": "wait"}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=ask) as old:
            server.engine.begun.acquire()
            server.server._reload = lambda: [fresh]
            server.server.reload_models()
            new = client.post("/v1/chat/completions", json={**ask, "stream": False}).json()
            server.engine.gate.set()
            assert "You said: " in "".join(
                json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                for line in old.iter_lines()
                if line.startswith("data: {")
            )
        assert new["choices"][0]["message"]["content"] == "new weights"
        assert new["system_fingerprint"] == "fp_999999999999"
