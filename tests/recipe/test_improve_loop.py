"""The loop in the small, through a real server: people speak, rounds are made while others talk on, and one is poisoned.

`bench/improve_loop.py` is the whole of it on the demo's model; its users and its kills are the same code.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import preference_lab as lab
import pytest
import torch

from _killed import Killed
from _simulated_users import Crowd, Question, Talkers, User
from chatwright.feedback.store import FeedbackStore
from chatwright.foundation import storage
from chatwright.model.chat import load
from chatwright.model.directory import load_model
from chatwright.model.generation import Sampling
from chatwright.recipe.improve import rounds, service
from chatwright.recipe.improve.service import read_service
from chatwright.recipe.lineage import lineage_of
from chatwright.serve.api import create_app
from chatwright.serve.server import ChatServer, open_port, page_address
from chatwright.serve.settings import ServeSettings

# Half a minute each on two free cores; the limit is for cores that others use too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

USERS = [User(name, f"{name}-token-of-sixteen", is_expert=name == "ann") for name in ("ann", "ben", "cem")]
# All weights at a rate that suits a model of this size; docs/log.md has what others did.
QUICK = tuple(
    f"improve.{setting}"
    for setting in (
        "learn.threads=1",
        "learn.precision=float32",
        "learn.device=cpu",
        "learn.max_answer_tokens=24",
        "learn.optimizer.learning_rate=4e-4",
        "learn.epochs=16.0",
        "learn.log_every=1",
        "learn.checkpoint_every=5",
        "promote.draws=2000",
        "promote.least_heldout=8",
    )
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The lab's model as a run of its own, with documents that it could forget."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    lab.make_base(folder, steps=120)
    run = folder / "run"
    run.mkdir()
    shutil.move(folder / "tokens", run / "tokens")
    (run / "recipe.toml").write_text(f'name = "run"\n[base]\nmodel = "{folder / "base"}"\n')
    return run


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def questions(count, *, seed):
    chance = random.Random(seed)
    return [Question(chance.choice(lab.QUESTIONS), "") for _ in range(count)]


def liked(question, answer):
    return lab.judged(question.text, answer)


def disliked(question, answer):
    return -lab.judged(question.text, answer)


@contextlib.contextmanager
def served(run, store):
    """The server that `chatwright serve RUN` starts, in a thread."""

    def opened():
        model = load(read_service(run).path(run))
        model.name = "run"
        return [model]

    settings = ServeSettings(
        sampling=Sampling(max_tokens=24),
        token="the-owner-has-this-one",  # noqa: S106 - for this test alone
        guests={user.name: user.token for user in USERS},
        experts=frozenset(user.name for user in USERS if user.is_expert),
    )
    kept = FeedbackStore(store)
    listening = open_port("127.0.0.1", 0)
    app = create_app(opened(), kept, settings)
    server = ChatServer(app, grace_s=5.0, reload=opened, watched=run / service.SERVICE)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield page_address(listening).rstrip("/")
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        kept.close()


def until(condition):
    waiter, deadline = threading.Event(), time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        waiter.wait(0.05)


def next_round(run, store, crowd, judge, *, seed, number=240):
    """People speak, the round is made while somebody talks on; returns its outcome. No request may fail meanwhile."""
    crowd.give(questions(number, seed=seed), judge, edits=0.0, thumbs=0.1)
    with Talkers(crowd, questions(20, seed=0), number=1) as talkers:
        outcome = rounds.improve(run, store=str(store), overrides=QUICK)
        if outcome.state == "promoted":
            until(lambda: f"fp_{outcome.service.now.digest[:12]}" in talkers.prints)
    assert talkers.failures == []
    assert talkers.answered > 0
    return outcome


def test_rounds_win_on_held_out_feedback_a_poisoned_one_is_refused_and_the_way_back_is_open(run, tmp_path):
    store = tmp_path / "feedback.db"
    first = read_service(run).now.digest
    with served(run, store) as url:
        crowd = Crowd(url, USERS, model="run", seed=1)
        crowd.agree()
        good = next_round(run, store, crowd, liked, seed=1)
        assert good.state == "promoted", good.told["checks"]
        assert good.told["measured"]["heldout"]["low"] > 0.5
        assert good.told == rounds.rounds_of(run)[0].report
        model = run / good.service.now.model
        assert lab.win_rate(Path(read_service(run).before[0].model), model) > 0.55
        # Many of them: what the model says by now is mostly alike, and a pair of equal answers teaches nothing.
        bad = next_round(run, store, crowd, disliked, seed=2, number=600)
        assert bad.state == "refused"
        failed = [check["told"] for check in bad.told["checks"] if not check["passed"]]
        assert any("contradicts what people said before" in told for told in failed), failed
        assert read_service(run).now == good.service.now
        assert not (run / "round-0002" / "model").exists()
        with Talkers(crowd, questions(20, seed=0), number=1) as talkers:
            assert rounds.back(run).service.now.digest == first
            until(lambda: f"fp_{first[:12]}" in talkers.prints)
        assert talkers.failures == []
    chain = lineage_of(model)
    assert (chain["run"], chain["made_by"]["stage"]) == ("run", "round-0001")
    learned = storage.read_json(run / "round-0001" / "learned.json")
    assert len(learned["opinions"]) > 200
    texts = [path.read_text() for path in (run / "round-0001").iterdir() if path.is_file()]
    assert not any(question in text for question in lab.QUESTIONS for text in texts)  # a round keeps no one's words


@pytest.fixture(scope="module")
def spoken(made, tmp_path_factory):
    """A store with the feedback of a round."""
    folder = tmp_path_factory.mktemp("spoken")
    with served(made, folder / "feedback.db") as url:
        crowd = Crowd(url, USERS, model="run", seed=3)
        crowd.agree()
        crowd.give(questions(100, seed=3), liked, edits=0.0, thumbs=0.0)
    return folder / "feedback.db"


def test_a_round_that_is_killed_again_and_again_makes_the_same_model_and_promotes_nothing_half(run, spoken, tmp_path):
    unbroken = tmp_path / "unbroken"
    shutil.copytree(run, unbroken)
    program = "import sys; from pathlib import Path; from chatwright.recipe.improve.rounds import improve; improve(Path(sys.argv[1]), store=sys.argv[2], overrides=tuple(sys.argv[3:]))"
    settings = (*QUICK, "improve.promote.confidence=0.6", "improve.least_new=20")
    first = read_service(run).now
    rounds.improve(unbroken, store=str(spoken), overrides=settings)
    killed = 0
    for steps in (2, 7):  # killed in training, and once more
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(run), str(spoken), *settings], stderr=subprocess.DEVNULL
        )
        metrics = run / ".work" / "improve-0001" / "align" / "metrics.jsonl"
        until(lambda at=metrics, least=steps, one=process: one.poll() is not None or (at.is_file() and len(at.read_bytes().splitlines()) >= least))  # fmt: skip
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        assert read_service(run).now == first
        assert not (run / "round-0001").exists()
    assert killed
    rounds.improve(run, store=str(spoken), overrides=settings)
    states = [load_model(place / "round-0001" / "model").network.state_dict() for place in (run, unbroken)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert read_service(run).now.round == read_service(unbroken).now.round


def test_kills_of_a_server_lose_nothing_that_it_acknowledged(run, tmp_path):
    found = Killed(tmp_path / "killed.db", run).go(4)
    assert found["acknowledged_ratings"] >= 4
    assert (found["lost_answers"], found["lost_ratings"], found["stored_twice"]) == (0, 0, 0)
    assert found["integrity"] == "ok"


def test_experts_count_as_the_recipe_says(run, tmp_path):
    store = tmp_path / "feedback.db"
    with served(run, store) as url:
        crowd = Crowd(url, USERS, model="run", seed=5)
        crowd.agree()
        with crowd.client(USERS[0]) as ann, crowd.client(USERS[1]) as ben:
            ids, _ = crowd.ask(ann, Question(lab.QUESTIONS[0], ""), answers=2, temperature=1.0, seed=1)
            for client, choice in ((ann, "first"), (ben, "second")):
                client.post(
                    "/v1/feedback", json={"first": ids[0], "second": ids[1], "choice": choice}
                ).raise_for_status()
            assert ann.get("/v1/me").json()["role"] == "expert"
    with contextlib.closing(FeedbackStore(store)) as opened:
        (entry,) = [entry for entry in opened.export() if entry["id"] == ids[0]]
    assert [(given["rater"], given["role"]) for given in entry["choices"]] == [("ann", "expert"), ("ben", "user")]
    assert entry["owner"] == "ann"
