"""`/v1/me`: what is kept of whoever asks, whether it may be learned from, and its end."""

import json
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from chatwright.feedback.store import FeedbackStore
from chatwright.serve import schemas
from chatwright.serve.routes.common import ERRORS, owner_of
from chatwright.serve.routes.kept import TellingRoute, require_store
from chatwright.serve.settings import ServeSettings


class Me(BaseModel):
    """Whoever asks."""

    object: Literal["person"] = "person"
    name: str
    role: Literal["user", "expert"]
    consent: bool | None  # to being learned from; null: not said yet
    is_learned_from: bool


class ConsentRequest(schemas.Request):
    """Whether what this person says may be learned from."""

    consent: bool


class Forgotten(BaseModel):
    """What was kept and is gone."""

    object: Literal["person"] = "person"
    deleted: Literal[True] = True
    conversations: int
    answers: int
    opinions: int


def router(store: FeedbackStore | None, settings: ServeSettings) -> APIRouter:
    """The endpoints; without a store they refuse."""
    routes = APIRouter(responses=ERRORS, route_class=TellingRoute)

    @routes.get("/v1/me")
    def me(request: Request) -> Me:
        """Who you are here, and whether what you say may be learned from."""
        return _told(require_store(store), settings, owner_of(request))

    @routes.put("/v1/me")
    def consent(body: ConsentRequest, request: Request) -> Me:
        """Say whether what you say may be learned from; it counts for what you said before, too."""
        opened = require_store(store)
        opened.people.set_consent(owner_of(request), agrees=body.consent)
        return _told(opened, settings, owner_of(request))

    @routes.delete("/v1/me")
    def forget(request: Request) -> Forgotten:
        """Remove all of your conversations, answers and opinions."""
        gone = require_store(store).people.forget(owner_of(request))
        return Forgotten(conversations=gone.conversations, answers=gone.answers, opinions=gone.opinions)

    @routes.get("/v1/me/export", response_class=Response)
    def export(request: Request) -> Response:
        """Your answers with what was thought of them, as JSON Lines."""
        owner = owner_of(request)
        mine = (entry for entry in require_store(store).export() if entry["owner"] == owner)
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in mine)
        headers = {"Content-Disposition": 'attachment; filename="feedback.jsonl"'}
        return Response(text.encode(errors="replace"), media_type="application/x-ndjson", headers=headers)

    return routes


def _told(store: FeedbackStore, settings: ServeSettings, owner: str) -> Me:
    return Me(
        name=owner,
        role="expert" if owner in settings.experts else "user",
        consent=store.people.consent(owner),
        is_learned_from=store.people.agreed()(owner),
    )
