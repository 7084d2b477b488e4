"""The application.

    app = create_app(store, settings.api, controller=controller, rolling=rolling)

What is left out answers 503 and says so. Mounted into another application, its paths stay the same
below the mount; call `app.state.services.hub.stop()` when the server begins to stop.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

from autotrain_cloud.api import problems
from autotrain_cloud.api.edge import Edge
from autotrain_cloud.api.routes import erasing, fleet, happenings, learning, speech
from autotrain_cloud.api.routes import rolling as _rolling
from autotrain_cloud.api.services import Services
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.service.roll import Rolling
from autotrain_cloud.settings import ApiSettings
from autotrain_cloud.store import Store

ABOUT = " ".join(
    (
        "Errors are problem+json: `detail` says what to do.",
        "Pages go on with `cursor`, the `next` of the page before.",
        "Tokens have a role: viewer, operator or admin, each may what those before it may;",
        "every change is noted in the journal (`/v1/events`) with who made it.",
    )
)


def create_app(
    store: Store,
    settings: ApiSettings,
    *,
    controller: Controller | None = None,
    rolling: Rolling | None = None,
) -> FastAPI:
    """`rolling` may be the one that the service steps, or one of its own."""
    services = Services(store, settings, controller=controller, rolling=rolling)
    app = FastAPI(
        title="vitconformer cloud", version="1", description=ABOUT, docs_url=None, redoc_url=None,
        openapi_url="/v1/openapi.json", generate_unique_id_function=_name,
    )  # fmt: skip
    app.state.services = services
    for routes in (fleet, speech, learning, _rolling, erasing, happenings):
        app.include_router(routes.router)
    app.include_router(happenings.health)
    problems.install(app)
    app.add_middleware(Edge, metrics=services.metrics, body_bytes=1024 * settings.body_kilobytes)
    return app


def _name(route: APIRoute) -> str:
    """Of an operation: that of its function, which is unique with its tag."""
    return f"{route.tags[0]}_{route.name}" if route.tags else route.name
