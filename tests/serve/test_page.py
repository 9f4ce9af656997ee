"""The page in a real browser: what a person sees, does and never meets."""

import os
import re
from pathlib import Path

import pytest
from browsing import axe, marks, needs_axe
from echo_server import PATIENT, EchoEngine, running, until

from chatwright.serve.settings import PageText, ServeSettings

HOSTILE = (
    "<script>window.hacked=1</script><img src=http://foreign.invalid/x onerror=window.hacked=1>"
    "<svg onload=window.hacked=1> [link](javascript:window.hacked=1) ![image](http://foreign.invalid/y) "
    "[data](data:text/html,<script>window.hacked=1</script>) <math><a href=javascript:window.hacked=1>m</a></math>"
)

pytestmark = marks

LONGEST_MS = float(os.environ.get("CHATWRIGHT_LONG_TASK_MS", "5000"))  # set 100 on a machine that nobody else uses


class OtherEngine(EchoEngine):
    """A second model with other words."""

    name = "echo-2"
    digest = "f" * 64

    def _words(self, text):
        yield from ["The ", "other ", "answer"]


@pytest.fixture
def server(tmp_path):
    settings = ServeSettings(
        sampling=PATIENT, page=PageText(title="Echo", greeting="Ask away", starters=("How are you?", "What is new?"))
    )
    with running(tmp_path, settings, other=OtherEngine()) as started:
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
    """Until the page takes another question: it does so once the answer to the last is known whole."""
    page.locator(".turn.assistant .actions").last.wait_for()
    page.locator("#send").wait_for()


def button(page, name):
    return page.locator("button:visible").and_(page.get_by_role("button", name=name, exact=True))


def kept(server):
    """The one conversation that the server keeps."""
    (listed,) = server.store.history.find("")
    return server.store.history.get("", listed.id)


def test_a_message_is_sent_and_its_answer_shown(page, server):
    send(page, "Hello <b>there</b>")
    wait_for_end(page)

    assert answer(page).inner_text() == "You said: Hello <b>there</b>"
    until(lambda: page.locator("#status").inner_text() == "Answer: You said: Hello <b>there</b>")
    assert page.locator("#model").inner_text() == "echo-1"
    assert page.title() == "Hello <b>there</b> – Echo"
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
    until(lambda: page.locator("#status").inner_text() == "Answer: Waiting You said: wait for it")


def test_thumbs_are_stored_with_a_reason_and_a_better_answer(page, server):
    send(page, "Hello")
    wait_for_end(page)
    button(page, "Good answer").click()
    page.locator(".up[aria-pressed=true]").wait_for()
    page.get_by_label("Correct").check()
    page.locator(".opinion").get_by_role("button", name="Send", exact=True).click()
    page.get_by_text("Thank you, that helps").first.wait_for()
    button(page, "Bad answer").click()
    page.get_by_label("Misses the question").check()
    assert page.get_by_label("What should it have said?").input_value() == "You said: Hello"
    page.get_by_label("What should it have said?").fill("Good day")
    page.locator(".opinion").get_by_role("button", name="Send", exact=True).click()
    page.locator(".opinion").wait_for(state="hidden")

    until(lambda: len(next(server.store.export())["ratings"]) == 4)
    (entry,) = server.store.export()
    ratings = [(rating["thumb"], rating["reason"], rating["better_answer"]) for rating in entry["ratings"]]
    assert ratings == [
        (1, None, None),
        (1, "Correct", None),
        (-1, None, None),
        (-1, "Misses the question", "Good day"),
    ]
    assert page.locator(".assistant .up").get_attribute("aria-pressed") == "false"
    assert page.locator(".assistant .down").get_attribute("aria-pressed") == "true"


def test_a_corrected_answer_stands_beside_the_models_and_the_conversation_goes_on_from_it(page, server):
    send(page, "Hello")
    wait_for_end(page)
    button(page, "Bad answer").click()
    page.get_by_label("What should it have said?").fill("Good day")
    button(page, "Send and go on from it").click()
    page.get_by_text("As you wrote it.").wait_for()
    assert answer(page).inner_text() == "Good day"
    assert page.locator(".assistant .which").inner_text() == "2 of 2"
    send(page, "And now?")
    wait_for_end(page)
    last = list(server.store.export())[-1]
    assert [message["content"] for message in last["messages"]] == ["Hello", "Good day", "And now?"]


