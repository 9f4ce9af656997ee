"""`/v1/conversations`: what the page keeps, and answers that are written into it.

The server holds the truth: a question is on disk before a model sees it, an answer while it is written.
"""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from chatwright.feedback.history import (
    HistoryConflictError,
    HistoryFullError,
    Kept,
    Turn,
    UnknownConversationError,
)
from chatwright.feedback.store import FeedbackStore, StoreError
from chatwright.serve.errors import ApiError
from chatwright.serve.routes import kept_schemas as shapes
from chatwright.serve.routes.common import ERRORS, StrictJsonRoute, owner_of

LIST_LENGTH = 50
_NAMES = {"user": "You", "assistant": "Model", "system": "System"}


class TellingRoute(StrictJsonRoute):
    """A route that tells of the store's refusals in the one shape of errors."""

    def get_route_handler(self) -> Any:
        """The handler with its refusals translated."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except UnknownConversationError as error:
                raise ApiError(404, error.what, code="conversation_not_found") from None
            except HistoryConflictError as error:
                raise ApiError(409, error.what, code="history_conflict") from None
            except HistoryFullError as error:
                raise ApiError(400, error.what, code="history_full") from None
            except StoreError as error:
                raise ApiError(503, "the conversations cannot be reached now", code="store_unavailable") from error

        return handle


def require_store(store: FeedbackStore | None) -> FeedbackStore:
    """The store.

    Raises:
        ApiError: there is none.
    """
    if store is None:
        raise ApiError(503, "this server keeps no conversations", code="no_store")
    return store


def shown_now(store: FeedbackStore, kept: Kept) -> shapes.ShownConversation:
    """A conversation with what is thought of its answers."""
    return shapes.shown(kept, store.opinions([turn.answer for turn in kept.turns if turn.answer]))


def router(store: FeedbackStore | None) -> APIRouter:
    """The endpoints that need no model."""
    routes = APIRouter(responses=ERRORS, route_class=TellingRoute)
    _add_collection(routes, store)
    _add_single(routes, store)
    return routes


def _add_collection(routes: APIRouter, store: FeedbackStore | None) -> None:
    @routes.get("/v1/conversations")
    def find(
        request: Request,
        q: shapes.Query = "",
        before: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = LIST_LENGTH,
    ) -> shapes.ConversationList:
        """Your conversations, the latest first; with `q` those that contain it."""
        history = require_store(store).history
        found = history.find(owner_of(request), query=q.strip(), before=before, limit=limit + 1)
        data = [shapes.ListedConversation(**line._asdict()) for line in found[:limit]]
        return shapes.ConversationList(data=data, has_more=len(found) > limit)

    @routes.post("/v1/conversations")
    def create(body: shapes.NewConversation, request: Request) -> shapes.ShownConversation:
        """Begin a conversation."""
        opened = require_store(store)
        kept = opened.history.create(
            owner_of(request),
            id=body.id,
            title=body.title or "",
            system=body.system,
            settings=shapes.as_json(body.settings),
        )
        return shown_now(opened, kept)


def _add_single(routes: APIRouter, store: FeedbackStore | None) -> None:
    @routes.get("/v1/conversations/{id}")
    def get(id: str, request: Request) -> shapes.ShownConversation:
        """A conversation with all of its turns."""
        opened = require_store(store)
        return shown_now(opened, opened.history.get(owner_of(request), id))

    @routes.patch("/v1/conversations/{id}")
    def change(id: str, body: shapes.ChangedConversation, request: Request) -> shapes.ShownConversation:
        """Rename it, set its system prompt or settings, or stand at another branch."""
        opened = require_store(store)
        return shown_now(opened, opened.history.change(owner_of(request), id, **body.changes()))

    @routes.delete("/v1/conversations/{id}")
    def delete(id: str, request: Request) -> shapes.Deleted:
        """Remove it with its answers and what was thought of them."""
        require_store(store).history.delete(owner_of(request), id)
        return shapes.Deleted(id=id)

    @routes.post("/v1/conversations/{id}/turns")
    def add(id: str, body: shapes.NewTurn, request: Request) -> shapes.ShownConversation:
        """Say something, or put an answer as you would have it beside the model's."""
        opened = require_store(store)
        finish = "edited" if body.role == "assistant" else None
        turn = Turn(id=body.id, parent=body.parent, role=body.role, content=body.content, finish=finish)
        opened.history.add(owner_of(request), id, [turn])
        return shown_now(opened, opened.history.get(owner_of(request), id))

    @routes.get("/v1/conversations/{id}/export", response_class=Response, responses=_EXPORTED)
    def export(id: str, request: Request, format: Literal["json", "markdown"] = "json") -> Response:
        """The whole as JSON, or the branch you stand at as Markdown; a file to keep."""
        opened = require_store(store)
        conversation = shown_now(opened, opened.history.get(owner_of(request), id))
        if format == "markdown":
            kept = opened.history.get(owner_of(request), id)
            return _file(as_markdown(kept), f"conversation-{id[:8]}.md", "text/markdown; charset=utf-8")
        text = json.dumps(conversation.model_dump(), ensure_ascii=False, indent=2) + "\n"
        return _file(text, f"conversation-{id[:8]}.json", "application/json")


_EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/markdown": {"schema": {"type": "string"}},
        },
    }
}


def _file(text: str, name: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text.encode(errors="replace"), media_type=media_type, headers=headers)


def as_markdown(kept: Kept) -> str:
    """The branch at which the person stands, a heading for each turn."""
    parts = [f"# {kept.title or 'Conversation'}"]
    if kept.system.strip():
        parts.append(f"## System\n\n{kept.system.strip()}")
    parts += [f"## {_NAMES[turn.role]}\n\n{turn.content.strip()}" for turn in kept.path(kept.leaf)]
    return "\n\n".join(parts) + "\n"
