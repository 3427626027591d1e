"""How long a call takes, for several candidates in one run."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Latency:
    median_ms: float
    p95_ms: float
    num_runs: int

    def __str__(self) -> str:
        return f"{self.median_ms:.4g} ({self.p95_ms:.4g})"


NUM_TURNS = 5
_CALLS_A_TURN = 11
_SETTLE_S = 0.3  # threads of the candidate before (OpenMP's, onnxruntime's) spin for a while, and would take the cores


def measure_latency(candidates: Mapping[str, Callable[[], object]], *, budget_s: float = 10.0) -> dict[str, Latency]:
    """Time calls in five rounds of turns, so that a machine that slows down slows all candidates.

    One call each warms up. A turn is ten calls after an untimed one, or fewer when they take longer than a fifth of
    `budget_s` seconds; one at least.
    """
    for call in candidates.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(NUM_TURNS):
        for name, call in candidates.items():
            time.sleep(_SETTLE_S)
            turn: list[float] = []
            while len(turn) < _CALLS_A_TURN and sum(turn) < budget_s / NUM_TURNS:
                begin = time.perf_counter()
                call()
                turn.append(time.perf_counter() - begin)
            times[name] += turn[1:] or turn
    return {
        name: Latency(
            median_ms=float(np.median(taken)) * 1e3,
            p95_ms=float(np.quantile(taken, 0.95)) * 1e3,
            num_runs=len(taken),
        )
        for name, taken in times.items()
    }
