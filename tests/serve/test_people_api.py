"""`/v1/me`: who somebody is here, whether they may be learned from, what is kept of them, and its end."""

import json

from echo_server import CHAT, PATIENT, body, running

from chatwright.serve.settings import ServeSettings

TOKENS = {"": "o" * 20, "ann": "a" * 20, "ben": "b" * 20}
SETTINGS = ServeSettings(
    sampling=PATIENT,
    token=TOKENS[""],
    guests={name: token for name, token in TOKENS.items() if name},
    experts=frozenset({"ann"}),
)


def as_person(server, name):
    return server.client(headers={"Authorization": f"Bearer {TOKENS[name]}"})


def test_each_token_is_a_person_of_its_own_with_a_role_and_a_say(tmp_path):
    with running(tmp_path, SETTINGS) as server, as_person(server, "ann") as ann, as_person(server, "") as owner:
        me = ann.get("/v1/me").json()
        assert (me["name"], me["role"], me["consent"], me["is_learned_from"]) == ("ann", "expert", None, False)
        assert owner.get("/v1/me").json()["is_learned_from"]
        assert ann.put("/v1/me", json={"consent": True}).json()["is_learned_from"]
        assert ann.put("/v1/me", json={"consent": "yes"}).status_code == 400


def test_answers_and_opinions_are_kept_with_whose_they_are_and_go_with_them(tmp_path):
    with running(tmp_path, SETTINGS) as server, as_person(server, "ann") as ann, as_person(server, "ben") as ben:
        name = ann.post(CHAT, json=body("Hello")).json()["id"]
        other = ben.post(CHAT, json=body("Hello")).json()["id"]
        assert ann.post("/v1/feedback", json={"answer_id": name, "thumb": "up"}).status_code == 200
        first, _ = server.store.export()
        assert (first["owner"], first["ratings"][0]["rater"], first["ratings"][0]["role"]) == ("ann", "ann", "expert")
        (line,) = ann.get("/v1/me/export").text.splitlines()
        assert json.loads(line)["id"] == name
        assert ann.delete("/v1/me").json()["answers"] == 1
        assert [entry["id"] for entry in server.store.export()] == [other]
        assert ann.get("/v1/me/export").text == ""


def test_a_score_is_stored_once_with_whose_it_is_and_out_of_range_it_is_refused(tmp_path):
    with running(tmp_path, SETTINGS) as server, as_person(server, "ann") as ann:
        name = ann.post(CHAT, json=body("Hello")).json()["id"]
        told = {"answer_id": name, "score": 4, "better_answer": "Good day", "key": "once"}
        receipts = [ann.post("/v1/feedback", json=told).json() for _ in range(2)]
        assert receipts[0] == receipts[1]
        assert (receipts[0]["score"], receipts[0]["thumb"]) == (4, None)
        (entry,) = server.store.export(rated_only=True)
        (score,) = entry["scores"]
        assert (score["score"], score["better_answer"], score["rater"]) == (4.0, "Good day", "ann")
        refused = ann.post("/v1/feedback", json={"answer_id": name, "score": 6})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "score")


def test_without_a_store_there_is_nobody_to_speak_of(tmp_path):
    from echo_server import EchoEngine
    from fastapi.testclient import TestClient

    from chatwright.serve.api import create_app

    with TestClient(create_app(EchoEngine(), None, ServeSettings()), base_url="http://localhost") as client:
        assert client.get("/v1/me").status_code == 503
