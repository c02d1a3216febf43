"""Routers of Serve that go round replicas that stall.

Serve leaves out a replica that does not tell the length of its queue, so one that is stopped stalls few requests,
and would be tried again whenever the others are busy. So a replica that stalled, or did not tell its length, is asked
until it answers, and each silence is a fault.

Serve sends this module about by value: whatever is global here is a copy in each process that has a handle. What is
shared with others is reached by way of its module.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ray.exceptions import RayError
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from actors.call import replica_watch

ANSWER_S: Final = 1.0
"""A replica that is asked for a sign of life has this long; one that gives none is asked again at once."""


class _Avoiding:
    """What the routers have in common. Replicas are avoided only while there is another to go to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked: dict[str, asyncio.Task[None]] = {}
        replica_watch.WATCH.asks(self._deployment_id.name, self.ask)  # type: ignore[attr-defined]

    def ask(self, replica: str) -> None:
        """Have a replica give a sign of life. Any thread may call this: Serve may run routers in one of their own."""
        self._event_loop.call_soon_threadsafe(self._begin_asking, replica)  # type: ignore[attr-defined]

    def _begin_asking(self, replica: str) -> None:
        if replica not in self._asked:
            task = asyncio.get_running_loop().create_task(self._until_it_answers(replica), name=f"ask-{replica}")
            self._asked[replica] = task
            task.add_done_callback(lambda _: self._asked.pop(replica, None))

    async def _until_it_answers(self, replica: str) -> None:
        """Each silence is a fault. Ends with an answer, or when Serve has replaced the replica."""
        deployment = self._deployment_id.name  # type: ignore[attr-defined]
        while True:
            candidates = self._replicas_list  # type: ignore[attr-defined]
            asked = next((one for one in candidates if one.replica_id.unique_id == replica), None)
            if asked is None:
                return
            try:
                async with asyncio.timeout(ANSWER_S):
                    await asked.get_queue_len(deadline_s=ANSWER_S)
            except TimeoutError:
                replica_watch.WATCH.silent(deployment, replica)
            except RayError:
                replica_watch.WATCH.silent(deployment, replica)
                await asyncio.sleep(ANSWER_S)
            else:
                replica_watch.WATCH.answers(deployment, replica)
                return

    async def _probe_queue_lens(self, replicas: list[Any], backoff_index: int) -> list[tuple[Any, int | None]]:
        lengths = await super()._probe_queue_lens(replicas, backoff_index)  # type: ignore[misc]
        for replica, length in lengths:
            if length is None:
                self._begin_asking(replica.replica_id.unique_id)
        return lengths  # type: ignore[no-any-return]

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        ranks = await super().choose_replicas(candidate_replicas, pending_request)  # type: ignore[misc]
        deployment = self._deployment_id.name  # type: ignore[attr-defined]
        replica_watch.WATCH.known(deployment, frozenset(replica.replica_id.unique_id for replica in candidate_replicas))
        bad = [r for r in candidate_replicas if replica_watch.WATCH.avoid(deployment, r.replica_id.unique_id)]
        if not bad:
            return ranks  # type: ignore[no-any-return]
        for replica in bad:
            if replica_watch.WATCH.wants_probe(deployment, replica.replica_id.unique_id):
                # Of known length, so that it is not asked for that first: a worker that answers its methods late, as
                # ours may, would be left out each time, and the probe would never reach it.
                self.replica_queue_len_cache.update(replica.replica_id, 0)  # type: ignore[attr-defined]
                return [[replica]]
        good = [kept for rank in ranks if (kept := [replica for replica in rank if replica not in bad])]
        others = [replica for replica in candidate_replicas if replica not in bad]
        return good or ([others] if others else ranks)

    async def _choose_replica_for_request(self, pending_request: Any, *, is_retry: bool = False) -> Any:
        # Serve's own hook, `on_request_routed`, comes after the replica has accepted: one that is stopped never does.
        replica = await super()._choose_replica_for_request(pending_request, is_retry=is_retry)  # type: ignore[misc]
        deployment = self._deployment_id.name  # type: ignore[attr-defined]
        replica_watch.WATCH.routed(pending_request.metadata.request_id, deployment, replica.replica_id.unique_id)
        return replica


class AvoidingRouter(_Avoiding, PowerOfTwoChoicesRequestRouter):
    """The less busy of two, but for those that stall."""


class StickyAvoidingRouter(_Avoiding, ConsistentHashRouter):
    """The session's replica, and the next one while that one stalls."""
