"""Every answer is kept, and what people thought of it is kept once."""

import pytest
from echo_server import CHAT, body, chunks_of, error_of


def stored(served, answer_id):
    return next(entry for entry in served.store.export() if entry["id"] == answer_id)


@pytest.mark.parametrize("stream", [True, False])
def test_every_answer_is_stored_with_all_that_made_it(served, client, stream):
    response = client.post(CHAT, json=body("keep me", stream=stream, temperature=0.5, seed=7))
    answer_id = chunks_of(response)[0]["id"] if stream else response.json()["id"]

    entry = stored(served, answer_id)

    assert entry["answer"] == "You said: keep me"
    assert entry["messages"] == [{"role": "user", "content": "keep me"}]
    assert (entry["model"], entry["model_digest"], entry["finish"]) == ("echo-1", served.engine.digest, "stop")
    assert entry["sampling"]["temperature"] == 0.5
    assert (entry["sampling"]["seed"], entry["sampling"]["max_tokens"]) == (7, 50)


def test_a_rating_is_stored_once_however_often_it_is_sent(served, client):
    answer_id = client.post(CHAT, json=body()).json()["id"]
    rating = {"answer_id": answer_id, "thumb": "down", "better_answer": "Hello!", "reason": "cold", "key": "k1"}

    receipts = [client.post("/v1/feedback", json=rating).json() for _ in range(2)]

    assert receipts[0] == receipts[1]
    assert receipts[0]["object"] == "feedback"
    (kept,) = stored(served, answer_id)["ratings"]
    assert (kept["thumb"], kept["better_answer"], kept["reason"]) == (-1, "Hello!", "cold")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"answer_id": "chatcmpl-unknown"}, 404),
        ({"thumb": "sideways"}, 400),
        ({"thumb": 1}, 400),
        ({"answer_id": ""}, 400),
        ({"reason": "x" * 10_000}, 400),
        ({"better_answer": "x" * 2_000_000}, 413),
        ({"surprise": 1}, 400),
    ],
)
def test_ratings_that_make_no_sense_are_refused(client, fields, status):
    response = client.post("/v1/feedback", json={"answer_id": "chatcmpl-unknown", "thumb": "up", **fields})
    assert response.status_code == status
    error_of(response)


def test_a_key_for_two_different_ratings_is_a_conflict(client):
    rating = {"answer_id": client.post(CHAT, json=body()).json()["id"], "thumb": "up", "key": "k"}
    assert client.post("/v1/feedback", json=rating).status_code == 200
    assert client.post("/v1/feedback", json={**rating, "thumb": "down"}).status_code == 409
