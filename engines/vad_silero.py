"""Silero voice activity detection on onnxruntime, straight off the telephone's 8 kHz, batched over calls.

The model file comes out of the ``silero-vad`` package, which is located but never imported: importing it imports
torch. One session serves any number of calls; what a call needs to keep is one vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import Capabilities

SAMPLE_RATE_HZ = 8000
_CONTEXT = 32
_HIDDEN = 128
_STATE = 2 * _HIDDEN

State = NDArray[np.float32]


def find_model() -> Path:
    """The ONNX file inside the installed ``silero-vad`` package.

    Raises:
        EngineUnavailableError: the package is not installed, or it has no such file.
    """
    spec = find_spec("silero_vad")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        path = Path(place) / "data" / "silero_vad.onnx"
        if path.is_file():
            return path
    raise EngineUnavailableError(
        "The voice activity engine 'silero' needs the model file of the silero-vad package; run "
        "`pip install --no-deps silero-vad`, or set media.vad_engine to 'energy'."
    )


class SileroVad:
    """Speech probability of 32 ms windows at 8 kHz. Not thread-safe in its use here; one owner."""

    window_samples = 256

    def __init__(self, model: str = "", threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailableError(f"The voice activity engine 'silero' needs onnxruntime: {error}.") from error
        path = Path(model) if model else find_model()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # onnxruntime's own exceptions have no base but Exception.
        except Exception as error:
            raise EngineUnavailableError(f"The Silero model {path.name} cannot be loaded: {error}.") from error
        self._rate = np.array(SAMPLE_RATE_HZ, dtype=np.int64)
        self._capabilities = Capabilities(name="silero", version=_version())

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    def initial_state(self) -> State:
        """Recurrent state and the last samples heard: float32, shape (2 * 128 + 32,)."""
        return np.zeros(_STATE + _CONTEXT, dtype=np.float32)

    def batch(self, windows: NDArray[np.float32], states: Sequence[State]) -> tuple[NDArray[np.float32], list[State]]:
        """Probabilities (n,) and new states for windows float32 in [-1, 1], shape (n, 256).

        Raises:
            ValueError: the number of states or the shape of the windows is wrong.
        """
        count = len(states)
        if windows.shape != (count, self.window_samples):
            raise ValueError(f"windows must be ({count}, {self.window_samples}), got {windows.shape}")
        if not count:
            return np.zeros(0, dtype=np.float32), []
        stacked = np.stack(states)
        inputs = np.concatenate((stacked[:, _STATE:], windows), axis=1)
        recurrent = np.ascontiguousarray(stacked[:, :_STATE].reshape(count, 2, _HIDDEN).transpose(1, 0, 2))
        output, new = self._session.run(None, {"input": inputs, "state": recurrent, "sr": self._rate})
        kept = np.empty_like(stacked)
        kept[:, :_STATE] = new.transpose(1, 0, 2).reshape(count, _STATE)
        kept[:, _STATE:] = windows[:, -_CONTEXT:]
        return output[:, 0], list(kept)


def _version() -> str:
    try:
        return version("silero-vad")
    except PackageNotFoundError:
        return "unknown"
