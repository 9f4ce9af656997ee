"""The raters' page in a real browser: twenty items by clicks with the server killed between, by keyboard, at 320 px."""

import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter

import pytest
from browsing import axe, marks, needs_axe

from chatwright.feedback.ratings import Study

HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"

pytestmark = marks


class Server:
    """`chatwright rate` as a process of its own, on the same port each time."""

    def __init__(self, folder, items, *options):
        self.file = folder / "items.jsonl"
        self.file.write_text("".join(json.dumps(item) + "\n" for item in items))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.options = ["--checks", "0", "--repeats", "0", *options]
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "chatwright", "rate", self.file, "--port", self.port, *self.options]
        self.process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
        waiter = threading.Event()
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}health", timeout=5).close()  # noqa: S310
                return
            except OSError:
                waiter.wait(0.05)
        raise AssertionError("the server did not come up")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def entries(self):
        study = Study(self.file.with_suffix(".sqlite"))
        found = list(study.export())
        study.close()
        return found


def scales(count):
    return [
        {"asked": f"Question {n}? {HOSTILE}", "answers": [f"Answer {n} {HOSTILE}"], "models": ["m"]}
        for n in range(count)
    ]


def pairs(count):
    return [
        {"asked": f"Question {n}?", "answers": [f"One {n}", f"Two {n}"], "models": ["a", "b"]} for n in range(count)
    ]


@pytest.fixture
def serve(tmp_path):
    started = []

    def make(items, *options):
        server = Server(tmp_path, items, *options)
        started.append(server)
        server.start()
        return server

    yield make
    for server in started:
        server.kill()


@pytest.fixture
def page(browser):
    context = browser.new_context()
    context.set_default_timeout(60_000)
    opened = context.new_page()
    yield opened
    context.close()


def join(page, url, kind="user"):
    page.goto(url)
    page.get_by_label("Name").fill("Ada")
    page.locator(f"input[name=kind][value={kind}]").check()
    page.get_by_role("button", name="Begin").click()
    page.locator("#work").wait_for()


def click_through(page, number, score):
    page.get_by_text(f"Item {number + 1} of").wait_for()
    for dimension in ("fluency", "coherence", "relevance"):
        page.locator(f"input[name={dimension}][value='{score}']").check()
    page.get_by_role("button", name="Save and go on").click()


def test_twenty_items_are_rated_with_the_server_killed_between_and_none_is_lost_or_doubled(page, serve):
    server = serve(scales(20))
    join(page, server.url)
    for number in range(20):
        if number in (5, 12):
            page.get_by_text(f"Item {number + 1} of").wait_for()
            server.kill()
            click_through(page, number, 1 + number % 5)
            page.get_by_text("sent again by itself").wait_for()
            if number == 12:  # the browser is closed and opened again meanwhile
                server.start()
                page.reload()
            else:
                server.start()
        elif number == 8:  # stored, but the word of it never arrives: the page must send it again
            page.route("**/judge", lambda route: (route.fetch(), route.abort()), times=1)
            click_through(page, number, 1 + number % 5)
        else:
            click_through(page, number, 1 + number % 5)
    page.get_by_text("That was all").wait_for()
    entries = server.entries()
    assert Counter(entry["item"] for entry in entries) == Counter({f"item{n + 1}": 1 for n in range(20)})
    assert [entry["scores"]["fluency"] for entry in entries] == [1 + n % 5 for n in range(20)]
    assert page.evaluate("window.hacked") is None
    with_sql = Study(server.file.with_suffix(".sqlite"))
    assert with_sql.rater(page.evaluate("localStorage.getItem('chatwright-rater')")).name == "Ada"
    with_sql.close()


def test_pairs_are_judged_with_the_keyboard_alone_with_note_and_undo(page, serve):
    server = serve(pairs(4))
    page.goto(server.url)
    page.locator("#join").wait_for()
    page.keyboard.type("Grace")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # expert
    page.keyboard.press("Enter")
    for number, key in enumerate("1234"):
        page.get_by_text(f"Item {number + 1} of").wait_for()
        page.keyboard.press(key)
        if number == 3:
            page.keyboard.press("u")  # before saving: takes back the third
            page.get_by_text("taken back").wait_for()
            page.keyboard.press("3")
            page.keyboard.press("Enter")
            page.get_by_text("Item 4 of").wait_for()
            page.keyboard.press("4")
        page.keyboard.press("Enter")
    page.get_by_text("That was all").wait_for()
    entries = server.entries()
    assert [entry["rater_kind"] for entry in entries] == ["expert"] * 4
    assert sorted(entry["choice"] for entry in entries)[-2:] in (["second", "tie"], ["first", "tie"])
    assert Counter(entry["choice"] for entry in entries)["both_bad"] == 1


def test_a_note_and_a_better_answer_are_kept_and_nothing_is_saved_half(page, serve):
    server = serve(scales(1))
    join(page, server.url, kind="expert")
    page.locator("input[name=fluency][value='2']").check()
    page.get_by_role("button", name="Save and go on").click()
    page.get_by_text("Not yet answered: Coherence").wait_for()
    assert server.entries() == []
    page.locator("#more summary").click()
    page.get_by_label("Note").fill("wrong day")
    page.get_by_label("A better answer").fill("On Monday.")
    page.locator("input[name=coherence][value='3']").check()
    page.locator("input[name=relevance][value='4']").check()
    page.get_by_role("button", name="Save and go on").click()
    page.get_by_text("That was all").wait_for()
    (entry,) = server.entries()
    assert (entry["note"], entry["better"]) == ("wrong day", "On Monday.")


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("kind", ["scale", "pair"])
def test_nothing_is_wider_than_the_screen(page, serve, width, kind):
    items = scales(1) if kind == "scale" else pairs(1)
    items[0]["answers"] = ["x" * 3000 for _ in items[0]["answers"]]
    server = serve(items)
    page.set_viewport_size({"width": width, "height": 700})
    join(page, server.url)
    page.locator("#judgement input").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("kind", ["scale", "pair"])
def test_axe_finds_nothing_serious(browser, serve, scheme, width, kind):
    server = serve(scales(1) if kind == "scale" else pairs(1))
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(server.url)
    page.locator("#join:visible").wait_for()
    found = [axe(page)]
    join(page, server.url)
    page.locator("#judgement input").first.wait_for()
    for summary in page.locator("summary:visible").all():
        summary.click()
    found.append(axe(page))
    page.locator("#judgement input").first.focus()
    for dimension in ("fluency", "coherence", "relevance") if kind == "scale" else ():
        page.locator(f"input[name={dimension}][value='3']").check()
    if kind == "pair":
        page.locator("#judgement input").first.check()
    page.get_by_role("button", name="Save and go on").click()
    page.get_by_text("That was all").wait_for()
    found.append(axe(page))
    context.close()
    assert found == [[]] * 3
