"""The page when a person does something else while an answer is on its way, or goes back to what stands above."""

import pytest
from browsing import marks
from echo_server import PATIENT, running, until
from test_deleted_while_written import HeldEngine
from test_page import OtherEngine, answer, button, kept, send, wait_for_end

from chatwright.serve.settings import ServeSettings

pytestmark = marks


@pytest.fixture
def server(tmp_path):
    with running(tmp_path, ServeSettings(sampling=PATIENT), engine=HeldEngine(), other=OtherEngine()) as started:
        yield started


@pytest.fixture
def page(browser, server):
    context = browser.new_context()
    opened = context.new_page()
    complaints = []
    opened.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(server.url)
    opened.locator("#model:not(:empty)").wait_for()
    yield opened
    context.close()
    assert complaints == []


def first_turn_while_a_second_is_answered(page, role):
    send(page, "one")
    wait_for_end(page)
    send(page, "wait")
    page.get_by_text("Waiting").wait_for()
    turn = page.locator(f".turn.{role}").first
    turn.hover()
    return turn


def test_a_conversation_begun_anew_before_the_first_word_is_empty_and_answers(page, server):
    send(page, "hold")
    page.locator(".turn.assistant.writing").wait_for()
    assert server.engine.begun.acquire(timeout=20)
    page.locator("#new").click()
    page.locator("#send").wait_for()  # the answer before has ended on the page
    assert page.locator("#trouble").inner_text() == ""
    assert page.locator(".turn").count() == 0
    send(page, "Hello")
    wait_for_end(page)
    assert answer(page).inner_text() == "You said: Hello"


def test_that_the_beginning_no_longer_fits_is_said_of_its_own_conversation_only(page):
    send(page, "short")
    wait_for_end(page)
    page.locator("#new").click()
    for number in range(3):
        send(page, f"turn {number} " + "word " * 35)
        wait_for_end(page)
    assert page.locator("#omitted").is_visible()
    page.locator("#new").click()
    assert not page.locator("#omitted").is_visible()
    page.go_back()
    page.locator(".turn.assistant").first.wait_for()
    send(page, "again")
    wait_for_end(page)
    assert page.locator("#omitted").is_visible()
    page.locator("#conversations a", has_text="short").click()
    page.locator("#about", has_text="short").wait_for()
    assert not page.locator("#omitted").is_visible()


def test_an_earlier_pair_that_is_decided_late_leaves_the_person_where_they_are(page, server):
    compare = page.get_by_role("button", name="Compare two models, blind")
    compare.click()
    send(page, "one")
    page.locator(".verdict").wait_for()
    wait_for_end(page)
    compare.click()
    send(page, "two")
    wait_for_end(page)
    button(page, "B is better").click()
    page.locator(".outcome").wait_for()
    until(lambda: any(entry["choices"] for entry in server.store.export()))
    with page.expect_response("**/answers"):
        send(page, "three")
    wait_for_end(page)
    whole = kept(server)
    assert [turn.content for turn in whole.path(whole.leaf) if turn.role == "user"] == ["one", "two", "three"]


def test_an_edited_question_sent_while_an_answer_is_written_stays_where_it_was_written(page, server):
    first = first_turn_while_a_second_is_answered(page, "user")
    first.locator(".edit").click()
    first.locator(".rewrite textarea").fill("two")
    first.locator(".rewrite").get_by_role("button", name="Send").click()
    first.get_by_text("Not sent: an answer is being written.").wait_for()
    assert page.locator("#status").inner_text() == "Not sent: an answer is being written."
    assert first.locator(".rewrite").is_visible()
    assert first.locator(".rewrite textarea").input_value() == "two"

    server.engine.gate.set()
    page.locator("#send").wait_for()
    first.locator(".rewrite").get_by_role("button", name="Send").click()
    page.get_by_text("You said: two").first.wait_for()
    wait_for_end(page)
    assert page.locator(".rewrite:visible").count() == 0


def test_a_better_answer_sent_while_another_is_written_is_kept_and_says_that_the_conversation_stays(page, server):
    first = first_turn_while_a_second_is_answered(page, "assistant")
    first.get_by_role("button", name="Bad answer").click()
    first.get_by_label("What should it have said?").fill("Good day")
    first.get_by_role("button", name="Send and go on from it").click()
    first.get_by_text("Kept. An answer is being written").wait_for()
    server.engine.gate.set()
    page.locator("#send").wait_for()
    assert page.locator(".turn.user").count() == 2
