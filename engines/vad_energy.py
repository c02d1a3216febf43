"""Voice activity by level alone: no model, a few microseconds, and fooled by anything loud.

For machines without onnxruntime and for tests. It follows the background of each call and calls what stands well above
it speech.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voice_agent.errors import ConfigError
from voice_agent.ports import Capabilities

_SILENCE_DB = -90.0
_RISE = 0.02
_FALL = 0.5
_START_DB = -60.0


class EnergyVad:
    """Speech probability from the level above the background.

    ``margin_db`` above the background is a probability of 0.5; ``slope_db`` more or less moves it by about a quarter.
    Nothing below ``quiet_db`` is speech.
    """

    window_samples = 256

    def __init__(self, margin_db: float = 15.0, slope_db: float = 3.0, quiet_db: float = -48.0) -> None:
        if slope_db <= 0:
            raise ConfigError(f"The voice activity engine 'energy' has the option slope_db > 0, got {slope_db}.")
        self._margin_db = margin_db
        self._slope_db = slope_db
        self._quiet_db = quiet_db
        self._capabilities = Capabilities(name="energy", version="1")

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    def initial_state(self) -> float:
        """Level of the background in dBFS."""
        return _START_DB

    def batch(self, windows: NDArray[np.float32], states: Sequence[float]) -> tuple[NDArray[np.float32], list[float]]:
        """Probabilities (n,) and new states for windows float32 in [-1, 1], shape (n, 256).

        Raises:
            ValueError: the number of states or the shape of the windows is wrong.
        """
        if windows.shape != (len(states), self.window_samples):
            raise ValueError(f"windows must be ({len(states)}, {self.window_samples}), got {windows.shape}")
        power = np.mean(np.square(windows), axis=1)
        level = np.maximum(10.0 * np.log10(np.maximum(power, 1e-12)), _SILENCE_DB)
        floor = np.asarray(states, dtype=np.float64)
        above = level - np.maximum(floor + self._margin_db, self._quiet_db)
        probability = 1.0 / (1.0 + np.exp(-above / self._slope_db))
        # Speech must not become its own background, so the floor hardly rises while there is some.
        rise = np.where(probability > 0.5, _RISE / 20, _RISE)
        floor += np.where(level < floor, _FALL, rise) * (level - floor)
        return probability.astype(np.float32), floor.tolist()
