"""The page in a real browser: what a person sees, does and never meets."""

import re
from pathlib import Path

import pytest
from echo_server import PATIENT, running, until

from chatwright.serve.settings import PageText, ServeSettings

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
HOSTILE = (
    "<script>window.hacked=1</script><img src=http://foreign.invalid/x onerror=window.hacked=1>"
    "<svg onload=window.hacked=1> [link](javascript:window.hacked=1) ![image](http://foreign.invalid/y)"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's Chromium is not installed (/usr/bin/chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def server(tmp_path):
    settings = ServeSettings(
        sampling=PATIENT, page=PageText(title="Echo", greeting="Ask away", starters=("How are you?", "What is new?"))
    )
    with running(tmp_path, settings) as started:
        yield started


@pytest.fixture
def page(browser, server):
    """The open page; at the end, nothing foreign was asked for and the console stayed clean."""
    context = browser.new_context()
    opened = context.new_page()
    opened.expected_errors = []
    requests, complaints = [], []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(server.url)
    opened.get_by_role("button", name="How are you?").wait_for()
    yield opened
    context.close()
    assert [url for url in requests if not url.startswith(server.url)] == []
    assert [text for text in complaints if not any(word in text for word in opened.expected_errors)] == []


def send(page, text):
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def answer(page, number=-1):
    return page.locator(".turn.assistant .text").nth(number)


def wait_for_end(page):
    page.locator("#send").wait_for()
    page.locator(".turn.assistant .actions").last.wait_for()


def test_a_message_is_sent_and_its_answer_shown(page, server):
    send(page, "Hello <b>there</b>")
    wait_for_end(page)

    assert answer(page).inner_text() == "You said: Hello <b>there</b>"
    assert page.locator("#status").inner_text() == "Answer: You said: Hello <b>there</b>"
    assert page.locator("#model").inner_text() == "echo-1"
    assert page.title() == "Echo"
    assert page.evaluate("document.activeElement.id") == "question"


def test_shift_enter_begins_a_line_and_sends_nothing(page):
    question = page.get_by_label("Your message")
    question.fill("one")
    question.press("Shift+Enter")
    question.type("two")
    assert question.input_value() == "one\ntwo"
    assert page.locator(".turn").count() == 0


def test_a_starter_question_is_asked_by_a_click(page):
    page.get_by_role("button", name="What is new?").click()
    wait_for_end(page)
    assert answer(page).inner_text() == "You said: What is new?"
    assert not page.locator("#welcome").is_visible()


@pytest.mark.parametrize("way", ["button", "escape"])
def test_an_answer_is_stopped_while_it_streams_and_kept(page, server, way):
    send(page, "forever")
    page.get_by_text(re.compile("word3 ")).wait_for()
    if way == "button":
        page.get_by_role("button", name="Stop the answer").click()
    else:
        page.keyboard.press("Escape")
    wait_for_end(page)

    until(lambda: server.engine.ended)
    assert server.engine.ended == ["cancelled"]
    until(lambda: list(server.store.export()))
    (entry,) = server.store.export()
    assert entry["finish"] == "cancelled"
    assert page.locator(".turn.assistant .note").inner_text() == "Stopped."
    assert page.evaluate("document.activeElement.id") == "question"


def test_while_an_answer_streams_the_live_region_stays_silent(page, server):
    send(page, "wait for it")
    page.get_by_text("Waiting").wait_for()
    assert page.locator("#status").inner_text() == "The model is answering."
    server.engine.gate.set()
    wait_for_end(page)
    assert page.locator("#status").inner_text() == "Answer: Waiting You said: wait for it"


def test_thumbs_are_stored_and_shown_pressed(page, server):
    send(page, "Hello")
    wait_for_end(page)
    page.get_by_role("button", name="Good answer").click()
    page.locator(".up[aria-pressed=true]").wait_for()
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_label("What should it have said?").fill("Good day")
    page.locator(".better").get_by_role("button", name="Send").click()
    page.get_by_text("Thank you, that helps").first.wait_for()

    (entry,) = server.store.export()
    ratings = [(rating["thumb"], rating["better_answer"]) for rating in entry["ratings"]]
    assert ratings == [(1, None), (-1, None), (-1, "Good day")]
    assert page.locator(".up").get_attribute("aria-pressed") == "false"
    assert page.locator(".down").get_attribute("aria-pressed") == "true"


def test_a_reload_keeps_the_conversation_the_thumb_and_the_draft(page):
    send(page, "Hello")
    wait_for_end(page)
    page.get_by_role("button", name="Good answer").click()
    page.locator(".up[aria-pressed=true]").wait_for()
    page.get_by_label("Your message").fill("half a thought")
    page.reload()
    page.locator(".up[aria-pressed=true]").wait_for()

    assert answer(page).inner_text() == "You said: Hello"
    assert page.get_by_label("Your message").input_value() == "half a thought"

    page.get_by_role("button", name=re.compile("New")).click()
    assert page.locator(".turn").count() == 0
    assert page.get_by_role("button", name="How are you?").is_visible()
    page.reload()
    page.get_by_role("button", name="How are you?").wait_for()
    assert page.locator(".turn").count() == 0


def test_earlier_turns_are_sent_along_until_they_no_longer_fit(page, server):
    for number in range(6):
        send(page, f"turn {number} " + "word " * 30)
        wait_for_end(page)
    page.expected_errors = ["400"]
    entries = list(server.store.export())
    assert [message["role"] for message in entries[1]["messages"]] == ["user", "assistant", "user"]
    assert len(entries) == 6
    assert "no longer fits" in page.locator(".turn.assistant .note").last.inner_text()


def test_hostile_markup_stays_text(page):
    send(page, HOSTILE)
    wait_for_end(page)

    assert answer(page).inner_text() == f"You said: {HOSTILE}"
    assert page.evaluate("window.hacked") is None
    assert page.locator(".turn .text :is(script, img, svg, a)").count() == 0
    page.reload()
    answer(page).wait_for()
    assert answer(page).inner_text() == f"You said: {HOSTILE}"
    assert page.evaluate("window.hacked") is None


def test_the_content_policy_stops_scripts_that_get_in(page):
    page.expected_errors = ["Content Security Policy", "TrustedHTML", "Trusted Type", "TrustedScript"]
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          try { script.textContent = "window.hacked = 1"; } catch {}
          document.body.append(script);
          const image = new Image();
          image.src = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
          document.body.append(image);
          try { document.body.insertAdjacentHTML("beforeend", "<b onclick='x()'>x</b>"); } catch {}
        }"""
    )
    assert page.evaluate("window.hacked") is None


def test_a_failure_is_shown_and_can_be_tried_again(page, server):
    send(page, "break")
    page.get_by_role("alert").get_by_text("The model failed while answering").wait_for()
    assert not page.get_by_role("button", name="Good answer").is_visible()  # it is not stored
    server.engine._words = lambda text, cancelled: ["mended"]
    page.get_by_role("button", name="Try again").click()
    wait_for_end(page)

    assert answer(page).inner_text() == "mended"
    assert page.locator(".turn.user").count() == 1
    assert page.get_by_role("alert").inner_text() == ""


def test_a_server_that_ends_in_the_middle_is_told_and_nothing_is_sent_twice(browser, tmp_path):
    context = browser.new_context()
    page = context.new_page()
    with running(tmp_path / "one") as first:
        port = int(first.url.rpartition(":")[2])
        page.goto(first.url)
        page.locator("#model:not(:empty)").wait_for()
        send(page, "forever")
        page.get_by_text(re.compile("word3 ")).wait_for()
        first.server.force_exit = first.server.should_exit = True
    page.get_by_role("button", name="Try again").wait_for()
    assert "Incomplete." in page.locator(".assistant .note").inner_text()
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
    with running(tmp_path / "two", port=port) as second:
        second.engine._words = lambda text, cancelled: ["back again"]
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("back again").first.wait_for()
        assert len(list(second.store.export())) == 1
    context.close()


def test_a_token_is_asked_for_by_the_browser(browser, tmp_path):
    token = "correct-horse-battery"  # noqa: S105 - a test's own
    with running(tmp_path, ServeSettings(token=token)) as server:
        context = browser.new_context(http_credentials={"username": "me", "password": token})
        page = context.new_page()
        page.goto(server.url)
        page.locator("#model:not(:empty)").wait_for()
        send(page, "Hello")
        wait_for_end(page)
        assert answer(page).inner_text() == "You said: Hello"
        context.close()
        stranger = browser.new_context()
        assert stranger.request.get(server.url).status == 401
        stranger.close()


def test_all_of_it_can_be_done_with_the_keyboard(page):
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    wait_for_end(page)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # the last action before the composer: thumb down
    page.locator(".down[aria-pressed=true]").wait_for()
    page.get_by_label("What should it have said?").wait_for()
    page.keyboard.type("Hi")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("Thank you, that helps").first.wait_for()
    assert page.evaluate("document.activeElement.classList.contains('down')")


def test_what_a_person_must_see_is_scrolled_into_view(page):
    page.set_viewport_size({"width": 320, "height": 480})
    for _ in range(2):
        send(page, "line\n" * 20)
        wait_for_end(page)
    page.get_by_role("button", name="Bad answer").last.click()
    page.locator(".better:visible").wait_for()
    assert is_in_view(page, ".better:not([hidden])")
    send(page, "break")
    page.get_by_role("button", name="Try again").wait_for()
    assert is_in_view(page, "#trouble button")


def is_in_view(page, selector):
    return page.evaluate(
        """(selector) => {
          const box = document.querySelector(selector).getBoundingClientRect();
          const room = document.getElementById("main").getBoundingClientRect();
          return box.top >= room.top && box.bottom <= room.bottom;
        }""",
        selector,
    )


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 700})
    send(page, "x" * 5000 + " \u202e سلام")
    wait_for_end(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getElementById('main').scrollWidth <= document.getElementById('main').clientWidth")
