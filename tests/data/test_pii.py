"""Personal data goes by kind and is counted; what only looks like it stays; every pattern is linear."""

import itertools
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pii_samples
import pytest

from chatwright.data.clean import CleanConfig, Keep, clean_document
from chatwright.data.pii import PiiConfig, is_card_number, redact
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError

ALL = PiiConfig(redact=("email", "phone", "ip", "card", "key"))

FOUND = [
    ("write to anna.maria+x@mail.example.co.uk now", "write to <EMAIL> now"),
    ("(me_1@uni-x.de)", "(<EMAIL>)"),
    ("from 8.8.8.8 and 2001:4860:4860::8888.", "from <IP> and <IP>."),
    ("call +49 30 901820 or +1 (415) 555-2671", "call <PHONE> or <PHONE>"),
    ("call (415) 555-2671, 415-555-2671", "call <PHONE>, <PHONE>"),
    ("paid with 4111 1111 1111 1111.", "paid with <CARD>."),
    ("card 5500-0000-0000-0004", "card <CARD>"),
    ("4111 1111 1111 1111 12/25", "<CARD> 12/25"),
    ("4111111111111111 123", "<CARD> 123"),
    ("3782 822463 10005 09/27", "<CARD> 09/27"),
    ("call 1-212-555-0123 or 1 (212) 555-0123", "call <PHONE> or <PHONE>"),
    ("key AKIAIOSFODNN7EXAMPLE!", "key <KEY>!"),
    ("ghp_" + "a1B2" * 9, "<KEY>"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc+/=\n-----END RSA PRIVATE KEY-----", "<KEY>"),
    (r"-----BEGIN PRIVATE KEY-----\nMIIabc+/=\n-----END PRIVATE KEY-----\n", r"<KEY>\n"),
]

LEFT = [
    "an @decorator and a@b, user@localhost",
    "192.168.1.1, 127.0.0.1, 10.0.0.7, ::1, fe80::1",
    "version 1.2.3.4.5 and 999.8.8.8",
    "std::vector<int> and a::b::c",
    "x[::2], x[::-1], Dad::Bee, Face::Cafe, from 10:30::2, 100::1, ff02::1",
    "order 4111 1111 1111 1112, id 1234567890123456",
    "0000 0000 0000 0000",
    "order 4111 1111 1111 1112 12/25, id 4111111111111112 123",
    "in 2024-11-23 at 12:34:56, 3.14159265358979",
    "pages 100-200-3000, +1 point, 1 + 1 = 2",
    "sk-learn and AKIA",
]


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_personal_data_is_replaced_by_its_kind(text, expected):
    assert redact(text, ALL).text == expected


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_stays(text):
    assert redact(text, ALL) == (text, {})


class Measured(NamedTuple):
    """How well one kind is found."""

    recall: float  # of the values of a kind, the share of which nothing is left and nothing beside them is gone
    precision: float  # of the marks of a kind, the share that stands for such a value


def measured() -> dict[str, Measured]:
    """Recall and precision over `pii_samples`, each value alone in a context, all kinds looked for together."""
    found, marks = Counter(), Counter()
    for kind, values in pii_samples.POSITIVE.items():
        for value, context in zip(values, itertools.cycle(pii_samples.CONTEXTS), strict=False):
            text, places = redact(context.replace("{}", value.replace("‹", "").replace("›", "")), ALL)
            marks.update({name.removeprefix("pii_"): count for name, count in places.items()})
            expected = re.sub("‹.+›|^[^‹]+$", f"<{kind.upper()}>", value)
            found[kind] += text == context.replace("{}", expected)
    for line in pii_samples.NEGATIVE:
        marks.update({name.removeprefix("pii_"): count for name, count in redact(line, ALL).places.items()})
    return {
        kind: Measured(found[kind] / len(values), found[kind] / marks[kind])
        for kind, values in pii_samples.POSITIVE.items()
    }


# Recall and precision in per cent, rounded down: the figures of `docs/cleaning.md`.
FLOORS = {"email": (86, 91), "phone": (77, 100), "ip": (94, 98), "card": (92, 100), "key": (88, 100)}


def test_recall_and_precision_over_the_samples_are_those_that_the_documentation_names():
    figures = measured()
    print(figures)  # for `pytest -s`
    documented = (Path(__file__).parents[2] / "docs" / "cleaning.md").read_text(encoding="utf-8")
    for kind, (recall, precision) in FLOORS.items():
        number = len(set(pii_samples.POSITIVE[kind]))
        assert number >= 60
        assert 100 * figures[kind].recall >= recall
        assert 100 * figures[kind].precision >= precision
        assert f"| `{kind}` | {number} | {recall} % | {precision} % |" in documented


def test_places_are_counted_by_kind_and_other_kinds_stay():
    text = "a@b.org c@d.org 8.8.8.8"
    assert redact(text, PiiConfig(redact=("email",))) == ("<EMAIL> <EMAIL> 8.8.8.8", {"pii_email": 2})
    assert redact(text, PiiConfig()) == (text, {})


@pytest.mark.parametrize("number", ["4111111111111111", "378282246310005", "6011 0009 9013 9424"])
def test_card_numbers_have_a_luhn_sum(number):
    assert is_card_number(number)
    assert not is_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))


def test_cleaning_counts_the_places(make_document, prose):
    outcome = clean_document(make_document(f"{prose} Write to me@x.org."), CleanConfig(pii=ALL))
    assert isinstance(outcome, Keep)
    assert outcome.changes == {"pii_email": 1}
    assert outcome.document.text.endswith("Write to <EMAIL>.")


def test_a_kind_named_twice_is_refused():
    with pytest.raises(ConfigError, match="twice"):
        validate(PiiConfig, {"redact": ("ip", "ip")}, where="x")


WORST = {
    "local parts": "a." * 500_000,
    "ats": "a@" * 500_000,
    "labels": "a@" + "b." * 500_000,
    "hyphens": ("a@" + "b-" * 60) * 8_000,
    "digits": "1" * 1_000_000,
    "spaced digits": "1 " * 500_000,
    "dotted digits": "1." * 500_000,
    "pluses": "+1" * 500_000,
    "plus groups": "+1 (2) " * 140_000,
    "long numbers": "4111111111111111111 " * 50_000,
    "groups of four": "4111 " * 200_000,
    "ones": "1-" * 500_000,
    "colons": "a:" * 500_000,
    "only colons": ":" * 1_000_000,
    "key heads": "sk-" * 330_000,
    "key openings": "-----BEGIN PRIVATE KEY-----" * 37_000,
    "key bodies with backslashes": ("-----BEGIN PRIVATE KEY-----" + r"A\n" * 60) * 4_800,
    "key bodies": "-----BEGIN PRIVATE KEY-----\n" + "A" * 1_000_000,
}


@pytest.mark.parametrize("name", WORST)
def test_a_megabyte_of_the_worst_takes_a_second_at_most(name):
    began = time.process_time()
    redact(WORST[name], ALL)
    assert time.process_time() - began < 1.0
