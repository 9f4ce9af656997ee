"""What a server that speaks OpenAI's API must do, as probes against any base URL.

Not a test file: `test_conformance.py` runs the probes against ours, and `python tests/serve/conformance.py URL MODEL [SECONDS]`
against any server, which prints one line for each. A probe knows only HTTP and the public API reference.
"""

import json
import socket
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

PROBES = []
QUESTION = [{"role": "user", "content": "Say hello to Anna and Ben, please."}]


@dataclass
class Target:
    """A server under probe."""

    url: str  # without /v1
    model: str
    client: httpx.Client

    def chat(self, **fields):
        body = {"model": self.model, "messages": QUESTION, "max_tokens": 8, **fields}
        return self.client.post("/v1/chat/completions", json={k: v for k, v in body.items() if v is not ...})

    def text(self, **fields):
        body = {"model": self.model, "prompt": "Once upon a time", "max_tokens": 8, **fields}
        return self.client.post("/v1/completions", json=body)


def probe(function):
    PROBES.append(function)
    return function


def good(response):
    assert response.status_code == 200, f"status {response.status_code}: {response.text[:200]}"
    return response.json()


def refusal(response, *statuses):
    assert response.status_code in statuses, f"status {response.status_code}: {response.text[:200]}"
    error = response.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error), f"error has only {sorted(error)}"
    assert isinstance(error["message"], str)
    return error


def events(response):
    assert response.status_code == 200, f"status {response.status_code}: {response.text[:200]}"
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in response.text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") for block in blocks)
    assert blocks[-1] == "data: [DONE]", f"the stream ends with {blocks[-1][:100]}"
    return [json.loads(block[6:]) for block in blocks[:-1]]


# Whole answers


@probe
def models_are_listed_with_ids(target):
    listing = good(target.client.get("/v1/models"))
    assert listing["object"] == "list"
    assert target.model in [card["id"] for card in listing["data"]]
    assert all({"id", "object", "created", "owned_by"} <= set(card) for card in listing["data"])


@probe
def one_model_is_retrieved_by_its_name(target):
    assert good(target.client.get(f"/v1/models/{target.model}"))["id"] == target.model


@probe
def an_answer_has_every_field(target):
    answer = good(target.chat())
    assert {"id", "object", "created", "model", "choices", "usage"} <= set(answer)
    assert answer["object"] == "chat.completion"
    choice = answer["choices"][0]
    assert {"index", "message", "logprobs", "finish_reason"} <= set(choice)
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)


@probe
def a_message_says_that_nothing_was_refused(target):
    assert good(target.chat())["choices"][0]["message"]["refusal"] is None


@probe
def usage_adds_up(target):
    usage = good(target.chat())["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


@probe
def max_tokens_cuts_and_says_so(target):
    answer = good(target.chat(max_tokens=2))
    assert answer["usage"]["completion_tokens"] <= 2
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")


@probe
def max_completion_tokens_is_understood(target):
    answer = good(target.chat(max_tokens=..., max_completion_tokens=2))
    assert answer["usage"]["completion_tokens"] <= 2


@probe
def without_a_limit_an_answer_still_ends(target):
    assert good(target.chat(max_tokens=...))["choices"][0]["finish_reason"] in ("length", "stop")


@probe
def several_answers_are_given(target):
    answer = good(target.chat(n=3))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]


@probe
def a_seed_repeats_an_answer(target):
    texts = [good(target.chat(seed=7, temperature=1.0))["choices"][0]["message"]["content"] for _ in range(2)]
    assert texts[0] == texts[1]


@probe
def a_stop_text_ends_the_answer_and_is_not_shown(target):
    whole = good(target.chat(temperature=0, max_tokens=16))["choices"][0]["message"]["content"]
    words = [word for word in whole.split() if len(word) > 1]
    if len(words) > 1:
        stopped = good(target.chat(temperature=0, max_tokens=16, stop=[words[1]]))["choices"][0]
        assert words[1] not in stopped["message"]["content"]
        assert stopped["finish_reason"] == "stop"


@probe
def log_probabilities_come_with_bytes_and_alternatives(target):
    tokens = good(target.chat(logprobs=True, top_logprobs=2))["choices"][0]["logprobs"]["content"]
    assert tokens
    for token in tokens:
        assert {"token", "logprob", "bytes", "top_logprobs"} <= set(token)
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2


@probe
def content_in_parts_is_accepted(target):
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    good(target.chat(messages=[{"role": "user", "content": parts}]))


@probe
def the_developer_role_is_accepted(target):
    good(target.chat(messages=[{"role": "developer", "content": "Be brief."}, *QUESTION]))


@probe
def harmless_fields_are_accepted(target):
    good(
        target.chat(user="u", metadata={"a": "b"}, store=False, presence_penalty=0.1, frequency_penalty=0.1, top_p=0.9)
    )


@probe
def null_fields_mean_absent(target):
    good(target.chat(temperature=None, stop=None, tools=None, n=None, logprobs=None, seed=None, stream=None))


# Streams


@probe
def a_stream_begins_with_the_role(target):
    first = events(target.chat(stream=True))[0]
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"]["role"] == "assistant"


