"""The loop end to end: simulated users through the real page and API, rounds, a poisoned one, a rollback, kills.

Call: python bench/improve_loop.py RUN [--rounds 3] [--questions 600] [--kills 200] [--pages 6] [--json FILE]

RUN is a finished run such as `runs/demo`; it is copied, and the copy is served by `chatwright serve` on a free
loopback port while `chatwright improve` works on it. No peer closes this loop, so there is no ratio here: each new
model is compared with the one before it, by the judge, on 500 questions of the held-out part, one drawn answer each.
The judge prefers answers that answer, are short and are polite (`_simulated_users.py`).
"""

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from _simulated_users import Crowd, Judge, Talkers, User, coin, fair, hurried, in_browser, inverted, read_questions
from chatwright.feedback.conversations import Message
from chatwright.tune.preferences.material import is_held_out

HELDOUT_SHARE = 0.2
_STARTED_S = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=600, help="asked in a round")
    parser.add_argument("--asked", type=Path, help="conversations whose questions are asked; default: the recipe's")
    parser.add_argument("--compared", type=int, default=500, help="held-out questions for the judge's comparison")
    parser.add_argument("--pages", type=int, default=6, help="questions of a round that are asked in a browser")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--part", choices=("all", "loop", "kills"), default="all")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="where the figures are put")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = Loop(options, Path(scratch)).go()
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


class Loop:
    """One whole course of the loop on a copy of a run."""

    def __init__(self, options: argparse.Namespace, scratch: Path):
        self.options = options
        self.run = scratch / "served"
        keep_out = shutil.ignore_patterns("checkpoints", ".work", ".lock", "documents", "report.html")
        shutil.copytree(options.run, self.run, ignore=keep_out)
        self.store = scratch / "feedback.db"
        self.guests = scratch / "guests"
        self.users = [User(f"user{n}", secrets.token_urlsafe(24), is_expert=n == 0) for n in range(8)]
        lines = [f"{u.name} {u.token}{' expert' if u.is_expert else ''}\n" for u in self.users]
        self.guests.write_text("".join(lines))
        questions = read_questions(options.asked or Path(_asked_by(self.run)))
        random.Random(1).shuffle(questions)
        questions = [hurried(question, seed=1) for question in questions]
        self.questions = list({question.text: question for question in questions}.values())
        held = [q for q in self.questions if is_held_out([Message("user", q.text)], HELDOUT_SHARE)]
        self.compared = held[: options.compared]

    def go(self) -> dict[str, Any]:
        """Every part, in order."""
        found = self.rounds() if self.options.part != "kills" else {}
        if self.options.part != "loop":
            found["kills"] = kill_often(self.store.with_name("killed.db"), self.run, self.options.kills)
        return found

    def rounds(self) -> dict[str, Any]:
        """Fair rounds, poisoned ones, the way back, and somebody's end."""
        found: dict[str, Any] = {"questions": len(self.questions), "compared_on": len(self.compared), "rounds": []}
        with served(self.run, self.store, self.guests) as url:
            crowd = Crowd(url, self.users, model=self.run.name, seed=1)
            crowd.agree(but=["user7"])
            scores = [crowd.scores(self.compared, fair)]
            say(f"judge's mean before: {mean(scores[0]):.3f}")
            for number in range(1, self.options.rounds + 1):
                found["rounds"].append(self.round(crowd, number, fair, scores))
            kinds: tuple[tuple[str, Judge], ...] = (("inverted", inverted), ("coin", coin(7)))
            found["poisoned"] = {}
            for place, (name, judge) in enumerate(kinds, start=self.options.rounds + 1):
                found["poisoned"][name] = self.round(crowd, place, judge, scores)
            found["rollback"] = self.roll_back(crowd, scores)
            found["consent"] = self.forget(crowd)
        return found

    def round(self, crowd: Crowd, number: int, judge: Judge, scores: list[list[float]]) -> dict[str, Any]:
        """Users speak, the next model is made while others talk on, and the judge compares."""
        size = self.options.questions
        asked = self.questions[(number - 1) * size : number * size]
        before = crowd.said.copy()
        crowd.give(asked, judge, edits=0.1, thumbs=0.2)
        if judge is fair and self.options.pages:
            pages = self.questions[-number * self.options.pages :][: self.options.pages]
            crowd.said.update(in_browser(crowd.url, self.users, pages, judge))
        began = time.monotonic()
        with Talkers(crowd, self.questions[:200], number=1) as talkers:
            outcome = improve(self.run, self.store, self.options.settings)
            if outcome["state"] == "promoted":
                digest = outcome["in_service"]["digest"][:12]
                wait_until(lambda: f"fp_{digest}" in talkers.prints)
        if "checks" not in outcome:
            raise RuntimeError(f"too little feedback for a round: {outcome}")
        found = {
            "state": outcome["state"],
            "said": dict(crowd.said - before),
            "learned": {key: outcome["feedback"][key] for key in ("train", "heldout", "dropped")},
            "learning": outcome["learning"],
            "checks": {check["name"]: [check["passed"], check["told"]] for check in outcome["checks"]},
            "seconds": round(time.monotonic() - began, 1),
            "answered_meanwhile": talkers.answered,
            "requests_dropped": talkers.failures,
            "weights_that_answered": len(talkers.prints),
        }
        if outcome["state"] == "promoted":
            scores.append(crowd.scores(self.compared, fair))
            found["judge"] = compared(scores[-1], scores[-2], scores[0])
        say(json.dumps(found))
        return found

    def roll_back(self, crowd: Crowd, scores: list[list[float]]) -> dict[str, Any]:
        """The model before is served again, and answers as it did."""
        with Talkers(crowd, self.questions[:200], number=1) as talkers:
            told = command("improve", self.run, "--rollback", "--json")
            wait_until(lambda: f"fp_{told['in_service']['digest'][:12]}" in talkers.prints)
        again = crowd.scores(self.compared, fair)
        return {
            "in_service": told["in_service"]["model"],
            "requests_dropped": talkers.failures,
            "judge_mean": round(mean(again), 3),
            "judge_mean_of_that_model_before": round(mean(scores[-2]), 3),
        }

    def forget(self, crowd: Crowd) -> dict[str, Any]:
        """A person's data go on their own request."""
        user = self.users[3]
        with crowd.client(user) as client:
            gone = client.delete("/v1/me").raise_for_status().json()
            left = client.get("/v1/me/export").raise_for_status().text
        return {"removed": gone, "left_bytes": len(left)}