def test_a_reload_keeps_the_conversation_the_thumb_and_the_draft(page):
    send(page, "Hello")
    wait_for_end(page)
    button(page, "Good answer").click()
    page.locator(".up[aria-pressed=true]").wait_for()
    page.get_by_label("Your message").fill("half a thought")
    page.reload()
    page.locator(".up[aria-pressed=true]").wait_for()

    assert answer(page).inner_text() == "You said: Hello"
    assert page.get_by_label("Your message").input_value() == "half a thought"

    button(page, "New conversation").click()
    assert page.locator(".turn").count() == 0
    assert page.get_by_role("button", name="How are you?").is_visible()
    page.go_back()
    page.locator(".turn.assistant").wait_for()
    assert answer(page).inner_text() == "You said: Hello"


def test_conversations_are_listed_found_renamed_exported_and_deleted(page, server):
    send(page, "About kettles")
    wait_for_end(page)
    button(page, "New conversation").click()
    send(page, "About gardens")
    wait_for_end(page)
    page.locator("#conversations a").nth(1).wait_for()
    assert page.locator("#conversations a").all_inner_texts() == ["About gardens", "About kettles"]

    page.get_by_label("Find in your conversations").fill("KETTLE")
    page.get_by_text("1 conversations found.").wait_for(state="attached")
    page.locator("#conversations a").click()
    page.locator("#about", has_text="About kettles").wait_for()
    assert answer(page).inner_text() == "You said: About kettles"

    in_menu(page, "Rename")
    page.get_by_role("textbox", name="Name").fill("Water <b>boilers</b>")
    page.get_by_role("textbox", name="Name").press("Enter")
    page.locator("#about", has_text="Water <b>boilers</b>").wait_for()

    for name, part in (("Markdown", "## Model\n\nYou said: About kettles\n"), ("JSON", '"role": "assistant"')):
        with page.expect_download() as download:
            in_menu(page, f"Export as {name}", role="link")
        assert part in Path(download.value.path()).read_text()

    in_menu(page, "Delete")
    button(page, "Keep").click()
    assert answer(page).is_visible()
    in_menu(page, "Delete")
    button(page, "Delete").click()
    page.get_by_text("The conversation is deleted.").wait_for(state="attached")
    assert page.locator(".turn").count() == 0
    assert kept(server).title == "About gardens"
    assert len(list(server.store.export())) == 1


def in_menu(page, name, *, role="button"):
    button(page, "What to do with this conversation").click()
    page.locator("#actions-menu").get_by_role(role, name=name).click()


def test_an_answer_again_and_an_edited_question_are_branches(page, server):
    send(page, "one")
    wait_for_end(page)
    button(page, "Answer again").click()
    page.locator(".assistant .which", has_text="2 of 2").wait_for()
    wait_for_end(page)
    page.locator(".turn.user").hover()
    button(page, "Edit this message").click()
    page.locator(".rewrite textarea:visible").fill("two")
    page.locator(".rewrite:visible").get_by_role("button", name="Send").click()
    page.get_by_text("You said: two").first.wait_for()
    wait_for_end(page)

    assert page.locator(".user .which").inner_text() == "2 of 2"
    page.locator(".user .before").click()
    page.get_by_text("You said: one").first.wait_for()
    assert page.locator(".assistant .which").inner_text() == "2 of 2"
    tree = kept(server)
    assert [(turn.role, turn.content) for turn in tree.turns] == [
        ("user", "one"),
        ("assistant", "You said: one"),
        ("assistant", "You said: one"),
        ("user", "two"),
        ("assistant", "You said: two"),
    ]
    page.reload()
    page.locator(".user .which", has_text="1 of 2").wait_for()


def test_arrow_up_edits_the_last_message(page):
    send(page, "wrng")
    wait_for_end(page)
    page.get_by_label("Your message").press("ArrowUp")
    page.locator(".rewrite textarea:visible").fill("right")
    page.keyboard.press("Control+Enter")
    page.get_by_text("You said: right").first.wait_for()