@probe
def a_stream_has_one_id_and_one_end(target):
    chunks = events(target.chat(stream=True))
    assert len({chunk["id"] for chunk in chunks}) == 1
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert len(ends) == 1


@probe
def a_stream_gives_the_text_of_a_whole_answer(target):
    whole = good(target.chat(temperature=0, seed=1))["choices"][0]["message"]["content"]
    chunks = events(target.chat(temperature=0, seed=1, stream=True))
    told = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert told == whole


@probe
def usage_comes_last_and_only_when_asked_for(target):
    *chunks, last = events(target.chat(stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > 0
    assert all(chunk.get("usage") is None for chunk in chunks)
    assert all(chunk.get("usage") is None for chunk in events(target.chat(stream=True)))


@probe
def a_stream_of_several_answers_names_each(target):
    chunks = events(target.chat(stream=True, n=2))
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1}


# Text completions


@probe
def a_text_is_continued(target):
    answer = good(target.text())
    assert answer["object"] == "text_completion"
    assert isinstance(answer["choices"][0]["text"], str)


@probe
def several_prompts_are_answered_in_order(target):
    answer = good(target.text(prompt=["One", "Two"]))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]


@probe
def echo_repeats_the_prompt(target):
    assert good(target.text(echo=True))["choices"][0]["text"].startswith("Once upon a time")


@probe
def a_prompt_of_token_ids_is_scored_with_a_null_first(target):
    answer = good(target.text(prompt=[[5, 6, 7]], echo=True, max_tokens=1, logprobs=1))
    scores = answer["choices"][0]["logprobs"]
    lengths = {len(scores[name]) for name in ("tokens", "token_logprobs", "top_logprobs")}
    assert lengths == {4}, f"arrays of {lengths}, not of the prompt's 3 and the answer's 1"
    assert scores["token_logprobs"][0] is None
    for own, top in zip(scores["token_logprobs"][1:], scores["top_logprobs"][1:], strict=True):
        assert own in top.values()


@probe
def a_text_is_streamed(target):
    chunks = events(target.text(stream=True))
    assert chunks[0]["object"] == "text_completion"


# Refusals


@probe
def malformed_json_is_a_bad_request(target):
    response = target.client.post(
        "/v1/chat/completions", content=b"{nope", headers={"Content-Type": "application/json"}
    )
    refusal(response, 400)


@probe
def a_missing_field_is_named(target):
    assert refusal(target.chat(messages=...), 400)["type"] == "invalid_request_error"


@probe
def an_unknown_model_is_not_found(target):
    assert refusal(target.chat(model="no-such-model-1"), 404)["code"] == "model_not_found"


@probe
def a_temperature_out_of_range_is_refused(target):
    refusal(target.chat(temperature=3.5), 400)


@probe
def max_tokens_below_one_is_refused(target):
    refusal(target.chat(max_tokens=-1), 400)


@probe
def too_many_answers_are_refused(target):
    refusal(target.chat(n=100_000), 400)


@probe
def an_unknown_role_is_refused(target):
    refusal(target.chat(messages=[{"role": "wizard", "content": "x"}]), 400)


@probe
def no_messages_are_refused(target):
    refusal(target.chat(messages=[]), 400)


@probe
def a_conversation_beyond_the_context_is_refused_by_its_code(target):
    error = refusal(target.chat(messages=[{"role": "user", "content": "word " * 150_000}]), 400)
    assert error["code"] == "context_length_exceeded"


@probe
def tools_that_cannot_be_called_are_refused_or_answered(target):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    response = target.chat(tools=[tool])
    if response.status_code != 200:
        refusal(response, 400)


@probe
def an_unknown_path_is_not_found_in_the_same_shape(target):
    refusal(target.client.get("/v1/nothing"), 404)


@probe
def a_wrong_method_is_refused_in_the_same_shape(target):
    refusal(target.client.get("/v1/chat/completions"), 405)


# The line


@probe
def a_client_that_leaves_frees_its_place(target):
    parts = urlsplit(target.url)
    body = json.dumps({"model": target.model, "messages": QUESTION, "max_tokens": 100_000, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as left:
        left.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        left.recv(200)
    began = time.monotonic()
    good(target.chat(max_tokens=1))
    assert time.monotonic() - began < 10


def run(url, model, *, token=None, timeout_s=60):
    """What each probe found: its name, and None or what was wrong."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, timeout=timeout_s, trust_env=False, headers=headers) as client:
        for check in PROBES:
            yield check.__name__, _found(check, Target(url, model, client))


def _found(check, target):
    try:
        check(target)
    except (
        AssertionError,
        OSError,
        httpx.HTTPError,
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
    ) as error:
        return f"{type(error).__name__}: {error}"[:200]
    return None


if __name__ == "__main__":
    good_ones = 0
    for name, wrong in run(sys.argv[1].rstrip("/"), sys.argv[2], timeout_s=float((sys.argv[3:] or ["60"])[0])):
        good_ones += wrong is None
        print(f"{'pass' if wrong is None else 'FAIL'}  {name}{'' if wrong is None else '  -  ' + wrong}", flush=True)
    print(f"{good_ones} of {len(PROBES)} probes pass")
