"""Token probabilities are those of the answer's own tokens, in each form of a turn, after what the model really read."""

import copy

import pytest
import torch
from echo_server import running

from chatwright.feedback.conversations import Message
from chatwright.feedback.history import Turn
from chatwright.feedback.store import Answer
from chatwright.model.chat import ChatModel
from chatwright.model.directory import LoadedModel
from chatwright.model.prompts import ChatEncoder

ASKED = "When does the ferry leave?"


@pytest.mark.parametrize("form", ["chatml", "qwen3"])
@pytest.mark.parametrize(
    "answer", ["At nine, from the pier.", "\nAt nine.\n\nAt ten.", "<think>\nnine?\n</think>\n\nAt nine."]
)
def test_the_tokens_of_an_answer_joined_are_the_answer(tmp_path, make_network, tiny_tokenizer, form, answer):
    tokenizer = copy.copy(tiny_tokenizer)
    template = "{{ reasoning_content }} {{ enable_thinking }}" if form == "qwen3" else ""
    tokenizer.settings = {**tiny_tokenizer.settings, "chat_template": template}
    assert ChatEncoder(tokenizer).form.name == form
    network = make_network(context_length=256)
    model = ChatModel(LoadedModel(network, tokenizer, {}, "digest"), name="tiny")
    with running(tmp_path, engine=model) as server, server.client() as client:
        history = server.store.history
        history.create("", id="c" * 32, title="", system="", settings={})
        history.add("", "c" * 32, [Turn(id="q" * 32, parent=None, role="user", content=ASKED)])
        turn = Turn(id="a" * 32, parent="q" * 32, role="assistant", content="", answer="one", model="tiny")
        history.add("", "c" * 32, [turn])
        messages = [Message("user", ASKED)]
        server.store.add_answer(
            Answer(id="one", model="tiny", model_digest="digest", messages=messages, answer=answer, finish="stop")
        )
        told = client.get(f"/v1/conversations/{'c' * 32}/turns/{'a' * 32}/probabilities").json()["tokens"]
    assert "".join(token["token"] for token in told) == answer
    read = [*model.encoder.prompt(messages), *tokenizer.encode(answer)]
    with torch.inference_mode():
        scores = torch.log_softmax(network(torch.tensor([read]))[0], dim=-1)
    expected = [float(scores[place - 1, read[place]]) for place in range(len(read) - len(told), len(read))]
    assert [token["logprob"] for token in told] == pytest.approx(expected, abs=1e-3)  # the engine adds in another order
