"""The application for raters: join, the next item, a judgement, undo. Blind: no model's name ever leaves it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from chatwright.feedback.ratings import Study
from chatwright.feedback.store import StoreError
from chatwright.feedback.study import DIMENSIONS, Judgement, JudgementError, Place, Rater, Shown, UnknownRaterError
from chatwright.foundation.errors import UsageError
from chatwright.serve.errors import ApiError, tell_in_one_shape
from chatwright.serve.guard import Guard
from chatwright.serve.rating.scales import SCALES
from chatwright.serve.routes import page
from chatwright.serve.settings import ServeSettings

STATIC_DIR = Path(__file__).with_name("static")
_MAX_TEXT = 20_000

Token = Annotated[str, Field(min_length=1, max_length=64)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class JoinRequest(_Body):
    """Somebody comes in."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    kind: Literal["user", "expert"]


class RaterRequest(_Body):
    """Somebody who is in."""

    token: Token


class JudgeRequest(RaterRequest):
    """A judgement. `choice` is by the side that was shown: left or right."""

    item: Annotated[str, Field(min_length=1, max_length=200)]
    occasion: Annotated[int, Field(ge=0, le=1)]
    key: Annotated[str, Field(min_length=8, max_length=128)]
    scores: dict[str, int] = Field(default_factory=dict)
    choice: Literal["left", "right", "tie", "both_bad"] | None = None
    note: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    better: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None


class UndoRequest(RaterRequest):
    """Take back a judgement; without a number, the latest."""

    judgement: int | None = None


class RatingApp(FastAPI):
    """FastAPI behind the guard."""

    def __init__(self, settings: ServeSettings):
        super().__init__(title="chatwright rating", docs_url=None, redoc_url=None, redirect_slashes=False)
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        """Everything that FastAPI builds, behind the guard."""
        return Guard(super().build_middleware_stack(), settings=self._settings)


def create_rating_app(study: Study, settings: ServeSettings) -> RatingApp:
    """The whole application for one study."""
    app = RatingApp(settings)
    tell_in_one_shape(app)
    _tell_what_studies_refuse(app)
    app.include_router(page.router(STATIC_DIR))
    _add_routes(app, study)
    return app


def _add_routes(app: FastAPI, study: Study) -> None:
    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/rating/study")
    def told() -> dict[str, Any]:
        kinds = sorted({item.kind for item in study.items.values()})
        return {"title": study.plan.title, "open": study.plan.open_names, "kinds": kinds, "scales": SCALES}

    @app.post("/v1/rating/join")
    def join(body: JoinRequest) -> dict[str, Any]:
        if not study.plan.open_names:
            raise ApiError(403, "this study is by invitation only", code="by_invitation")
        rater = study.join(body.name, body.kind)
        return {"token": rater.token, "name": rater.name, "kind": rater.kind}

    @app.post("/v1/rating/next")
    def upcoming(body: RaterRequest) -> dict[str, Any]:
        rater = study.rater(body.token)
        return _shown(study, rater, study.next(rater))

    @app.post("/v1/rating/judge")
    def judge(body: JudgeRequest) -> dict[str, Any]:
        rater = study.rater(body.token)
        stored = study.judge(rater, _judgement(study, rater, body))
        return {"id": stored.id, "next": _shown(study, rater, study.next(rater))}

    @app.post("/v1/rating/undo")
    def undo(body: UndoRequest) -> dict[str, Any]:
        rater = study.rater(body.token)
        number = study.last(rater) if body.judgement is None else body.judgement
        if number is None or not study.undo(rater, judgement_id=number):
            raise ApiError(409, "there is nothing to undo", code="nothing_to_undo")
        return {"id": number, "next": _shown(study, rater, study.next(rater))}


def _judgement(study: Study, rater: Rater, body: JudgeRequest) -> Judgement:
    """In the item's own order: what was shown at the left may be its second answer."""
    item = study.items.get(body.item)
    choice: str | None = body.choice
    if item is not None and item.kind == "pair" and choice in ("left", "right"):
        swapped = study.is_swapped(rater, Place(body.item, body.occasion))
        choice = "second" if (choice == "right") != swapped else "first"
    return Judgement(
        item=body.item,
        occasion=body.occasion,
        key=body.key,
        scores=body.scores,
        choice=choice,
        note=body.note or None,
        better=body.better or None,
    )


def _shown(study: Study, rater: Rater, shown: Shown) -> dict[str, Any]:
    value: dict[str, Any] = {
        "done": shown.done,
        "total": shown.total,
        "rater": {"name": rater.name, "kind": rater.kind},
        "can_undo": study.last(rater) is not None,
        "item": None,
    }
    if shown.item is not None and shown.place is not None:
        answers = list(reversed(shown.item.answers)) if shown.is_swapped else list(shown.item.answers)
        value["item"] = {
            "id": shown.item.id,
            "occasion": shown.place.occasion,
            "kind": shown.item.kind,
            "asked": shown.item.asked,
            "answers": answers,
            "dimensions": list(DIMENSIONS) if shown.item.kind == "scale" else [],
        }
    return value


def _tell_what_studies_refuse(app: FastAPI) -> None:
    @app.exception_handler(UsageError)
    async def wrong(_: Request, error: UsageError) -> Response:
        status = {UnknownRaterError: 401, JudgementError: 409}.get(type(error), 400)
        return ApiError(status, error.what, code=type(error).__name__).response()

    @app.exception_handler(StoreError)
    async def unavailable(_: Request, error: StoreError) -> Response:  # noqa: ARG001 - its text names a path
        return ApiError(503, "the rating could not be stored now", code="store_unavailable").response()
