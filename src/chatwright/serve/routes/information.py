"""What the server tells of itself: health, models, metrics, and what the page needs to begin."""

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from chatwright.serve import replies
from chatwright.serve.metrics import Metrics
from chatwright.serve.routes.common import ERRORS, offered
from chatwright.serve.settings import ServeSettings
from chatwright.serve.shelf import Offer, Shelf

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def router(shelf: Shelf, settings: ServeSettings, metrics: Metrics, *, keeps_feedback: bool) -> APIRouter:
    """The endpoints that only read."""
    routes = APIRouter(responses=ERRORS)

    @routes.get("/health")
    async def health() -> replies.Health:
        """Whether the server answers. Needs no token."""
        return replies.Health()

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def measured() -> PlainTextResponse:
        """Counters and gauges in Prometheus' text format."""
        return PlainTextResponse(metrics.text(shelf), media_type=METRICS_TYPE)

    @routes.get("/v1/models")
    async def models() -> replies.ModelList:
        """The models that can be asked."""
        return replies.ModelList(data=[_card(offer) for offer in shelf])

    @routes.get("/v1/models/{name:path}")
    async def one_model(name: str) -> replies.ModelCard:
        """One model by its name."""
        return _card(offered(shelf, name))

    @routes.get("/v1/page-settings")
    async def page_settings() -> replies.PageSettings:
        """What the page shows before anyone said anything."""
        sampling = settings.sampling
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")
        return replies.PageSettings(
            title=settings.page.title,
            greeting=settings.page.greeting,
            model=shelf.first.model.name,
            models=[offer.model.name for offer in shelf],
            context_length=shelf.first.model.context_length,
            starters=list(settings.page.starters),
            keeps_feedback=keeps_feedback,
            sampling={name: getattr(sampling, name) for name in names},
        )

    return routes


def _card(offer: Offer) -> replies.ModelCard:
    return replies.ModelCard(id=offer.model.name, created=offer.created)
