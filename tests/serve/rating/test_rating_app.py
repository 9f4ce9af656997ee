"""The raters' API: blind, strict, and by the side that was shown."""

import pytest
from starlette.testclient import TestClient

from chatwright.feedback.ratings import Study, make_study
from chatwright.feedback.study import StudyItem, StudyPlan
from chatwright.serve.rating.app import create_rating_app
from chatwright.serve.settings import ServeSettings

GOOD = {"fluency": 4, "coherence": 3, "relevance": 5}


@pytest.fixture
def study(tmp_path):
    items = [
        StudyItem(id=f"p{n}", asked="Which?", answers=("one", "two"), models=("secret-a", "secret-b")) for n in range(8)
    ]
    items.append(StudyItem(id="s", asked="How?", answers=("so",), models=("secret-a",), reference="secret-reference"))
    items.append(
        StudyItem(id="c", asked="How?", answers=("so",), models=("(secret)",), check={"at_most": {"fluency": 2}})
    )
    make_study(tmp_path / "s.sqlite", items, StudyPlan(repeat_share=0.0))
    return Study(tmp_path / "s.sqlite")


@pytest.fixture
def client(study):
    return TestClient(create_rating_app(study, ServeSettings()), base_url="http://127.0.0.1")


def join(client, name="Ada", kind="user"):
    return client.post("/v1/rating/join", json={"name": name, "kind": kind}).json()["token"]


def test_a_whole_course_is_blind_and_choices_are_stored_by_answer_not_by_side(client, study):
    token = join(client)
    told = client.post("/v1/rating/next", json={"token": token})
    swapped = 0
    while (item := told.json()["item"]) is not None:
        assert "secret" not in told.text
        body = {"token": token, "item": item["id"], "occasion": item["occasion"], "key": f"the-key-{item['id']}"}
        if item["kind"] == "pair":
            swapped += item["answers"] == ["two", "one"]
            body["choice"] = "left" if item["answers"][0] == "one" else "right"  # whichever side shows `one`
        else:
            body["scores"] = GOOD
        answer = client.post("/v1/rating/judge", json=body)
        assert answer.status_code == 200
        assert client.post("/v1/rating/judge", json=body).json()["id"] == answer.json()["id"]
        told = client.post("/v1/rating/next", json={"token": token})
    assert told.json()["done"] == told.json()["total"] == 10
    choices = [entry["choice"] for entry in study.export() if entry["item_kind"] == "pair"]
    assert choices == ["first"] * 8
    assert 0 < swapped < 8


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("join", {"name": "", "kind": "user"}, 400),
        ("join", {"name": "x", "kind": "boss"}, 400),
        ("next", {"token": "guessed"}, 401),
        ("next", {}, 400),
        ("judge", {"token": "T", "item": "nope", "occasion": 0, "key": "12345678"}, 409),
        ("judge", {"token": "T", "item": "s", "occasion": 0, "key": "12345678", "scores": {"fluency": 9}}, 409),
        ("judge", {"token": "T", "item": "s", "occasion": 0, "key": "12345678", "scores": {"fluency": "4"}}, 400),
        ("judge", {"token": "T", "item": "s", "occasion": 7, "key": "12345678"}, 400),
        ("judge", {"token": "T", "item": "s", "occasion": 0, "key": "short"}, 400),
        ("judge", {"token": "T", "item": "s", "occasion": 0, "key": "12345678", "note": "x" * 20_001}, 400),
        ("undo", {"token": "T"}, 409),
    ],
)
def test_bad_requests_get_a_named_refusal(client, study, path, body, status):
    token = join(client)
    response = client.post(
        f"/v1/rating/{path}", json={**body, **({"token": token} if body.get("token") == "T" else {})}
    )
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert list(study.export()) == []


def test_a_closed_study_lets_in_by_invitation_only(tmp_path):
    item = StudyItem(id="s", asked="How?", answers=("so",), models=("m",))
    make_study(tmp_path / "s.sqlite", [item], StudyPlan(open_names=False))
    study = Study(tmp_path / "s.sqlite")
    client = TestClient(create_rating_app(study, ServeSettings()), base_url="http://127.0.0.1")
    assert client.post("/v1/rating/join", json={"name": "Ada", "kind": "user"}).status_code == 403
    invited = study.join("Ada", "expert")
    assert client.post("/v1/rating/next", json={"token": invited.token}).json()["rater"] == {
        "name": "Ada",
        "kind": "expert",
    }


def test_foreign_pages_and_hosts_are_refused_and_the_page_has_its_policy(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.post("/v1/rating/join", json={}, headers={"origin": "http://evil.example"}).status_code == 403
    assert "require-trusted-types-for" in client.get("/").headers["content-security-policy"]
