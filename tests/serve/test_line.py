"""The line is of fixed length, keeps each client's order, and gives every client its turn."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from chatwright.serve.line import FairLine


def taken(line):
    found = []
    while (job := line.take(wait=False)) is not None:
        found.append(job)
    return found


def test_one_client_waits_in_order():
    line = FairLine(5)
    assert [line.put(number, client="a") for number in range(6)] == [True] * 5 + [False]
    assert line.is_full
    assert taken(line) == [0, 1, 2, 3, 4]
    assert len(line) == 0


def test_a_client_with_many_jobs_does_not_hold_up_the_others():
    line = FairLine(100)
    for number in range(50):
        line.put(("greedy", number), client="greedy")
    line.put(("modest", 0), client="modest")
    line.put(("modest", 1), client="modest")
    assert taken(line)[:5] == [("greedy", 0), ("modest", 0), ("greedy", 1), ("modest", 1), ("greedy", 2)]


@given(st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=60))
def test_whatever_comes_and_goes_nothing_is_lost_doubled_or_overtaken(acts):
    line, put, got = FairLine(10), [], []
    for number, client in enumerate(acts):
        if client is None:
            job = line.take(wait=False)
            assert (job is None) == (len(put) == len(got))
            got += [] if job is None else [job]
        elif line.put((client, number), client=str(client)):
            put.append((client, number))
    got += taken(line)
    assert sorted(got) == sorted(put)
    for client in range(4):
        assert [job for job in got if job[0] == client] == [job for job in put if job[0] == client]


def test_whoever_waits_is_woken_by_a_job_or_by_a_call():
    line, got = FairLine(3), []
    thread = threading.Thread(target=lambda: got.extend([line.take(wait=True), line.take(wait=True)]))
    thread.start()
    line.put("job", client="a")
    while not got and thread.is_alive() and len(line):
        pass
    line.wake()
    thread.join(10)
    assert not thread.is_alive()
    assert got == ["job", None]
