import contextlib

import pytest

from chatwright.data import limits
from chatwright.data.clean import CleanConfig
from chatwright.data.extract import EXTRACTORS, HtmlExtractor, extract_by_blocks, extract_with_trafilatura
from chatwright.data.sandbox import Unreadable

MENU = "<nav><ul><li><a href=/>Home</a></li><li><a href=/shop>Shop</a></li></ul></nav>"


@pytest.fixture
def page(prose):
    article = f"<article><h1>Harbour</h1><p>{prose}</p><p>{prose[:150]}</p></article>"
    body = f"<body>{MENU}{article}<footer>(c) us</footer></body>"
    return f"<html><head><title> The\nharbour </title></head>{body}</html>"


@pytest.mark.parametrize("function", EXTRACTORS.values(), ids=EXTRACTORS)
def test_the_main_text_and_the_title_are_found(function, page, prose):
    found = function(page)
    assert prose in found["text"]
    assert "Shop" not in found["text"]
    assert found["title"] == "The harbour"


def test_what_trafilatura_cannot_read_goes_to_resiliparse():
    assert extract_with_trafilatura("<pre>x = 1</pre>")["text"].strip() == "x = 1"


def test_a_page_without_running_text_goes_to_resiliparse():
    assert "x = 1" in extract_by_blocks("<nav><a href=/>x = 1</a></nav>")["text"]


def test_a_page_over_the_limit_is_dropped_unread(monkeypatch):
    monkeypatch.setattr(limits, "MAX_HTML_BYTES", 10)
    with HtmlExtractor(extractor="resiliparse", time_limit_s=1) as extractor, pytest.raises(Unreadable) as caught:
        extractor.extract("<p>" + "x" * 20)
    assert caught.value.reason == "too_large"


@pytest.mark.slow
def test_pages_go_through_the_child(page, prose):
    with HtmlExtractor(extractor="resiliparse", time_limit_s=20) as extractor:
        assert extractor.extract(page).title == "The harbour"
        with pytest.raises(Unreadable) as caught:
            extractor.extract("<html><body><script>x()</script></body></html>")
    assert caught.value.reason == "no_text"


@pytest.mark.slow
@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_hostile_markup_ends_in_time_and_the_next_page_works(extractor):
    with HtmlExtractor(extractor=extractor, time_limit_s=5) as made:
        for hostile in ("<div>" * 300_000, "&amp;" * 500_000, "<a<b" * 200_000):
            with contextlib.suppress(Unreadable):  # a verdict is one good end, a text the other
                made.extract(hostile)
        assert "good end" in made.extract("<html><body><p>Still a good end after all of this.</p></body></html>").text


def test_every_extractor_is_a_setting():
    choices = CleanConfig.model_fields["html_extractor"].annotation.__args__
    assert set(choices) == set(EXTRACTORS)
