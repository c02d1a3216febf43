"""Percentiles with what they are worth. Pure.

Turns of one call are alike (same engine, same moment of load), so intervals come from drawing whole calls again and
again (cluster bootstrap), not turns: an interval over turns would be too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 500
_CONFIDENCE = 0.95
BATCHES = 12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of ``count`` values; None where there are none."""

    count: int
    p50: Estimate
    p95: Estimate
    largest: float


def spread(groups: Sequence[Sequence[float]], seed: int = 1) -> Spread | None:
    """Nearest-rank percentiles of values that come in groups, such as turns of a call; intervals by drawing groups."""
    values = np.array([value for group in groups for value in group], dtype=np.float64)
    if not len(values):
        return None
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.argsort(values, kind="stable")
    ranked, owner = values[order], owner[order]
    chance = np.random.default_rng(seed)
    drawn: list[tuple[float, float]] = []
    for _ in range(_DRAWS if len(groups) > 1 else 0):
        times = np.bincount(chance.integers(0, len(groups), len(groups)), minlength=len(groups))[owner]
        passed = np.cumsum(times)
        if passed[-1]:
            drawn.append((_weighted(ranked, passed, 0.50), _weighted(ranked, passed, 0.95)))
    ones = np.arange(1, len(ranked) + 1)
    p50, p95 = (
        _estimate(_weighted(ranked, ones, share), [pair[number] for pair in drawn])
        for number, share in enumerate((0.50, 0.95))
    )
    return Spread(len(values), p50, p95, float(ranked[-1]))


def _weighted(ranked: np.ndarray, passed: np.ndarray, share: float) -> float:
    at = int(np.searchsorted(passed, np.ceil(share * passed[-1] - 1e-9)))
    return float(ranked[min(at, len(ranked) - 1)])


def _estimate(value: float, drawn: Sequence[float]) -> Estimate:
    if not drawn:
        return Estimate(value, value, value)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True, slots=True)
class LateTicks:
    """Lateness of the generator's ticks, in ms. ``over_frame``: ticks late by more than a frame of 20 ms."""

    ticks: int
    p50_ms: float
    p95_ms: float
    largest_ms: float
    over_frame: int

    @classmethod
    def of(cls, tenths: Sequence[Mapping[int, int]], largest_ms: float) -> LateTicks:
        """From the histograms of all generators."""
        joined: dict[int, int] = {}
        for histogram in tenths:
            for at, count in histogram.items():
                joined[at] = joined.get(at, 0) + count
        total = sum(joined.values())
        over = sum(count for at, count in joined.items() if at > 200)
        return cls(total, _tenth(joined, total, 0.50), _tenth(joined, total, 0.95), largest_ms, over)


def _tenth(histogram: Mapping[int, int], total: int, share: float) -> float:
    passed = 0
    for at in sorted(histogram):
        passed += histogram[at]
        if passed >= share * total:
            return at / 10
    return 0.0


def slope(x: Sequence[float], y: Sequence[float]) -> Estimate | None:
    """Growth of ``y`` per unit of ``x`` (Theil-Sen: the median of all pairs' slopes), with its 95 % interval.

    The interval is that of Kendall's rank test, which asks for no shape of the noise, but that points know nothing of
    each other. Samples of one process do: from 24 on, means of ``BATCHES`` stretches stand for them. None with less
    than 8 points.
    """
    at, level = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(at) >= 2 * BATCHES:
        at, level = (
            np.array([stretch.mean() for stretch in np.array_split(points, BATCHES)]) for points in (at, level)
        )
    count = len(at)
    if count < 8:
        return None
    first, second = np.triu_indices(count, 1)
    run = at[second] - at[first]
    slopes = np.sort((level[second] - level[first])[run > 0] / run[run > 0])
    if not len(slopes):
        return None
    reach = 1.96 * np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, int((len(slopes) - reach) // 2))
    high = min(len(slopes) - 1, int((len(slopes) + reach) // 2) + 1)
    return Estimate(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))
