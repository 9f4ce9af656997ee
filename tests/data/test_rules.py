import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.data import rules
from chatwright.data.clean import CleanConfig, Keep, clean_document
from chatwright.data.rules import RuleConfig, first_verdict
from chatwright.data.rules_base import Shape, num_words
from chatwright.data.rules_web import WebRuleConfig
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError

WORDS = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400)]
PARAGRAPHS = [" ".join(WORDS[start : start + 8]) for start in range(0, 400, 8)]


def verdict_on(text, **thresholds):
    found = first_verdict(Shape(text), RuleConfig(**thresholds))
    return found.reason if found else None


def test_prose_is_kept(prose):
    assert verdict_on(prose) is None


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("too_few_words", "Four words stand here."),
        ("replacement_characters", " ".join(WORDS[:40]) + " \ufffd\ufffd\ufffd\ufffd"),
        ("mean_word_length", " ".join(word * 8 for word in WORDS[:40])),
        ("bullet_lines", "\n".join(f"- {line}" for line in PARAGRAPHS)),
        ("ellipsis_lines", "\n".join(f"{line}..." for line in PARAGRAPHS)),
        ("symbols", " ".join(f"#{word}" for word in WORDS)),
        ("alphabetic_words", " ".join(str(n) for n in range(100, 200)) + " " + " ".join(WORDS[:60])),
        ("repeated_lines", "\n".join(PARAGRAPHS[:5] * 2 + PARAGRAPHS[:1])),
        ("repeated_line_characters", "\n".join([" ".join(WORDS)] * 2 + [f"{word} x" for word in WORDS[:200:20]])),
        ("repeated_paragraphs", "\n\n".join("\n".join(p.split()) for p in [*PARAGRAPHS[:4], *PARAGRAPHS[:4]])),
        (
            "repeated_paragraph_characters",
            "\n\n".join(["\n".join(WORDS[:150])] * 2 + [f"{word} x" for word in WORDS[380:]]),
        ),
        ("top_2gram", " ".join(f"{word} buy now" for word in WORDS[:40])),
    ],
)
def test_each_rule_drops_what_it_is_for(reason, text):
    assert verdict_on(text) == reason


def test_too_many_words_are_dropped_where_the_limit_is_set():
    assert verdict_on(" ".join(WORDS), max_words=100) == "too_many_words"


@pytest.mark.parametrize(("size", "phrase"), [(3, "one two three"), (4, "one two three four")])
def test_longer_phrases_have_limits_of_their_own(size, phrase):
    text = " ".join(f"{phrase} {word}" for word in WORDS[:60])
    others = {f"max_top_{n}gram": 1.0 for n in (2, 3, 4) if n != size}
    assert verdict_on(text, **others) == f"top_{size}gram"


@pytest.mark.parametrize(
    ("text", "reason"), [("Lorem ipsum dolor sit amet. ", "lorem_ipsum"), ("if (x) { y(); } ", "curly_bracket")]
)
def test_the_rules_of_c4_are_an_option(text, reason, prose):
    assert verdict_on(prose + text) is None
    assert verdict_on(prose + text, web=WebRuleConfig(c4=True)) == reason


def test_documentation_with_code_is_kept():
    text = "\n\n".join(
        f"{name}(text: str, *args: Callable[..., Any])\n    {PARAGRAPHS[n]}.\n\n    Returns\n    -------\n    str\n\n"
        f"    >>> {name}('x')  # doctest: +ELLIPSIS\n    ... \n    [0.1, 0.2]"
        for n, name in enumerate(WORDS[:20])
    )
    assert verdict_on(text) is None


def test_a_table_with_borders_is_kept():
    border = "+" + "-" * 40 + "+" + "-" * 40 + "+"
    assert verdict_on("\n".join(f"{border}\n| {line} | {n} |" for n, line in enumerate(PARAGRAPHS))) is None


# Prose in writing without spaces: a few words or one for `str.split`.
UNSPACED = {
    "Japanese": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で"
    "ニャーニャー泣いていた事だけは記憶している。吾輩はここで始めて人間というものを見た。",
    "Chinese": "清晨的港口比小镇醒得更早。渔船随着潮水归来，第一批买家站在码头上，双手插在口袋里，等着把鱼筐抬上岸。"
    "没有人多说话，价钱只凭点头决定。到了八点钟，石板路已经洗得干干净净。",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    "Burmese": "လူတိုင်းသည် တူညီလွတ်လပ်သောဂုဏ်သိက္ခာဖြင့်လည်းကောင်း၊ တူညီလွတ်လပ်သောအခွင့်အရေးများဖြင့်လည်းကောင်း၊ မွေးဖွားလာသူများဖြစ်သည်။",
}


@pytest.mark.parametrize("language", UNSPACED)
def test_prose_without_spaces_is_kept_as_other_prose_is(language, make_document):
    prose = UNSPACED[language]
    assert isinstance(clean_document(make_document(prose), CleanConfig()), Keep)
    assert verdict_on(f"{prose[:9]}… {prose}") is None  # one ellipsis among some eighty words


def test_a_few_letters_of_writing_without_spaces_are_too_few_words():
    assert verdict_on("春夏秋冬夜") == "too_few_words"
    assert verdict_on("夜" * 25, max_words=24) == "too_many_words"


def test_letters_without_spaces_excuse_no_long_words_of_another_script():
    assert verdict_on(" ".join(word * 8 for word in WORDS[:40]) + UNSPACED["Japanese"]) == "mean_word_length"


@pytest.mark.parametrize(
    ("text", "number"),
    [("harbour, 12 caf\u00e9s", 0), ("港とカフェ、4。", 5), ("ก้าว ๑", 4), ("ไทย฿", 3), ("한국어", 0)],
)
def test_letters_and_marks_of_writing_without_spaces_are_counted(text, number):
    assert Shape(text).unspaced == number


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text):
    verdict_on(text, min_words=0)


def test_all_bad_thresholds_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(
            RuleConfig, {"max_bullet_lines": 1.5, "max_top_3gram": -1.0, "min_words": 5, "max_words": 4}, where="x"
        )
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("text", ["#" * 1_000_000, "a..." * 250_000, "_1" * 500_000, "a" * 1_000_000, "." * 1_000_000])
def test_each_pattern_takes_linear_time_on_its_worst_case(text):
    for pattern in (rules._SYMBOL,):
        began = time.process_time()
        pattern.findall(text)
        assert time.process_time() - began < 1.0


@given(st.lists(st.sampled_from(["a", "bc", " ", "  ", "\t", "é", "\u2009", "-"]), min_size=1, max_size=12))
def test_words_of_a_line_are_counted_as_they_are_cut(pieces):
    line = "".join(pieces).strip()
    assert num_words(line) == len(line.split()) or not line
