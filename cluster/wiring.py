"""The actors and the Serve applications of a stack, on the Ray this process is connected to."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.exceptions import GetTimeoutError, RayError
from ray.serve.config import HTTPOptions, ProxyLocation

from actors import remote
from cluster.steps import Steps
from configs.logs import SERVE_LOGGING
from configs.runtime import StackContext
from serve_apps.build import build_apps
from voice_agent.errors import VoiceAgentError

_ACTORS_WITHIN_S = 120.0
_GOODBYE_WITHIN_S = 6.0

_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit)\b[^:]*: .+")

_log = logging.getLogger(__name__)


class DeployError(VoiceAgentError):
    """An actor or a Serve application did not come up."""

    code = "deploy"


class Wiring:
    """Starts and stops what runs on Ray. ``stop`` works at any point of a start."""

    def __init__(self, context: StackContext, steps: Steps) -> None:
        self._context = context
        self._steps = steps
        self._actors: remote.StackActors | None = None
        self._apps: tuple[str, ...] = ()

    def start(self) -> None:
        """Start actors and applications beside each other, and wait for both.

        Raises:
            DeployError: one of them did not come up; the message says which and why.
        """
        apps = build_apps(self._context)
        self._actors = remote.create(self._context)
        with self._steps.step("models and ingress"):
            self._deploy(apps)
        with self._steps.step("gateway, dispatcher, journal, call actors"):
            try:
                self._actors.wait_ready(_ACTORS_WITHIN_S)
            except (GetTimeoutError, RayError) as error:
                raise DeployError(f"an actor did not come up: {error}") from error

    def _deploy(self, apps: dict[str, Any]) -> None:
        settings = self._context.settings
        # On a Ray of ours the proxy serves the front door, and Serve's own port is any that nobody knows.
        host, port = (settings.server.host, settings.server.webhook_port) if settings.ray.address else ("127.0.0.1", 0)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host=host, port=port),
            logging_config=SERVE_LOGGING,
        )
        self._apps = tuple(apps)
        run_apps(apps)

    def stop(self) -> None:
        """End calls, let records be written. Whatever does not answer in time is ended with a local Ray.

        On a cluster that is not ours the applications are taken down as well.
        """
        if self._actors is not None:
            self._actors.stop(_GOODBYE_WITHIN_S)
            self._actors = None
        if self._context.settings.ray.address:
            for name in self._apps:
                try:
                    serve.delete(name)
                except (RayError, RuntimeError, TimeoutError) as error:
                    _log.warning("application not deleted", extra={"app": name, "reason": type(error).__name__})
        self._apps = ()


def run_apps(apps: dict[str, Any]) -> None:
    """Deploy applications, in place of those of the same name, and wait until they run.

    Raises:
        DeployError: one did not come up; the message says which and why.
    """
    targets = [
        serve.RunTarget(app, name=name, route_prefix="/" if name == "ingress" else None) for name, app in apps.items()
    ]
    try:
        serve.run_many(targets, wait_for_applications_running=True)
    except (RuntimeError, RayError, TimeoutError) as error:
        raise DeployError(f"the models did not come up: {_why(error)}") from error


def _why(error: BaseException) -> str:
    """What each application says, where Serve knows more than the error."""
    try:
        applications = serve.status().applications
    except (RayError, RuntimeError):
        return str(error)
    said = []
    for name, application in applications.items():
        if str(application.status.value) != "RUNNING":
            messages = [one.message for one in application.deployments.values()]
            said.append(f"{name}: {error_line([*messages, application.message])}")
    return "; ".join(said) or str(error)


def error_line(messages: Sequence[str]) -> str:
    """The line that names the error, out of messages that hold traces; the first message that has one wins."""
    lines = [[line.strip() for line in message.splitlines() if line.strip()] for message in messages]
    for said in lines:
        for line in reversed(said):
            if _ERROR_LINE.match(line):
                return line
    return next((said[-1] for said in lines if said), "no reason given")
