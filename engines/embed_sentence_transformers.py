"""Any sentence-transformers model, on CPU or GPU. Needs the extra ``gpu-embed``."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.optional import need
from voice_agent.errors import EngineFailedError, EngineUnavailableError
from voice_agent.ports import Capabilities


class SentenceTransformersEmbedder:
    """Vectors of a sentence-transformers model, normalised to unit length.

    Args:
        model: hub name or local folder.
        device: ``cpu``, ``cuda``, ``cuda:0``, ...; empty lets the library choose.
        batch_size: texts per forward pass at ingest.

    Raises:
        EngineUnavailableError: the package or the model cannot be loaded.
    """

    def __init__(
        self, *, model: str = "sentence-transformers/all-MiniLM-L6-v2", device: str = "", batch_size: int = 32
    ) -> None:
        library = need("sentence_transformers", "sentence-transformers", "gpu-embed")
        try:
            self._model: Any = library.SentenceTransformer(model, device=device or None)
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineUnavailableError(f"sentence-transformers cannot load {model!r}: {error}") from error
        self._name = model
        self._batch_size = batch_size
        # Also the warm-up: the first forward pass on a GPU takes seconds.
        self._dimension = int(self._model.encode(["warm-up"], show_progress_bar=False).shape[1])

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        version = importlib.metadata.version("sentence-transformers")
        return Capabilities(name="sentence-transformers", version=f"{version} {self._name}", streaming=False)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32, shape (len(texts), dimension).

        Raises:
            EngineFailedError: the model failed on this batch (out of GPU memory, for instance).
        """
        if not texts:
            return np.zeros((0, self._dimension), dtype=np.float32)
        try:
            vectors = self._model.encode(
                list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
            )
        except RuntimeError as error:
            raise EngineFailedError(f"sentence-transformers failed: {error}") from error
        return np.asarray(vectors, dtype=np.float32)
