"""Retriever: the knowledge base behind a handle. Searches run beside each other, changes one at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from configs.runtime import StackContext
from kb.opening import open_knowledge_base
from serve_apps.replica import as_ours
from voice_agent.errors import StorageError
from voice_agent.ports import COPY, Capabilities, SearchRequest, SearchResponse

logger = logging.getLogger(__name__)
T = TypeVar("T")

_SEARCH_THREADS = 2
_LOOK_S = 30.0
"""Between two looks whether other processes have changed what a server holds."""
_ASK_AGAIN_S = 1.0
"""Between two questions whether a server that was away is back."""
_NOBODY = ""


class Retriever:
    """The deployment. ``root``: files below it are named by their path from there."""

    def __init__(self, context: StackContext, root: str = "") -> None:
        self._knowledge = open_knowledge_base(
            context.settings, data_dir=context.data_dir, dsn=context.dsn, root=Path(root) if root else None
        )
        self._engine = context.settings.retriever.engine
        self._searches = ThreadPoolExecutor(_SEARCH_THREADS, thread_name_prefix="search")
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="ingest")
        self._told, self._telling = self._engine, threading.Lock()
        self._look_now = threading.Event()
        if self._knowledge.copies:
            threading.Thread(target=self._look, name="look", daemon=True).start()

    async def capabilities(self) -> Capabilities:
        """Name of the embedder, and the knowledge base's version."""
        return Capabilities(name=self._engine, version=self._knowledge.version, streaming=False)

    async def search(self, request: SearchRequest) -> SearchResponse:
        """The best passages for a question.

        Raises:
            StorageError: the vector store failed, and there is no copy of it.
        """
        try:
            found = await self._run(
                self._searches, lambda: self._knowledge.search(request.query, request.top_k), request.call_id
            )
        except StorageError as error:
            self._tell(_NOBODY, error.message)
            raise
        if found.engine == COPY:
            self._look_now.set()
        answered = replace(found, engine=found.engine or self._engine)
        self._tell(answered.engine, self._knowledge.away)
        return answered

    def _tell(self, answering: str, reason: str = "") -> None:
        """Log that the vector store is away, and that it is back, once each: callers are told each time."""
        with self._telling:
            before, self._told = self._told, answering
        if answering == before:
            return
        if answering == COPY:
            logger.warning("vector store away, a copy of it answers", extra={"reason": reason})
        elif answering == _NOBODY:
            logger.warning("vector store away, questions have no answer", extra={"reason": reason})
        else:
            logger.warning("vector store is back")

    def _look(self) -> None:
        """Keep the copy of what a server holds, and ask a server that is away again, for ever."""
        failed = ""
        while True:
            try:
                self._knowledge.look()
            except StorageError as error:
                if error.message != failed:
                    logger.warning("vector store not looked at", extra={"reason": error.message})
                failed = error.message
            else:
                failed = ""
            self._look_now.clear()
            if self._knowledge.away:
                time.sleep(_ASK_AGAIN_S)
            else:
                if not failed:
                    self._tell(self._engine)
                self._look_now.wait(_LOOK_S)

    async def ingest(self, paths: list[str]) -> dict[str, Any]:
        """Bring files and folders in and write the recogniser's vocabulary; the report as plain values.

        Whoever asks for it reloads ``SpeechToText`` afterwards.

        Raises:
            StorageError: the vector store or the ledger failed.
        """
        report = await self._run(self._changes, lambda: self._knowledge.ingest(paths))
        self._look_now.set()
        return report.as_dict()

    async def documents(self) -> list[dict[str, Any]]:
        """Every document, by source, as plain values."""
        return await self._run(self._changes, self._knowledge.documents)

    async def remove(self, source: str) -> dict[str, Any]:
        """Take a document out; the report as plain values.

        Raises:
            DocumentError: there is no such document.
            StorageError: the vector store or the ledger failed.
        """
        report = await self._run(self._changes, lambda: self._knowledge.remove(source))
        self._look_now.set()
        return report.as_dict()

    async def _run(self, executor: ThreadPoolExecutor, work: Callable[[], T], call_id: str = "") -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except Exception as error:  # the border of a replica request
            raise as_ours(error, "retriever", call_id) from error
