"""Greedy answers of a bare network, for tests that compare it with others."""

from chatwright.model.engine.engine import Engine
from chatwright.model.generation import GenerationRequest, Sampling


def greedy_rows(network, tokenizer, prompts, *, max_tokens, stop_ids):
    """The likeliest continuation of each prompt, all written together; stop tokens left out."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    stop_ids = frozenset(stop_ids)
    requests = [GenerationRequest(prompt=tuple(ids), sampling=sampling, stop_ids=stop_ids) for ids in prompts]
    return [answer.ids for (answer,) in Engine(network, tokenizer).run(requests)]
