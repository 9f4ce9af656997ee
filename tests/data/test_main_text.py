import re

import pytest

from chatwright.data.main_text import main_text

FIRST = (
    "The harbour was built in 1842, when the old quay had become too small. Ships came from far, and stayed for weeks."
)
SECOND = (
    "After the war it was closed, then filled with sand. What is left of it, a wall and two rings, stands by the road."
)
THIRD = (
    "Visitors may walk there, on weekdays until six, and look at the rings. The wall is fenced in, for safety's sake."
)
MENU = "<ul class='main-menu'><li><a href=/>Home</a></li><li><a href=/shop>Shop</a></li></ul>"


def page(body, head="<title>Harbour</title>"):
    return f"<html><head>{head}</head><body>{MENU}{body}</body></html>"


def paragraphs(*texts):
    return "".join(f"<p>{text}</p>" for text in texts)


def text_of(body):
    return main_text(page(body))[0]


def test_paragraphs_are_kept_in_order_and_parted_by_empty_lines():
    found, title = main_text(page(f"<article>{paragraphs(FIRST, SECOND, THIRD)}</article>"))
    assert (found, title) == ("\n\n".join([FIRST, SECOND, THIRD]), "Harbour")


@pytest.mark.parametrize("mark", ["comments", "related-posts", "sidebar", "newsletter_box", "author-bio", "footer"])
def test_an_element_that_says_it_is_something_else_is_left_out(mark):
    other = f"<div class='{mark}'><p>Nothing of this, though it is long enough for a text, is wanted here.</p></div>"
    assert text_of(f"<div>{paragraphs(FIRST, SECOND, THIRD)}{other}</div>") == "\n\n".join([FIRST, SECOND, THIRD])


@pytest.mark.parametrize("mark", ["has-sidebar", "page-comments-open", "widget"])
def test_a_mark_on_what_holds_the_article_is_no_reason(mark):
    assert FIRST in text_of(f"<div class='{mark}'>{paragraphs(FIRST, SECOND, THIRD)}</div>")


def test_a_word_is_a_mark_only_between_hyphens():
    inner = f"<div class='shadow-heading'><p>{SECOND}</p></div>"  # "ad" stands in both
    assert SECOND in text_of(f"<article><p>{FIRST}</p>{inner}<p>{THIRD}</p></article>")


def test_the_introduction_between_title_and_article_is_kept():
    header = f"<header><h1>Harbour</h1><p>{FIRST}</p></header>"
    article = f"<div class='article-body'>{paragraphs(SECOND, THIRD)}</div>"
    assert text_of(f"<main>{header}{article}</main>") == "\n\n".join([FIRST, SECOND, THIRD])


def test_what_stands_before_the_title_is_no_introduction():
    article = f"<h1>Harbour</h1><div class='article-body'>{paragraphs(SECOND, THIRD)}</div>"
    assert FIRST not in text_of(f"<main><p>{FIRST}</p>{article}</main>")


def test_a_closing_line_near_the_end_ends_the_text():
    closing = "<h3>Related articles</h3><p>Lighthouses of the north, told by those who kept them.</p>"
    assert text_of(f"<article>{paragraphs(FIRST, SECOND, THIRD)}{closing}</article>").endswith(THIRD)


def test_a_closing_line_early_is_a_heading_of_the_text():
    body = f"<p>{FIRST}</p><h3>Related quays</h3>{paragraphs(SECOND, THIRD)}"
    assert "Related quays" in text_of(f"<article>{body}</article>")


def test_lists_of_links_are_menus_and_lists_of_words_are_text():
    links = "<ul>" + "".join(f"<li><a href=/{n}>Quay number {n}</a></li>" for n in range(5)) + "</ul>"
    words = "<ul><li>a wall</li><li>two rings</li></ul>"
    found = text_of(f"<article>{paragraphs(FIRST, SECOND)}{words}{links}<p>{THIRD}</p></article>")
    assert "- a wall\n- two rings" in found
    assert "Quay number" not in found


def test_rows_of_a_table_keep_their_cells_together():
    table = "<table><tr><th>Year</th><th>Ships</th></tr><tr><td>1842</td><td>17</td></tr></table>"
    assert "Year | Ships\n1842 | 17" in text_of(f"<article>{paragraphs(FIRST, SECOND)}{table}<p>{THIRD}</p></article>")


def test_code_keeps_its_lines_and_indents():
    code = "<pre>def harbour():\n    return 1842</pre>"
    assert "def harbour():\n    return 1842" in text_of(
        f"<article>{paragraphs(FIRST)}{code}{paragraphs(SECOND)}</article>"
    )


def test_line_breaks_are_kept_and_other_white_space_is_not():
    assert text_of(f"<article><p>{FIRST}<br>A  new\n line</p><p>{SECOND}</p></article>").startswith(
        f"{FIRST}\nA new line"
    )


def test_words_of_inline_elements_are_not_parted():
    assert "harbour's rings" in text_of(f"<article><p>The <b>har</b>bour<i>'s</i> rings. {FIRST}</p></article>")


def test_scripts_styles_and_hidden_elements_are_no_text():
    inner = "<script>let x = 1</script><style>p {}</style><p style='display: none'>Not to be seen, by anyone.</p>"
    assert text_of(f"<article>{paragraphs(FIRST, SECOND)}{inner}</article>") == f"{FIRST}\n\n{SECOND}"


@pytest.mark.parametrize("html", ["", " ", "<!-- -->", "<html></html>", "plain words"])
def test_next_to_nothing_gives_next_to_nothing(html):
    assert main_text(html)[0] in {"", "plain words"}


@pytest.mark.parametrize("tag", ["div", "b", "ul><li"])
def test_what_lies_too_deep_to_walk_is_read_all_the_same(tag):
    names = re.findall(r"\w+", tag)
    deep = f"<{tag}>" * 5_000 + FIRST + "".join(f"</{name}>" for name in reversed(names)) * 5_000
    assert isinstance(main_text(f"<body><p>{SECOND}</p>{deep}</body>")[0], str)
