import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.data import limits
from chatwright.data.clean import CleanConfig, Drop, Keep, clean_document, quality_of, split_of, text_hash
from chatwright.data.document import Document
from chatwright.data.rules import RuleConfig
from chatwright.data.rules_base import Shape

ANY_RULES = RuleConfig(min_words=1)


def document_of(text):
    return Document(id="0", text=text, source="s", path="p", domain="d")


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["harbour", "tide", "Ã©tÃ©", "e\u0301", "\u200b", "a\r\n", "\n\n\n", "…", "stone."])).map(
        " ".join
    )
)
def test_cleaning_is_idempotent(text):
    config = CleanConfig(rules=ANY_RULES)
    once = clean_document(document_of(text), config)
    if isinstance(once, Keep):
        again = clean_document(once.document, config)
        assert isinstance(again, Keep)
        assert again.document == once.document
        assert again.changes == {}


def test_a_sound_text_is_kept_as_it_is(make_document):
    outcome = clean_document(make_document(), CleanConfig())
    assert isinstance(outcome, Keep)
    assert outcome.document.text == make_document().text
    assert outcome.document.split in {"train", "heldout"}
    assert outcome.document.quality > 0.9


def test_changes_are_named(make_document, prose):
    outcome = clean_document(make_document(prose + "\0\u202e"), CleanConfig())
    assert outcome.changes == {"control_characters": 1, "bidi_characters": 1}


def test_a_text_of_nothing_visible_is_no_text(make_document):
    assert clean_document(make_document("\n \u200b\0\n"), CleanConfig()) == Drop("no_text")


@pytest.mark.parametrize(
    ("wanted", "licence", "is_kept"),
    [
        ("CC-BY", "CC-BY-4.0", True),
        ("CC-BY", "CC-BY-3.0-US", True),
        ("CC-BY", "CC-BY-NC-ND-4.0", False),
        ("CC-BY", "CC-BY-SA-3.0", False),
        ("CC-BY", "CC-BY-", False),
        ("CC-BY-SA", "cc-by-sa-3.0", True),
        ("GPL", "GPL-3.0-or-later", True),
        ("MIT", "mit", True),
        ("apache-2.0", "Apache-2.0", True),
        ("Apache-2.0", "apache-2.0", True),
        ("MIT", "unknown", False),
    ],
)
def test_a_licence_is_wanted_by_its_name_or_by_one_of_its_versions(make_document, wanted, licence, is_kept):
    outcome = clean_document(make_document(licence=licence), CleanConfig(licences=(wanted,)))
    assert isinstance(outcome, Keep) if is_kept else outcome == Drop("licence", licence)


def test_a_text_over_the_limit_is_dropped_unread(make_document, monkeypatch):
    monkeypatch.setattr(limits, "MAX_DOCUMENT_CHARACTERS", 10)
    assert clean_document(make_document(), CleanConfig()).reason == "too_large"


def test_a_rule_gives_its_reason_and_detail(make_document):
    assert clean_document(make_document("Too short."), CleanConfig()) == Drop("too_few_words", "2 words")


def test_lower_case_and_no_punctuation_are_options(make_document, prose):
    config = CleanConfig(lowercase=True, strip_punctuation=True)
    assert clean_document(make_document(prose), config).document.text.startswith(
        "the harbour wakes before the town does boats"
    )


def test_the_hash_ignores_case_and_white_space():
    assert text_hash("Straße  und\nHaus") == text_hash("STRASSE und haus ")
    assert text_hash("ab c") != text_hash("a bc")


@settings(deadline=None)
@given(st.text(), st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_larger_share_holds_out_all_that_a_smaller_one_does(text, share, other):
    content = text_hash(text.encode(errors="replace").decode())
    small, large = sorted((share, other))
    if split_of(content, heldout_share=small) == "heldout":
        assert split_of(content, heldout_share=large) == "heldout"


def test_the_split_meets_its_share():
    splits = [split_of(text_hash(str(n)), heldout_share=0.1) for n in range(5_000)]
    assert 0.08 < splits.count("heldout") / len(splits) < 0.12


@settings(deadline=None)
@given(st.text())
def test_quality_lies_between_0_and_1(text):
    assert 0 <= quality_of(Shape(text)) <= 1


def test_prose_scores_above_a_table(prose):
    table = "\n".join(f"{n} | {n * n} | x" for n in range(60))
    assert quality_of(Shape(prose)) > quality_of(Shape(table))
