"""The models that a server offers, each with its worker; one can be changed for another while the server runs."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from chatwright.feedback.store import FeedbackStore
from chatwright.foundation.errors import UsageError
from chatwright.serve.engine import ChatEngine
from chatwright.serve.worker import EngineWorker

DRAIN_S = 120.0  # how long the answers of a model that was replaced may still take
_LOOK_S = 0.05


@dataclass(frozen=True)
class Offer:
    """A model and what works for it."""

    model: ChatEngine
    worker: EngineWorker
    created: int  # seconds since 1970

    def held(self) -> AbstractContextManager[None]:
        """Keep it at work while a job for it is made, though another takes its place meanwhile."""
        return self.worker.held()


class Shelf:
    """Models by name, in order: the first one is meant where nobody says which.

    Args:
        models: what is offered, one at least.
        store: where answers are kept.
        max_waiting: answers that may wait, for each model.
        clock: seconds since 1970.

    Raises:
        UsageError: two models with one name.
    """

    def __init__(
        self,
        models: Sequence[ChatEngine],
        *,
        store: FeedbackStore | None,
        max_waiting: int,
        clock: Callable[[], float] = time.time,
    ):
        self._store = store
        self._max_waiting = max_waiting
        self._clock = clock
        self._offers: dict[str, Offer] = {}
        self._retired: list[EngineWorker] = []
        for model in models:
            if model.name in self._offers:
                raise UsageError(f"two models are called `{model.name}`", hint="rename one's folder")
            self._offers[model.name] = self._offer(model)

    def _offer(self, model: ChatEngine) -> Offer:
        worker = EngineWorker(model, store=self._store, max_waiting=self._max_waiting)
        return Offer(model, worker, int(self._clock()))

    def __iter__(self) -> Iterator[Offer]:
        return iter(list(self._offers.values()))

    def get(self, name: str) -> Offer | None:
        """A model by its name."""
        return self._offers.get(name)

    @property
    def first(self) -> Offer:
        """The model that answers where nobody says which."""
        return next(iter(self))

    def start(self) -> None:
        """Begin to work; once."""
        for offer in self:
            offer.worker.start()

    def replace(self, model: ChatEngine) -> None:
        """Offer other weights under the same name from now on; what the old ones are writing, they finish.

        Raises:
            UsageError: no model of this name is offered.
        """
        old = self._offers.get(model.name)
        if old is None:
            raise UsageError(f"no model `{model.name}` is offered that could be replaced")
        fresh = self._offer(model)
        fresh.worker.start()
        self._offers[model.name] = fresh
        self._retired.append(old.worker)
        threading.Thread(target=self._retire, args=(old.worker,), name="retiring", daemon=True).start()

    def cut(self) -> None:
        """Cancel what is being written and refuse what waits."""
        for worker in self._workers():
            worker.cut()

    def stop(self) -> None:
        """Cut everything and wait for the end of the workers."""
        self.cut()
        for worker in self._workers():
            worker.stop()

    def _workers(self) -> list[EngineWorker]:
        return [*(offer.worker for offer in self), *self._retired]

    def _retire(self, worker: EngineWorker) -> None:
        """Let a worker finish what it has; seen idle twice, since a job is nowhere between the line and the engine."""
        deadline = time.monotonic() + DRAIN_S
        idle = 0
        while idle < 2 and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            idle = 0 if worker.num_held + worker.num_waiting + worker.num_running else idle + 1
        worker.stop()
        self._retired.remove(worker)