def _asked_by(run: Path) -> str:
    import tomllib

    return str(tomllib.loads((run / "recipe.toml").read_text())["finetune"]["data"])


@contextlib.contextmanager
def served(run: Path, store: Path, guests: Path) -> Iterator[str]:
    """`chatwright serve RUN` on a free port, as a person starts it."""
    environment = {**os.environ, "CHATWRIGHT_TOKEN": secrets.token_urlsafe(24)}
    arguments = ["serve", str(run), "--port", "0", "--store", f"sqlite:///{store}", "--guests", str(guests)]
    log = store.with_name("server.log")
    with log.open("w") as errors:
        process = subprocess.Popen([sys.executable, "-m", "chatwright", *arguments], stderr=errors, env=environment)
    try:
        yield wait_until(lambda: _address(log, process), seconds=_STARTED_S)
    finally:
        process.terminate()
        process.wait(30)


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str | None:
    if process.poll() is not None:
        raise RuntimeError(f"the server ended: {log.read_text()}")
    found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    return found.group(0) if found else None


def wait_until(condition: Any, *, seconds: float = 60) -> Any:
    """The first true value, within a deadline."""
    waiter, deadline = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        waiter.wait(0.1)
    raise TimeoutError("it did not come about in time")


def improve(run: Path, store: Path, settings: Sequence[str]) -> dict[str, Any]:
    """One round, as a person calls it."""
    overrides = [part for setting in settings for part in ("--set", setting)]
    return command("improve", run, "--store", f"sqlite:///{store}", "--json", *overrides)


def command(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "chatwright", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.returncode}\n{done.stderr[-3000:]}")
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def compared(new: Sequence[float], old: Sequence[float], first: Sequence[float]) -> dict[str, Any]:
    """Win rates by the judge on the same questions, ties half."""
    return {
        "win_rate_over_the_one_before": round(win_rate(new, old), 4),
        "win_rate_over_the_first": round(win_rate(new, first), 4),
        "mean": round(mean(new), 3),
        "mean_before": round(mean(old), 3),
    }


def win_rate(new: Sequence[float], old: Sequence[float]) -> float:
    return mean([(one > other) + 0.5 * (one == other) for one, other in zip(new, old, strict=True)])


def kill_often(store: Path, run: Path, kills: int) -> dict[str, Any]:
    """Kill a server with SIGKILL while it takes ratings, again and again; count what was acknowledged and is gone."""
    from _killed import Killed

    return Killed(store, run).go(kills)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
