"""The HTTP face of the stack: Twilio's webhooks, health, and the REST API, as one FastAPI app in a Serve deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from ray import serve

from configs import logs
from configs.process import begin_work
from configs.runtime import StackContext
from serve_apps import api, health, http_errors
from serve_apps.backends import Backends
from serve_apps.ray_backends import RayBackends
from serve_apps.webhooks import Webhooks

_NUM_CPUS = 0.05
_MAX_ONGOING_REQUESTS = 200


def build_app(context: StackContext, backends: Backends, webhooks: Webhooks | None = None) -> FastAPI:
    """The whole app over any backends. ``webhooks`` is given by tests that own the clock."""
    app = FastAPI(title="Voice agent platform", description="Calls, knowledge base and state of one stack.")
    http_errors.install(app)
    app.include_router((webhooks or Webhooks(context, backends)).router())
    app.include_router(health.router(backends))
    app.include_router(api.router(context, backends))
    return app


class Ingress:
    """The deployment, wrapped by ``ingress_app``.

    Connections to the other parts are made when they are first needed, so it starts in any order with them.
    """

    def __init__(self, context: StackContext) -> None:
        logs.set_up(context.settings.telemetry.log_level)
        self._context = context
        self._backends = RayBackends(context)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve in the replica."""
        app = build_app(self._context, self._backends.backends())
        app.router.lifespan_context = self._lifespan
        return app

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        begin_work()
        try:
            yield
        finally:
            await self._backends.close()


def ingress_app(context: StackContext, *, replicas: int = 1) -> serve.Application:
    """The Serve application ``ingress``; to be run at route prefix ``/``."""
    wrap: Any = serve.ingress()
    deployment: Any = serve.deployment(
        wrap(Ingress),
        name="Ingress",
        num_replicas=replicas,
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": _NUM_CPUS},
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_timeout_s=5.0,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=logs.REPLICA_LOGGING,
    )
    application: serve.Application = deployment.bind(context)
    return application
