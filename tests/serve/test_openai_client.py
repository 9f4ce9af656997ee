"""OpenAI's own Python client talks to the server unchanged."""

import pytest

openai = pytest.importorskip("openai", reason="the `openai` client is not installed")

QUESTION = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def remote(served):
    import httpx

    http = httpx.Client(trust_env=False)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0, http_client=http) as client:
        yield client


def test_it_gets_a_whole_answer(remote):
    answer = remote.chat.completions.create(model="echo-1", messages=QUESTION, temperature=0.2, max_tokens=20)
    assert answer.choices[0].message.content == "You said: Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 9


def test_its_answer_is_sent_back_as_it_came_for_a_second_turn(remote):
    answer = remote.chat.completions.create(model="echo-1", messages=QUESTION).choices[0].message.model_dump()
    assert "annotations" in answer
    messages = [*QUESTION, answer, {"role": "user", "content": "And then"}]
    again = remote.chat.completions.create(model="echo-1", messages=messages)
    assert again.choices[0].message.content == "You said: And then"


def test_it_reads_a_stream_with_usage(remote):
    stream = remote.chat.completions.create(
        model="echo-1", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "You said: Hello there"
    assert chunks[-1].usage.completion_tokens == 4


def test_its_stream_helper_builds_the_same_answer(remote):
    with remote.chat.completions.stream(model="echo-1", messages=QUESTION) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "You said: Hello there"


def test_it_raises_its_own_errors(remote):
    with pytest.raises(openai.NotFoundError) as missing:
        remote.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        remote.chat.completions.create(model="echo-1", messages=[{"role": "user", "content": "word " * 400}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as tools:
        remote.chat.completions.create(
            model="echo-1", messages=QUESTION, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert tools.value.param == "tools"
    with pytest.raises(openai.InternalServerError):
        remote.chat.completions.create(model="echo-1", messages=[{"role": "user", "content": "break"}])


def test_it_raises_when_a_stream_breaks(remote):
    with pytest.raises(openai.APIError, match="model failed"):
        list(
            remote.chat.completions.create(model="echo-1", messages=[{"role": "user", "content": "break"}], stream=True)
        )


def test_it_lists_models(remote):
    assert [model.id for model in remote.models.list()] == ["echo-1"]
    assert remote.models.retrieve("echo-1").owned_by == "chatwright"
