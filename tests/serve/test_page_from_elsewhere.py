"""The page where it should not be, or no longer as it was: framed, asked from elsewhere, offline, in two tabs, with an old token."""

import contextlib
import http.server
import threading

import pytest
from browsing import marks
from echo_server import PATIENT, running, until

from chatwright.serve.settings import ServeSettings

pytestmark = marks
TOKEN = "correct-horse-battery"  # noqa: S105 - a test's own
NAMELESS = {"username": "me", "password": TOKEN}


@contextlib.contextmanager
def foreign_site(content):
    """A site of somebody else, on another port and so of another origin."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{site.server_address[1]}/"
        site.shutdown()


@pytest.fixture
def server(tmp_path):
    with running(tmp_path, ServeSettings(sampling=PATIENT)) as started:
        yield started


@pytest.fixture
def context(browser):
    opened = browser.new_context()
    yield opened
    opened.close()


def opened(context, server):
    page = context.new_page()
    page.goto(server.url)
    page.locator("#model:not(:empty)").wait_for()
    return page


def send(page, text):
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def wait_for_end(page):
    page.locator(".turn.assistant .actions").last.wait_for()
    page.locator("#send").wait_for()


def test_no_other_page_can_show_it_in_a_frame(context, server):
    with foreign_site(f"<iframe src='{server.url}' width=600 height=400></iframe>") as site:
        page = context.new_page()
        with page.expect_response(f"{server.url}/"):
            page.goto(site)
        framed = next(frame for frame in page.frames if frame != page.main_frame)
        until(lambda: "chrome-error" in framed.url)
        assert framed.locator("#question").count() == 0


@pytest.mark.parametrize("mode", ["cors", "no-cors"])
def test_no_other_page_can_ask_read_or_delete(context, server, mode):
    send(opened(context, server), "mine")
    until(lambda: server.store.history.find(""))
    with foreign_site("<p>elsewhere</p>") as site:
        page = context.new_page()
        page.goto(site)
        found = page.evaluate(
            """async ([url, mode]) => {
              const tried = [];
              for (const [path, method] of [["v1/conversations", "GET"], ["v1/me", "DELETE"], ["v1/feedback", "POST"]]) {
                if (mode === "no-cors" && method === "DELETE") continue; // browsers do not send it so
                const body = method === "POST" ? "{}" : undefined;
                try {
                  const answer = await fetch(url + "/" + path, { method, mode, body, credentials: "include" });
                  tried.push(answer.type + (await answer.text()));
                } catch (error) { tried.push(error.name); }
              }
              return tried;
            }""",
            [server.url, mode],
        )
    assert set(found) <= {"TypeError", "opaque"}
    assert len(server.store.history.find("")) == 1


def test_without_the_net_the_question_goes_back_and_with_it_all_goes_on(context, server):
    page = opened(context, server)
    context.set_offline(True)
    send(page, "important words")
    page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
    assert page.get_by_label("Your message").input_value() == "important words"
    context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    wait_for_end(page)
    assert page.locator(".turn.assistant .text").inner_text() == "You said: important words"
    assert page.locator(".turn.user").count() == 1


def test_a_token_that_is_no_longer_good_is_told_and_the_question_kept(browser, tmp_path):
    with running(tmp_path, ServeSettings(token=TOKEN)) as server:
        context = browser.new_context(http_credentials=NAMELESS)
        page = opened(context, server)
        page.route("**/v1/conversations", lambda route: route.fulfill(status=401, json=REFUSED))
        send(page, "important words")
        page.get_by_role("alert").get_by_text("A valid token is needed").wait_for()
        assert page.get_by_label("Your message").input_value() == "important words"
        context.close()


REFUSED = {
    "error": {
        "message": "a valid token is needed",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
}


def test_what_another_tab_did_is_seen_when_one_comes_back(context, server):
    first = opened(context, server)
    send(first, "one")
    wait_for_end(first)
    second = opened(context, server)
    second.goto(first.url)
    second.locator(".turn.assistant .actions").wait_for()
    send(second, "two")
    second.locator(".turn.assistant").nth(1).wait_for()
    wait_for_end(second)
    first.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # headless pages are always visible
    first.locator(".turn.assistant").nth(1).wait_for()
    texts = [page.locator(".turn .text").all_inner_texts() for page in (first, second)]
    assert texts[0] == texts[1] == ["one", "You said: one", "two", "You said: two"]


def test_two_tabs_that_ask_at_once_lose_nothing(context, server):
    first = opened(context, server)
    send(first, "begin")
    wait_for_end(first)
    second = context.new_page()
    second.goto(first.url)
    second.locator(".turn.assistant .actions").wait_for()
    send(first, "from the first")
    send(second, "from the second")
    for page in (first, second):
        wait_for_end(page)
    (listed,) = server.store.history.find("")
    turns = server.store.history.get("", listed.id).turns
    said = {turn.content for turn in turns}
    assert {"from the first", "from the second", "You said: from the first", "You said: from the second"} <= said


def test_a_conversation_that_comes_after_its_reader_went_on_is_not_shown(context, server):
    page = opened(context, server)
    send(page, "one")
    wait_for_end(page)
    first = page.url.partition("#")[2]
    page.get_by_role("button", name="New conversation").click()
    send(page, "two")
    wait_for_end(page)
    held = []

    def hold(route):
        held.append(route)

    page.route(f"**/v1/conversations/{first}", hold)
    page.go_back()
    page.go_back()
    until(lambda: page.wait_for_timeout(10) or held)
    page.go_forward()
    for route in held:
        with page.expect_response(route.request.url):
            route.continue_()
    page.wait_for_timeout(200)
    assert page.locator(".turn").count() == 0
    page.go_forward()
    page.locator(".turn.user .text", has_text="two").wait_for()


def test_the_back_button_goes_back_to_the_conversation_before(context, server):
    page = opened(context, server)
    send(page, "one")
    wait_for_end(page)
    page.get_by_role("button", name="New conversation").click()
    send(page, "two")
    wait_for_end(page)
    page.go_back()
    page.go_back()
    page.locator(".turn.user .text", has_text="one").wait_for()
    assert page.locator(".turn.assistant .text").all_inner_texts() == ["You said: one"]
    page.go_forward()
    page.go_forward()
    page.locator(".turn.user .text", has_text="two").wait_for()
