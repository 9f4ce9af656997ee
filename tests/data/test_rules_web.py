"""Rules for English web pages: each set drops what its paper describes, and leaves prose, code and short texts."""

import pytest

from chatwright.data.rules import RuleConfig, first_verdict
from chatwright.data.rules_base import Shape
from chatwright.data.rules_web import WebRuleConfig

LINES = [f"Line number{n} tells{n} of some{n} other{n} harbour{n} far{n} away{n}" for n in range(12)]
ALL = {"stop_words": True, "c4": True, "fineweb": True, "repeated_ngrams": True}


def verdict_on(text, **sets):
    found = first_verdict(Shape(text), RuleConfig(web=WebRuleConfig(**sets)))
    return found.reason if found else None


def test_prose_passes_all_sets(prose):
    assert verdict_on(prose, **ALL) is None


@pytest.mark.parametrize(
    ("sets", "text", "reason"),
    [
        ({"stop_words": True}, "\n".join(LINES).replace(" of ", " von "), "stop_words"),
        ({"c4": True}, " ".join(LINES[0].split()[:7]) + "\n" + "\n".join(LINES), "few_sentences"),
        (
            {"c4": True},
            "We use cookies. By going on you accept our cookie policy. Terms of use apply here. " * 2,
            "policy_notice",
        ),
        ({"fineweb": True}, "\n".join(LINES), "lines_without_end"),
        ({"fineweb": True}, "\n".join(f"Item number{n}, short{n}." for n in range(12)), "short_lines"),
        ({"repeated_ngrams": True}, " ".join(LINES) + " " + " ".join(LINES[:6]), "repeated_5grams"),
    ],
)
def test_each_set_drops_what_it_is_for(sets, text, reason):
    assert verdict_on(text) is None
    assert verdict_on(text, **sets) == reason


def test_a_text_of_few_lines_is_not_judged_by_shares_of_lines():
    assert verdict_on("\n".join(f"{line} and so on and on" for line in LINES[:4]), fineweb=True) is None


def test_code_between_prose_is_not_counted_as_lines_of_prose():
    prose = "\n".join(f"{line}." for line in LINES)
    code = "\n".join(f">>> call{n}(x)\n    result{n}" for n in range(40))
    assert verdict_on(f"{prose}\n{code}", fineweb=True) is None
