"""A server that is killed while it acknowledges feedback, many times over, and the count of what was lost."""

import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import torch

from chatwright.feedback.store import FeedbackStore
from chatwright.model.chat import ChatModel, load
from chatwright.recipe.improve.service import read_service
from chatwright.serve.api import create_app
from chatwright.serve.server import ChatServer, open_port, page_address
from chatwright.serve.settings import ServeSettings

_CLIENTS = 3


class Killed:
    """Lives of one store: in each, a fresh process serves it until it is killed.

    Args:
        store: the database.
        run: whose model in service answers.
    """

    def __init__(self, store: Path, run: Path):
        self.store = store
        torch.set_num_threads(1)  # no pool of threads may stand when a process is forked
        self.model = load(read_service(run).path(run))
        self.model.name = "killed"
        self.chance = random.Random(3)
        self.answers: list[str] = []  # acknowledged: the response had come
        self.ratings: list[tuple[str, str]] = []  # acknowledged: answer and key
        self.lock = threading.Lock()

    def go(self, kills: int) -> dict[str, Any]:
        """Live and die so often; then look."""
        began = time.monotonic()
        for life in range(kills):
            self._live(life)
        return {**self._look(), "kills": kills, "seconds": round(time.monotonic() - began, 1)}

    def _live(self, life: int) -> None:
        listening = open_port("127.0.0.1", 0)
        url = page_address(listening)
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(self.model, self.store, listening))
        process.start()
        over = threading.Event()
        first = threading.Event()
        clients = [threading.Thread(target=self._talk, args=(url, life, n, over, first)) for n in range(_CLIENTS)]
        for client in clients:
            client.start()
        first.wait(60)
        over.wait(self.chance.uniform(0.0, 0.25))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        over.set()
        process.join()
        listening.close()
        for client in clients:
            client.join()

    def _talk(self, url: str, life: int, number: int, over: threading.Event, first: threading.Event) -> None:
        """Ask for an answer of a few tokens and rate it; what was acknowledged is noted."""
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            count = 0
            while not over.is_set():
                key = f"life{life}-{number}-{count}"
                count += 1
                try:
                    body = {"model": "killed", "messages": [{"role": "user", "content": key}], "max_tokens": 2}
                    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()["id"]
                    with self.lock:
                        self.answers.append(answer)
                    rating = {"answer_id": answer, "thumb": "up", "reason": key, "key": key}
                    client.post("/v1/feedback", json=rating).raise_for_status()
                    with self.lock:
                        self.ratings.append((answer, key))
                    first.set()
                except httpx.HTTPError:
                    over.wait(0.01)

    def _look(self) -> dict[str, Any]:
        store = FeedbackStore(self.store)
        kept = {entry["id"]: [given["reason"] for given in entry["ratings"]] for entry in store.export()}
        store.close()
        with sqlite3.connect(self.store) as database:
            (sound,) = database.execute("PRAGMA integrity_check").fetchone()
        twice = sum(len(reasons) != len(set(reasons)) for reasons in kept.values())
        return {
            "acknowledged_answers": len(self.answers),
            "acknowledged_ratings": len(self.ratings),
            "lost_answers": sum(name not in kept for name in self.answers),
            "lost_ratings": sum(key not in kept.get(name, []) for name, key in self.ratings),
            "stored_twice": twice,
            "integrity": sound,
        }


def _serve(model: ChatModel, store: Path, listening: Any) -> None:
    """The life of one server, in a process of its own."""
    ChatServer(create_app(model, FeedbackStore(store), ServeSettings()), grace_s=1.0).run(sockets=[listening])