def test_settings_and_the_system_prompt_belong_to_the_conversation(page, server):
    button(page, "Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Longest answer").fill("3")
    page.get_by_label("Temperature").fill("0.25")
    button(page, "Save").click()
    send(page, "Tell me everything")
    wait_for_end(page)
    page.locator(".assistant .note", has_text="longest length").wait_for()
    (entry,) = server.store.export()
    assert entry["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (entry["sampling"]["max_tokens"], entry["sampling"]["temperature"]) == (3, 0.25)

    button(page, "Settings").click()
    page.get_by_label("Longest answer").fill("9")
    page.locator("#set-model").select_option("echo-2")
    button(page, "Save").click()
    page.locator("#model", has_text="echo-2").wait_for()
    send(page, "again")
    wait_for_end(page)
    assert answer(page).inner_text() == "The other answer"


def test_a_person_says_whether_models_may_learn_from_them_and_can_be_forgotten(page, server):
    send(page, "Hello")
    wait_for_end(page)
    button(page, "Settings").click()
    page.locator("#consent:checked").wait_for()  # hidden and empty until the server has told how things stand
    page.get_by_label("Models may learn from it").uncheck()
    page.get_by_text("Models will not learn from it.").wait_for()
    assert [entry["consent"] for entry in server.store.export()] == [False]
    with page.expect_download() as download:
        page.get_by_role("link", name="Download your answers").click()
    assert "You said: Hello" in Path(download.value.path()).read_text()
    button(page, "Delete everything of mine").click()
    assert list(server.store.export())
    page.locator("#forget-me", has_text="Press again").click()
    page.get_by_role("button", name="How are you?").wait_for()
    assert list(server.store.export()) == []
    assert server.store.history.find("") == []


def test_colours_follow_the_choice_and_are_kept(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    button(page, "Settings").click()
    page.get_by_label("Colours").select_option("dark")
    page.keyboard.press("Escape")
    assert page.evaluate(ground) != light
    page.reload()
    page.get_by_role("button", name="How are you?").wait_for()
    assert page.evaluate(ground) != light


@pytest.mark.parametrize(("pressed", "stored"), [("A is better", "first"), ("Both are bad", "both_bad")])
def test_two_models_are_compared_blind_and_told_after_the_choice(page, server, pressed, stored):
    told = []
    is_tree = re.compile(r"/v1/conversations/[0-9a-f]{32}$")
    page.on("requestfinished", lambda request: told.append(request) if is_tree.search(request.url) else None)
    button(page, "Compare two models, blind").click()
    send(page, "Hello")
    page.locator(".verdict").wait_for()
    assert sorted(page.locator(".sides .text").all_inner_texts()) == ["The other answer", "You said: Hello"]
    assert told
    assert not any("echo-2" in request.response().text() for request in told)
    assert "echo-" not in page.locator("#turns").inner_text()

    page.get_by_label("Why?").fill("clearer")
    button(page, pressed).click()
    page.locator(".outcome").wait_for()
    left = page.locator(".sides h2").first.inner_text()
    words = page.locator(".sides .text").first.inner_text()
    assert left == ("Answer A: echo-2" if words == "The other answer" else "Answer A: echo-1")
    first = next(entry for entry in server.store.export() if entry["answer"] == words)
    (choice,) = first["choices"]
    assert (choice["choice"], choice["shown"], choice["reason"]) == (
        {"first": "won"}.get(stored, stored),
        "first",
        "clearer",
    )
    page.reload()
    page.locator(".assistant .which", has_text="of 2").wait_for()
    assert answer(page).inner_text() == words


def test_an_undecided_pair_is_shown_again_after_a_reload(page, server):
    button(page, "Compare two models, blind").click()
    send(page, "Hello")
    page.locator(".verdict").wait_for()
    page.reload()
    page.locator(".verdict").wait_for()
    assert page.locator(".sides .text").count() == 2
    button(page, "Both are equally good").click()
    page.locator(".outcome").wait_for()


def test_token_probabilities_are_shown_on_demand_and_read_by_keyboard(page):
    send(page, "Hello")
    wait_for_end(page)
    button(page, "Token probabilities").click()
    page.locator(".probabilities").wait_for()
    assert page.locator(".tokens button").count() > 2
    assert page.evaluate("document.activeElement.parentElement.className") == "tokens"
    page.keyboard.press("ArrowRight")
    assert page.locator(".tokens button").nth(1).get_attribute("aria-pressed") == "true"
    assert page.locator(".alternatives li").count() == 5
    assert "60.7 %" in page.locator(".alternatives").inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".probabilities").count() == 0
    assert page.evaluate("document.activeElement.classList.contains('scores')")


def test_earlier_turns_are_sent_along_until_they_no_longer_fit(page, server):
    for number in range(6):
        send(page, f"turn {number} " + "word " * 30)
        wait_for_end(page)
    entries = list(server.store.export())
    assert [message["role"] for message in entries[1]["messages"]] == ["user", "assistant", "user"]
    assert len(entries) == 6
    assert len(entries[5]["messages"]) < 11
    assert page.locator("#omitted").is_visible()


def test_the_next_question_waits_until_the_answer_before_it_is_known(page, server):
    page.route(
        "**/v1/conversations/*",
        lambda route: None if route.request.method == "GET" else route.continue_(),
    )
    with page.expect_request(lambda request: request.method == "GET" and "/v1/conversations/" in request.url):
        send(page, "first")
    page.locator(".turn.assistant .actions").last.wait_for()
    send(page, "at once")  # while the page still learns how the answer ended
    assert not page.locator("#send").is_visible()
    page.unroute("**/v1/conversations/*")  # lets go on what was held
    wait_for_end(page)
    send(page, "second")
    wait_for_end(page)
    assert [turn.role for turn in kept(server).turns] == ["user", "assistant", "user", "assistant"]
    assert kept(server).turns[2].parent == kept(server).turns[1].id


def test_hostile_markup_stays_text(page):
    send(page, HOSTILE)
    wait_for_end(page)

    assert answer(page).inner_text() == f"You said: {HOSTILE}"
    assert page.evaluate("window.hacked") is None
    assert page.locator(".turn .text :is(script, img, svg)").count() == 0
    links = page.locator(".turn .text a").evaluate_all("links => links.map((link) => link.protocol)")
    assert set(links) <= {"http:", "https:"}
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
    assert page.locator(".up:visible").count() == 0  # it is not stored
    server.engine._words = lambda text: ["mended"]
    button(page, "Try again").click()
    wait_for_end(page)

    assert answer(page).inner_text() == "mended"
    assert page.locator(".turn.user").count() == 1
    assert page.get_by_role("alert").first.inner_text() == ""


def test_a_server_that_dies_in_the_middle_loses_no_question_and_sends_nothing_twice(browser, tmp_path):
    context = browser.new_context()
    page = context.new_page()
    with running(tmp_path) as first:
        port = int(first.url.rpartition(":")[2])
        page.goto(first.url)
        page.locator("#model:not(:empty)").wait_for()
        send(page, "forever")
        page.get_by_text(re.compile("word3 ")).wait_for()
        first.server.force_exit = first.server.should_exit = True
    page.get_by_role("button", name="Try again").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
    with running(tmp_path, port=port) as second:
        second.engine._words = lambda text: ["back again"]
        page.reload()
        page.get_by_role("button", name="Answer again").wait_for()
        assert page.locator(".turn.user .text").inner_text() == "forever"
        assert page.locator(".turn.assistant .note").inner_text() in (
            "Stopped.",
            "Incomplete: the server ended while writing.",
        )
        page.get_by_role("button", name="Answer again").click()
        page.get_by_text("back again").first.wait_for()
        questions = [turn for turn in kept(second).turns if turn.role == "user"]
        assert [turn.content for turn in questions] == ["forever"]
    context.close()


def test_a_question_that_did_not_arrive_goes_back_to_where_it_was_written(page, server):
    page.expected_errors = ["ERR_FAILED", "Failed to load"]
    page.route("**/v1/conversations", lambda route: route.abort())
    send(page, "important words")
    page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
    assert page.get_by_label("Your message").input_value() == "important words"
    page.unroute("**/v1/conversations")
    button(page, "Try again").click()
    wait_for_end(page)
    assert answer(page).inner_text() == "You said: important words"


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
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # before the composer: probabilities, then thumb down
    page.locator(".down[aria-pressed=true]").wait_for()
    page.locator(".opinion:visible").wait_for()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("Hi")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Thank you, that helps").first.wait_for()
    assert page.evaluate("document.activeElement.classList.contains('down')")
    page.keyboard.press("Alt+n")
    assert page.locator(".turn").count() == 0
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.id") == "find"


def test_the_list_is_a_drawer_on_a_phone(page):
    page.set_viewport_size({"width": 320, "height": 640})
    send(page, "Hello")
    wait_for_end(page)
    assert not page.locator("#side").is_visible()
    button(page, "Show your conversations").click()
    page.locator("#conversations a").wait_for()
    assert page.evaluate("document.activeElement.id") == "hide"
    page.keyboard.press("Escape")
    page.locator("#side").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "menu"


def test_what_a_person_must_see_is_scrolled_into_view(page):
    page.set_viewport_size({"width": 320, "height": 600})
    for _ in range(2):
        send(page, "line\n" * 20)
        wait_for_end(page)
    button(page, "Bad answer").last.click()
    page.locator(".opinion:visible").wait_for()
    assert is_in_view(page, ".opinion:not([hidden]) legend")
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


MARKDOWN = """# Title

Some **bold**, *slanted* and `code <b>` with [a link](https://example.org/x) and [a trap](javascript:alert(1)).

- one
  - inner
- two

| a | b |
|---|--:|
| 1 | **2** |

```python
print("<script>window.hacked=1</script>")
```

> said

![image](http://foreign.invalid/y)
"""
LIVELY = (
    MARKDOWN
    + """
Families 👩‍👩‍👧‍👦 and flags 🇩🇪🇫🇷, from left to \u202eright\u202c and سلام دنیا, one\u200bzero width.
```
after a line without a blank one
```
and on with text
- a list
| a | b |
|---|---|
| 1 | 2 |
"""
)


def test_markdown_is_shown_as_elements_and_traps_as_text(page, server):
    server.engine._words = lambda text: MARKDOWN.splitlines(keepends=True)
    send(page, "Show me")
    wait_for_end(page)
    text = page.locator(".assistant .text")
    assert text.locator("h3").inner_text() == "Title"
    assert text.locator("strong").first.inner_text() == "bold"
    assert text.locator("p code").inner_text() == "code <b>"
    assert text.locator("li li").inner_text() == "inner"
    assert text.locator("td.end strong").inner_text() == "2"
    assert text.locator("pre").inner_text() == 'print("<script>window.hacked=1</script>")'
    assert text.locator("blockquote").inner_text() == "said"
    assert text.locator("a").evaluate_all("links => links.map(link => link.href)") == ["https://example.org/x"]
    assert text.locator(":is(img, script, iframe)").count() == 0
    assert "![image](http://foreign.invalid/y)" in text.inner_text()
    assert page.evaluate("window.hacked") is None


def test_markdown_drawn_in_pieces_equals_markdown_drawn_at_once(page):
    differing = page.evaluate(
        """async (source) => {
          const { Markdown } = await import("/static/markdown.js");
          const draw = (size) => {
            const box = document.createElement("div");
            const view = new Markdown(box);
            for (let at = 0; at < source.length; at += size) view.append(source.slice(at, at + size));
            return box.innerHTML;
          };
          const whole = draw(source.length);
          return [1, 2, 3, 7, 50].filter((size) => draw(size) !== whole);
        }""",
        LIVELY,
    )
    assert differing == []


LONG = {
    "table": ("| number | square |\n|---|--:|\n", "| {0} | **{0}** |\n", "table", "tbody tr", 400),
    "list": ("", "- item {0} with `code`\n  - inner {0}\n", "ul ul", "ul > li > ul > li", 300),
    "code": ("So:\n```python\n", "print({0})  # *a comment*\n", "em", "pre code", None),
}


@pytest.mark.parametrize("kind", LONG)
def test_a_long_block_stays_what_it_is(page, kind):
    head, line, element, counted, count = LONG[kind]
    source = head + "".join(line.format(number) for number in range(count or 400))
    found = page.evaluate(
        """async ([source, element, counted]) => {
          const { Markdown } = await import("/static/markdown.js");
          const box = document.createElement("div");
          const view = new Markdown(box);
          for (let at = 0; at < source.length; at += 37) view.append(source.slice(at, at + 37));
          return [box.querySelectorAll(element).length, box.querySelectorAll(counted).length, box.textContent.length,
            box.textContent.includes("|"), [...box.querySelectorAll("pre")].map((pre) => pre.textContent).join("")];
        }""",
        [source, element, counted],
    )
    if kind == "table":
        assert found[0] > 1  # in parts, each with its head
        assert (found[1], found[3]) == (count, False)
    elif kind == "list":
        assert found[1] == count
    else:
        assert found[0] == 0
        assert found[4].rstrip("\n") == source.partition("```python\n")[2].rstrip("\n")


WORST = {
    "nested quotes": "> " * 50_000,
    "open brackets": "[" * 100_000,
    "stars": "*a " * 30_000,
    "underscores": "_a_b" * 20_000,
    "backticks": "".join("`" * (number % 300) + " " for number in range(900)),
    "pipes": "|" * 100_000 + "\n" + "|-" * 50_000,
    "links": "[a](" * 25_000,
    "addresses": "https://" * 12_000,
    "lists": "\n".join(" " * (number % 12) + "- a" for number in range(20_000)),
    "one word": "x" * 200_000,
    "fence without end": "```\n" + "line\n" * 30_000,
}


@pytest.mark.parametrize("name", WORST)
def test_hostile_markdown_is_drawn_in_time_linear_in_its_length(page, name):
    slowest = page.evaluate(
        """async (source) => {
          const { Markdown } = await import("/static/markdown.js");
          const view = new Markdown(document.createElement("div"));
          let slowest = 0;
          for (let at = 0; at < source.length; at += 24000) {
            const began = performance.now();
            view.append(source.slice(at, at + 24000));
            slowest = Math.max(slowest, performance.now() - began);
          }
          return slowest;
        }""",
        WORST[name],
    )
    assert slowest < LONGEST_MS


class FloodEngine(EchoEngine):
    """A megabyte as fast as it can."""

    context_length = 10_000_000

    def _words(self, text):
        line = "Some **bold** words, `code` and a list:\n\n- one\n- two\n\n"
        if "code" in text:
            line = "a line of code that is neither short nor long\n"
            yield "```\n"
        piece = line * (2000 // len(line)) if "word" not in text else "x" * 2000
        for _ in range(1_000_000 // len(piece)):
            yield piece


@pytest.mark.parametrize("kind", ["markdown", "code", "word"])
def test_a_megabyte_of_streamed_text_leaves_the_page_responsive(browser, tmp_path, kind):
    with running(tmp_path, ServeSettings(sampling=PATIENT), engine=FloodEngine()) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.locator("#model:not(:empty)").wait_for()
        page.evaluate(
            """() => {
              window.tasks = [];
              new PerformanceObserver((list) => list.getEntries().forEach((entry) => window.tasks.push(entry.duration)))
                .observe({ type: "longtask" });
            }"""
        )
        send(page, kind)
        page.locator("#send").wait_for(timeout=120_000)
        page.locator(".turn.assistant .actions:visible").wait_for(timeout=120_000)
        durations = page.evaluate("window.tasks")
        length = page.evaluate("document.querySelector('.assistant .text').textContent.length")
        context.close()
    assert length > 700_000
    print(f"{kind}: {len(durations)} long tasks, the longest {max(durations, default=0):.0f} ms")
    assert max(durations, default=0) < LONGEST_MS


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1440])
def test_axe_finds_nothing_serious(browser, server, scheme, width):
    server.engine._words = lambda text: MARKDOWN.splitlines(keepends=True)
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(server.url)
    page.get_by_role("button", name="How are you?").wait_for()
    found = [axe(page)]
    send(page, "Show me")
    wait_for_end(page)
    button(page, "Token probabilities").click()
    page.locator(".probabilities").wait_for()
    button(page, "Bad answer").click()
    page.locator(".opinion:visible").wait_for()
    found.append(axe(page))
    button(page, "Compare two models, blind").click()
    send(page, "Compare")
    page.locator(".verdict").wait_for()
    found.append(axe(page))
    button(page, "Settings").click()
    found.append(axe(page))
    context.close()
    assert found == [[]] * 4
