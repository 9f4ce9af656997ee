"""A real model behind the server: many clients at once, each with the answer it would have alone."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from echo_server import CHAT, running

from chatwright.model.chat import ChatModel
from chatwright.model.directory import LoadedModel
from chatwright.serve.settings import ServeSettings


def texts_of(response):
    """Each answer's text and end, from the events of a stream."""
    found = {}
    for line in response.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                text, _ = found.get(choice["index"], ("", None))
                found[choice["index"]] = (text + (choice["delta"].get("content") or ""), choice["finish_reason"])
    return [found[index] for index in sorted(found)]


@pytest.mark.slow
def test_streaming_clients_at_once_get_what_each_gets_alone(tmp_path, make_network, tiny_tokenizer):
    def model():
        return ChatModel(LoadedModel(make_network(context_length=128), tiny_tokenizer, {}, "0" * 64), name="tiny")

    def body(number):
        message = {"role": "user", "content": f"When does ferry {number} leave?" * (1 + number % 3)}
        fields = {"seed": number, "temperature": 1.2, "max_tokens": 20, "n": 1 + number % 3, "stream": True}
        return {"model": "tiny", "messages": [message], **fields}

    with (
        running(tmp_path, ServeSettings(max_waiting=32), engine=model()) as server,
        ThreadPoolExecutor(12) as pool,
        server.client() as client,
    ):
        together = list(pool.map(lambda number: texts_of(client.post(CHAT, json=body(number))), range(12)))
        kept = list(server.store.export())
    with running(tmp_path / "alone", engine=model()) as server, server.client() as client:
        alone = [texts_of(client.post(CHAT, json=body(number))) for number in range(12)]
    assert together == alone
    assert [len(answers) for answers in together] == [1 + number % 3 for number in range(12)]
    assert len({text for answers in together for text, _ in answers}) > 12
    assert all(end in ("stop", "length") for answers in together for _, end in answers)
    assert len(kept) == sum(len(answers) for answers in together)
