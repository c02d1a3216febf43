"""A new version for a running stack: what changes, the models that are deployed anew, and the hand-over of calls.

    code and settings -> plan -> models whose settings changed -> call actors of the new code, call by call

The media gateway, the dispatcher and the journal stay what they are: they hold the carriers' sockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from actors.dispatch.rollout import RolloutError
from cluster import code as codes
from cluster import ray_local
from cluster.statefile import StackState
from configs.loader import differences
from configs.runtime import CodeVersion, StackContext
from configs.settings import Settings
from voice_agent.errors import VoiceAgentError

FIXED: Final = (
    "data_dir",
    "runs_dir",
    "server",
    "ray",
    "storage",
    "media",
    "twilio",
    "telemetry",
    "calls.max_calls",
    "calls.calls_per_actor",
    "calls.spare_actors",
    "calls.reserve_s",
)
"""Settings of processes that a deploy leaves alone: they change with the next ``voice-agent up``."""

_ASK_S: Final = 10.0
_POLL_S: Final = 0.3
_OVER: Final = ("done", "failed")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deploy does.

    Attributes:
        old: what call actors are made from now.
        new: what they will be made from.
        changes: (setting, old value, new value), those that take effect.
        left: the same, of settings that need a restart.
        apps: applications of the model plane that are deployed anew.
    """

    old: StackContext
    new: StackContext
    changes: tuple[tuple[str, object, object], ...]
    left: tuple[tuple[str, object, object], ...]
    apps: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        return not self.changes and self.old.code.version == self.new.code.version


def plan_of(old: StackContext, wanted: Settings, code: CodeVersion) -> Plan:
    """The plan, from what runs and what is wanted."""
    from serve_apps.build import READS

    told = differences(old.settings, wanted)
    left = tuple(one for one in told if _below(one[0], FIXED))
    changes = tuple(one for one in told if not _below(one[0], FIXED) and one[0] != "profile")
    settings = _with_fixed(old.settings, wanted)
    apps = tuple(app for app, reads in READS.items() if any(_below(name, reads) for name, *_ in changes))
    return Plan(old, replace(old, settings=settings, code=code, foreign={}), changes, left, apps)


def _below(name: str, sections: tuple[str, ...]) -> bool:
    return any(name == section or name.startswith(section + ".") for section in sections)


def _with_fixed(old: Settings, wanted: Settings) -> Settings:
    """``wanted``, but for what cannot change while a stack runs."""
    values = wanted.model_dump()
    kept = old.model_dump()
    for name in FIXED:
        *above, last = name.split(".")
        place, source = values, kept
        for part in above:
            place, source = place[part], source[part]
        place[last] = source[last]
    return Settings.model_validate(values)


class Deployment:
    """A connection to the running stack, as one who deploys. Blocking."""

    def __init__(self, dispatcher: Any, package: str) -> None:
        self._dispatcher = dispatcher
        self.package = package

    @classmethod
    @contextmanager
    def joined(cls, state: StackState, settings: Settings, folder: Path | None) -> Iterator[Deployment]:
        """Join the stack's Ray; the code in ``folder`` is put there. Leaves it at the end.

        Raises:
            RayStartError: it does not answer.
        """
        with TemporaryDirectory(prefix="va-code-") as place:
            staged = None
            if folder is not None:
                staged = Path(place)
                codes.copy_to(folder, staged)
            package = ray_local.join(settings, state.ray_address, state.ray_token_path, staged)
            import ray

            from actors.clients import DISPATCHER

            try:
                yield cls(ray.get_actor(DISPATCHER, namespace=state.ray_namespace), package)
            finally:
                ray.shutdown()

    def context(self) -> StackContext:
        """What call actors are made from now."""
        context: StackContext = self._ask("context")
        return context

    def status(self) -> dict[str, Any]:
        """Of the dispatcher."""
        status: dict[str, Any] = self._ask("status")
        return status

    def redeploy(self, plan: Plan) -> None:
        """Deploy the applications whose settings changed; requests wait for or are repeated at the new replicas.

        Raises:
            DeployError: one did not come up; Serve keeps the old replicas of it.
        """
        if not plan.apps:
            return
        from cluster.wiring import run_apps
        from serve_apps.build import build_apps

        apps = build_apps(plan.new)
        run_apps({name: apps[name] for name in plan.apps})

    def hand_over(self, plan: Plan, canary_s: float, within_s: float) -> int:
        """Begin to hand calls over. The number of the new code."""
        number: int = self._ask("deploy", plan.new, canary_s, within_s)
        return number

    def hand_back(self, within_s: float) -> int:
        """Begin to hand calls back to the code before. Its number."""
        number: int = self._ask("rollback", within_s)
        return number

    def follow(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """Tell of every change until it is over; the dispatcher's last word.

        Raises:
            RolloutError: the old version has the calls.
        """
        said = ""
        while True:
            rollout = self.status()["rollout"]
            line = (
                f"{rollout['phase']}: {rollout['moved']} calls handed over"
                f" ({rollout['between_turns']} between turns), actors by code number {rollout['hosts']}"
            )
            if rollout["kept"]:
                line += f", {rollout['kept']} calls stay until they end: the other code cannot go on with them"
            if line != said:
                tell(line)
                said = line
            if rollout["phase"] in _OVER:
                break
            time.sleep(_POLL_S)
        if rollout["phase"] == "failed":
            raise RolloutError(f"the new version did not take over, calls are on the old one: {rollout['why']}")
        done: dict[str, Any] = rollout
        return done

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(getattr(self._dispatcher, method).remote(*arguments), timeout=_ASK_S)
        except RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, VoiceAgentError) else RolloutError(str(cause)) from error
        except RayError as error:
            raise RolloutError(f"the dispatcher does not answer: {type(error).__name__}") from error
