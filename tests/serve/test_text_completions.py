"""Plain texts are continued, echoed and scored as evaluation harnesses expect."""

import pytest
from echo_server import CHAT, body, chunks_of, error_of

TEXT = "/v1/completions"


def ask(client, **fields):
    return client.post(TEXT, json={"model": "echo-1", "prompt": "one two", **fields})


def test_a_text_completion_has_openais_fields_exactly(client):
    answer = ask(client).json()
    assert set(answer) == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": "You said: one two", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


def test_it_keeps_nothing(client, served):
    before = len(list(served.store.export()))
    ask(client)
    assert len(list(served.store.export())) == before


def test_echo_and_scores_are_arrays_of_one_length(client):
    choice = ask(client, echo=True, logprobs=2).json()["choices"][0]
    assert choice["text"] == "one twoYou said: one two"
    scores = choice["logprobs"]
    assert scores["tokens"] == ["one two", "You ", "said: ", "one ", "two"]
    assert scores["text_offset"] == [0, 7, 11, 17, 21]
    assert [len(scores[name]) for name in ("token_logprobs", "top_logprobs")] == [5, 5]
    assert all(own in top.values() for own, top in zip(scores["token_logprobs"], scores["top_logprobs"], strict=True))


def test_several_prompts_and_answers_are_counted_through(client):
    answer = ask(client, prompt=["a", "b c"], n=2).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "You said: a"),
        (1, "You said: a"),
        (2, "You said: b c"),
        (3, "You said: b c"),
    ]
    assert answer["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("prompt", [[5, 6], [[5, 6]]])
def test_token_ids_are_prompts_too(client, prompt):
    assert ask(client, prompt=prompt).json()["choices"][0]["text"] == "You said: id5 id6"


def test_a_stream_carries_text_scores_and_usage(client):
    chunks = chunks_of(ask(client, stream=True, logprobs=1, stream_options={"include_usage": True}))
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == "You said: one two"
    assert chunks[0]["choices"][0]["logprobs"]["text_offset"] == [0]
    assert chunks[1]["choices"][0]["logprobs"]["text_offset"] == [4]
    assert chunks[-1]["usage"]["total_tokens"] == 6


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a"] * 60, "n": 2}, "n"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"echo": "yes"}, "echo"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(client, fields, param):
    response = ask(client, **fields)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


# Chat: several answers and log-probabilities


def test_several_answers_are_numbered_kept_and_ratable(client, served):
    answer = client.post(CHAT, json=body(n=3)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    rated = client.post("/v1/feedback", json={"answer_id": f"{answer['id']}-2", "thumb": "up"})
    assert rated.status_code == 200


def test_chat_scores_have_bytes_and_alternatives(client):
    content = client.post(CHAT, json=body(logprobs=True, top_logprobs=2)).json()["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in content] == ["You ", "said: ", "Hello ", "there"]
    assert content[0]["bytes"] == list(b"You ")
    assert [likely["logprob"] for likely in content[0]["top_logprobs"]] == [-0.5, -1.5]


def test_a_choice_between_two_answers_is_kept_once(client, served):
    one, two = (client.post(CHAT, json=body(text)).json()["id"] for text in ("one", "two"))
    choice = {"first": one, "second": two, "choice": "second", "key": "k1"}
    receipts = [client.post("/v1/feedback", json=choice).json() for _ in range(2)]
    assert receipts[0] == receipts[1]
    assert receipts[0]["choice"] == "second"
    assert client.post("/v1/feedback", json={**choice, "choice": "tie"}).status_code == 409
    assert client.post("/v1/feedback", json={**choice, "second": one}).status_code == 400
    assert error_of(client.post("/v1/feedback", json={**choice, "first": "no"}))["param"] == "first"
    assert error_of(client.post("/v1/feedback", json={**choice, "choice": "none"}))["param"] == "choice"
