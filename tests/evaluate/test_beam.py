"""Beam search: transformers' own sequences, and never a less likely one than greedy."""

import pytest
import torch

from chatwright.evaluate.beam import beam_search
from chatwright.evaluate.likelihood import Row, score_rows
from chatwright.foundation.errors import UsageError
from chatwright.model.engine import rows
from chatwright.model.engine.runner import Runner
from chatwright.model.generation import GenerationRequest, Sampling

TEXTS = ["The ferry", "Tickets are", "def area(", "Wie weit", "Opening hours:"]


@pytest.mark.parametrize("beams", [2, 4])
def test_the_sequences_are_those_of_transformers(tiny_directory, tiny_model, beams):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tiny_directory, dtype=torch.float32).eval()
    stops = sorted(tiny_model.encoder.stop_ids())
    prompts = [tiny_model.tokenizer.encode(text) for text in TEXTS]
    ours = beam_search(tiny_model.network, prompts, beams=beams, max_tokens=9, stop_ids=frozenset(stops))
    for prompt, hypothesis in zip(prompts, ours, strict=True):
        made = theirs.generate(
            torch.tensor([prompt]), num_beams=beams, max_new_tokens=9, eos_token_id=stops, do_sample=False
        )[0, len(prompt) :].tolist()
        assert list(hypothesis.ids) == [token for token in made if token not in stops]


def test_one_beam_is_greedy(tiny_model):
    prompts = [tiny_model.tokenizer.encode(text) for text in TEXTS]
    stops = tiny_model.encoder.stop_ids()
    sampling = Sampling(max_tokens=8, temperature=0.0)
    asked = [GenerationRequest(prompt=tuple(prompt), sampling=sampling, stop_ids=stops) for prompt in prompts]
    greedy = [written.ids for (written,) in tiny_model.engine.run(asked)]
    ours = beam_search(tiny_model.network, prompts, beams=1, max_tokens=8, stop_ids=stops)
    assert [list(hypothesis.ids) for hypothesis in ours] == greedy


def test_the_likelihood_it_tells_is_the_sequence_s(tiny_model):
    prompt = tiny_model.tokenizer.encode(TEXTS[0])
    found = beam_search(tiny_model.network, [prompt], beams=3, max_tokens=6, stop_ids=frozenset())[0]
    ids = list(found.ids)
    scored = score_rows(tiny_model.network, [Row([*prompt, *ids[:-1]], ids)])[0]
    assert found.logprob == pytest.approx(float(scored.logprobs.sum()), abs=1e-3)


def test_no_beam_and_no_room_are_refused(tiny_model):
    with pytest.raises(UsageError, match="one beam or more"):
        beam_search(tiny_model.network, [[1]], beams=0, max_tokens=1, stop_ids=frozenset())
    with pytest.raises(UsageError, match="between 1 and 63 tokens"):
        beam_search(tiny_model.network, [[1] * 64], beams=2, max_tokens=1, stop_ids=frozenset())


@pytest.mark.parametrize(("beams", "max_tokens"), [(2, 100), (1, 200), (5, 20)])
def test_sequences_longer_than_the_usual_memory_are_found_all_the_same(make_network, monkeypatch, beams, max_tokens):
    network, prompts = make_network(context_length=256), [list(range(5, 55)), [7, 8, 9]]
    fields = {"beams": beams, "max_tokens": max_tokens, "stop_ids": frozenset({3})}
    expected = beam_search(network, prompts, **fields)
    monkeypatch.setattr(rows, "_MEMORY_BYTES", 3 * Runner(network).shape.block_bytes)
    assert beam_search(network, prompts, **fields) == expected
