"""`/v1/feedback`: thumbs, reasons, better answers, and choices between two answers. Each is stored once."""

from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request

from chatwright.feedback.store import (
    Choice,
    FeedbackStore,
    Rating,
    RatingConflictError,
    Role,
    Score,
    StoreError,
    UnknownAnswerError,
)
from chatwright.serve import replies, schemas
from chatwright.serve.errors import ApiError
from chatwright.serve.routes.common import ERRORS, StrictJsonRoute, owner_of
from chatwright.serve.settings import ServeSettings


def router(store: FeedbackStore | None, settings: ServeSettings) -> APIRouter:
    """The endpoint; without a store it refuses."""
    routes = APIRouter(responses=ERRORS, route_class=StrictJsonRoute)

    @routes.post("/v1/feedback")
    def rate(body: schemas.FeedbackRequest, request: Request) -> replies.FeedbackReceipt:
        """Store what a person thought of an answer, how good they find it, or which of two answers they like better."""
        rater = owner_of(request)
        return _stored(store, body, rater=rater, role="expert" if rater in settings.experts else "user")

    return routes


_Body = schemas.RatingRequest | schemas.ChoiceRequest | schemas.ScoreRequest


def _stored(store: FeedbackStore | None, body: _Body, *, rater: str, role: Role) -> replies.FeedbackReceipt:
    if store is None:
        raise ApiError(503, "this server keeps no feedback", code="no_store")
    kept = replace(_as_kept(body), rater=rater, role=role)
    try:
        stored = store.add_rating(kept)
    except UnknownAnswerError as error:
        param = "first" if isinstance(body, schemas.ChoiceRequest) else "answer_id"
        raise ApiError(404, error.what, code="answer_not_found", param=param) from None
    except RatingConflictError as error:
        raise ApiError(409, error.what, code="key_reused", param="key") from None
    except StoreError as error:
        raise ApiError(503, "the rating could not be stored now", code="store_unavailable") from error
    created = int(stored.created)
    if isinstance(body, schemas.ChoiceRequest):
        return replies.FeedbackReceipt(id=stored.id, answer_id=body.first, choice=body.choice, created=created)
    said = {"score": body.score} if isinstance(body, schemas.ScoreRequest) else {"thumb": body.thumb}
    return replies.FeedbackReceipt.model_validate(
        {"id": stored.id, "answer_id": body.answer_id, "created": created, **said}
    )


def _as_kept(body: _Body) -> Rating | Choice | Score:
    if isinstance(body, schemas.RatingRequest):
        return Rating(**{**body.model_dump(), "thumb": 1 if body.thumb == "up" else -1})
    if isinstance(body, schemas.ScoreRequest):
        return Score(**body.model_dump())
    if body.first == body.second:
        raise ApiError(400, "a choice is between two different answers", code="invalid_value", param="second")
    return Choice(**body.model_dump())
