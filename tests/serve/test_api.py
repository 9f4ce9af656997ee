"""The API speaks as OpenAI's clients expect, bounds everything, and keeps every answer."""

import json

import pytest
from echo_server import CHAT, body, chunks_of, error_of, events_of

# Whole answers


def test_a_whole_answer_has_openais_fields_exactly(client):
    response = client.post(CHAT, json=body())

    answer = response.json()
    assert response.status_code == 200
    assert set(answer) == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "echo-1")
    assert isinstance(answer["created"], int)
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "You said: Hello there", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def test_every_answer_has_an_id_of_its_own(client):
    assert len({client.post(CHAT, json=body()).json()["id"] for _ in range(3)}) == 3


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_tokens_cuts_the_answer_and_says_so(client, name):
    answer = client.post(CHAT, json=body("one two three", **{name: 2})).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == "You said: "
    assert answer["usage"]["completion_tokens"] == 2


def test_content_in_parts_is_joined(client):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    answer = client.post(CHAT, json=body(parts)).json()
    assert answer["choices"][0]["message"]["content"] == "You said: one\ntwo"


def test_characters_beyond_ascii_come_back_unharmed(client):
    text = "naïve 你好 👩‍👩‍👧 \u202e"
    whole = client.post(CHAT, json=body(text)).json()["choices"][0]["message"]["content"]
    streamed = client.post(CHAT, json=body(text, stream=True))
    assert whole == f"You said: {text}"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(streamed)) == whole


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u"},
        {"metadata": {"a": "b"}},
        {"store": True},
        {"n": 1},
        {"min_p": 0.05},
        {"frequency_penalty": 0, "presence_penalty": 0.0},
        {"temperature": 0},
        {"temperature": None, "top_p": None, "stop": None, "tools": None, "seed": None},
        {"stop": ["a", "b"]},
        {"stop": []},
        {"seed": 2**63 - 1},
        {"logprobs": False, "response_format": {"type": "text"}, "tools": [], "tool_choice": "none"},
        {"logit_bias": {}, "parallel_tool_calls": True, "service_tier": "auto", "modalities": ["text"]},
        {"stream": True, "stream_options": {"include_usage": False}},
        {"top_k": 40, "repetition_penalty": 1.1},
    ],
)
def test_harmless_fields_are_accepted(client, fields):
    assert client.post(CHAT, json=body(**fields)).status_code == 200


def test_roles_that_clients_send_are_accepted(client):
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": [], "annotations": []},
        {"role": "user", "content": "More"},
        {"role": "assistant", "content": "So", "annotations": None, "audio": None, "function_call": None},
        {"role": "user", "content": "And"},
    ]
    assert client.post(CHAT, json={"model": "echo-1", "messages": messages}).status_code == 200


# Streams


def test_a_stream_begins_with_the_role_and_ends_with_the_reason_and_done(client):
    response = client.post(CHAT, json=body(stream=True))

    chunks = chunks_of(response)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_comes_last_with_no_choices_where_asked_for(client):
    chunks = chunks_of(client.post(CHAT, json=body(stream=True, stream_options={"include_usage": True})))

    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_a_stream_that_fails_tells_it_in_an_event_without_our_paths(client):
    events = events_of(client.post(CHAT, json=body("break", stream=True)))

    assert json.loads(events[-1])["error"]["code"] == "engine_failed"
    assert "path" not in "".join(events)
    assert "[DONE]" not in events


def test_a_whole_answer_that_fails_is_a_500_without_our_paths(client):
    response = client.post(CHAT, json=body("break"))

    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "path" not in response.text


# Refusals


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ["x"] * 100_000}, "stop"),
        ({"stop": ""}, "stop"),
        ({"n": 17}, "n"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"best_of": 3}, "best_of"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(client, fields, param):
    response = client.post(CHAT, json=body(**fields))

    error = error_of(response)
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert f"`{param}" in error["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        None,
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": []}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
        [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}, {"role": "user", "content": "z"}],
        [{"role": "user", "content": "a\0b"}],
        [{"role": "user", "content": "x", "extra": 1}],
        [{"role": "user", "content": "x"}] * 2000,
    ],
)
def test_conversations_that_cannot_be_answered_are_refused(client, messages):
    response = client.post(CHAT, json={"model": "echo-1", "messages": messages})
    assert response.status_code == 400
    assert error_of(response)["param"] == "messages"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": "echo-1", "model": "echo-1", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "echo-1", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "echo-1", "temperature": Infinity, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "echo-1", "temperature": 1e400, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "echo-1", "max_tokens": 1' + b"0" * 400 + b', "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "echo-1", "max_tokens": 1' + b"0" * 9000 + b', "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "echo-1", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "echo-1", "\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"model": "echo-1", "metadata": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
        json.dumps({f"field{n}": n for n in range(50_000)}).encode(),
    ],
    ids=range(17),
)
def test_bodies_that_are_not_sound_json_are_refused_with_400(client, raw):
    response = client.post(CHAT, content=raw, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error_of(response)


def test_an_unknown_model_is_404_model_not_found(client):
    response = client.post(CHAT, json={**body(), "model": "gpt-9"})
    assert response.status_code == 404
    assert error_of(response) | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize("stream", [True, False])
def test_a_conversation_beyond_the_context_is_refused_with_the_counts(client, stream):
    response = client.post(CHAT, json=body("word " * 500, stream=stream))
    error = error_of(response)
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert "503 tokens" in error["message"]
    assert "200" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/docs", 404),
        ("GET", "/static/server.py", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", "/", 415),
        ("POST", "/v1/models", 405),
        ("TRACE", "/", 405),
    ],
)
def test_unknown_paths_and_methods_are_refused_in_the_same_shape(client, method, path, status):
    options = {"json": {}} if method == "POST" else {}
    response = client.request(method, path, **options)
    assert response.status_code == status
    error_of(response)


# Information


def test_models_are_listed_and_found_by_name(client):
    listing = client.get("/v1/models").json()
    assert listing["object"] == "list"
    assert [(model["id"], model["object"], model["owned_by"]) for model in listing["data"]] == [
        ("echo-1", "model", "chatwright")
    ]
    assert client.get("/v1/models/echo-1").json() == listing["data"][0]


def test_health_and_page_settings_answer(client):
    assert client.get("/health").json() == {"status": "ok"}
    settings = client.get("/v1/page-settings").json()
    assert settings["starters"] == ["How are you?"]
    assert (settings["title"], settings["model"], settings["keeps_feedback"]) == ("Echo", "echo-1", True)


def test_the_openapi_document_names_every_endpoint(client):
    document = client.get("/openapi.json").json()
    assert {CHAT, "/v1/models", "/v1/feedback", "/health"} <= set(document["paths"])
    assert "ChatRequest" in document["components"]["schemas"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert not any("422" in operation["responses"] for operation in operations)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/static/app.js", "text/javascript"), ("/static/style.css", "text/css")],
)
def test_the_page_is_served_with_its_types(client, path, kind):
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)
    assert client.head(path).status_code == 200
