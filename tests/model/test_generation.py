"""What is asked of an engine is checked before anything is begun, all problems at once."""

import pytest

from chatwright.foundation.errors import UsageError
from chatwright.model.generation import GenerationRequest, Sampling


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"presence_penalty": 2.1},
        {"frequency_penalty": float("nan")},
        {"top_logprobs": 21},
        {"top_logprobs": -1},
        {"seed": -1},
        {"seed": 1 << 63},
        {"stop": ("a", "")},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(fields):
    with pytest.raises(UsageError, match=next(iter(fields))):
        Sampling(**fields)


def test_all_settings_out_of_range_are_named_at_once():
    with pytest.raises(UsageError, match="`temperature` must be 0 or more: -1.*`top_p`"):
        Sampling(temperature=-1.0, top_p=2.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": ()}, "prompt is empty"),
        ({"num_answers": 0}, "`num_answers` must be 1 or more: 0"),
        ({"sampling": Sampling(max_tokens=0)}, "unless the prompt is echoed"),
        ({"prompt": (), "num_answers": -1}, "prompt is empty; `num_answers`"),
    ],
)
def test_a_request_that_cannot_be_begun_is_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        GenerationRequest(**{"prompt": (1,), "sampling": Sampling(), **fields})


def test_nothing_need_be_written_where_the_prompt_is_echoed():
    assert GenerationRequest(prompt=(1,), sampling=Sampling(max_tokens=0), echo=True).num_answers == 1
