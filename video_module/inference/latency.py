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
_CALLS_PER_TURN = 11

# The threads of OpenMP and onnxruntime spin for a while after their work, and would take the cores from the candidate
# that is next.
_SETTLE_S = 0.3


def measure_latency(
    candidates: Mapping[str, Callable[[], object]], *, budget_s: float = 10.0, num_turns: int = NUM_TURNS
) -> dict[str, Latency]:
    """Time calls of each candidate, for about `budget_s` seconds each, or one call a turn if it takes longer."""
    # Candidates take turns, so that a machine that slows down for a while slows all of them. The first call of a turn
    # is not counted, since it meets cold caches, unless it was the only one.
    for call in candidates.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(num_turns):
        for name, call in candidates.items():
            time.sleep(_SETTLE_S)
            turn: list[float] = []
            while len(turn) < _CALLS_PER_TURN and sum(turn) < budget_s / num_turns:
                begin = time.perf_counter()
                call()
                turn.append(time.perf_counter() - begin)
            times[name] += turn[1:] or turn
    latencies = {}
    for name, taken in times.items():
        median_ms, p95_ms = (float(quantile) * 1e3 for quantile in np.quantile(taken, (0.5, 0.95)))
        latencies[name] = Latency(median_ms=median_ms, p95_ms=p95_ms, num_runs=len(taken))
    return latencies
