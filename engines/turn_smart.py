"""Smart Turn v3: does the *sound* of the last seconds say that the caller is done? ONNX, 8 s of audio, no words.

The model file is looked for in ``model`` (an option), then inside an installed ``pipecat-ai`` package, which carries it
(BSD 2-Clause) and is located, never imported. On the telephone band it is a good modulator of the silence that ends a
turn and a poor judge alone, so the core only listens to it when it is sure and the words do not say otherwise.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from engines.log_mel import SAMPLE_RATE_HZ, log_mel
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.resample import resample
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import Capabilities

_SECONDS = 8
_SAMPLES = _SECONDS * SAMPLE_RATE_HZ
_INSIDE = "audio/turn/smart_turn/data"


def find_model() -> Path:
    """The newest Smart Turn v3 file inside an installed ``pipecat-ai``.

    Raises:
        EngineUnavailableError: there is none.
    """
    spec = find_spec("pipecat")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = sorted(path for place in places for path in (Path(place) / _INSIDE).glob("smart-turn-v3*.onnx"))
    if not found:
        raise EngineUnavailableError(
            "The turn model 'smart-turn' needs its model file; run `pip install --no-deps pipecat-ai`, give the file "
            "as turn.model_options.model, or set turn.model to 'words'."
        )
    return found[-1]


class SmartTurn:
    """One session per replica; about 30 ms CPU a judgement."""

    def __init__(self, model: str = "", threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailableError(f"The turn model 'smart-turn' needs onnxruntime: {error}.") from error
        path = Path(model) if model else find_model()
        if not path.is_file():
            raise EngineUnavailableError(f"There is no Smart Turn model at {path}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._capabilities = Capabilities(name="smart-turn", version=path.stem)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    def complete(self, audio: bytes, text: str) -> float:
        """Probability in [0, 1] that the caller is done, by the sound alone; ``text`` is not used."""
        heard = mulaw_decode(audio[-_SECONDS * 8000 :])
        wide = resample(heard, 8000, SAMPLE_RATE_HZ).astype(np.float32) / 32768.0
        window = np.zeros(_SAMPLES, dtype=np.float32)
        if len(wide):
            window[-min(len(wide), _SAMPLES) :] = wide[-_SAMPLES:]
        window = (window - window.mean()) / np.sqrt(window.var() + 1e-7)
        output = self._session.run(None, {"input_features": log_mel(window)[None]})
        return float(np.asarray(output[0]).reshape(-1)[0])
