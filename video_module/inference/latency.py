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


def measure_latency(
    candidates: Mapping[str, Callable[[], object]], *, budget_s: float = 10.0, min_runs: int = 5, max_runs: int = 50
) -> dict[str, Latency]:
    """Time calls in rounds, each candidate once a round, so that a machine that slows down slows all of them.

    One call each warms up. Rounds go on for `budget_s` seconds a candidate, within `min_runs` and `max_runs`.
    """
    for call in candidates.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    total_s, num_rounds = 0.0, 0
    while num_rounds < min_runs or (num_rounds < max_runs and total_s < budget_s * len(candidates)):
        for name, call in candidates.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
        total_s += sum(taken[-1] for taken in times.values())
        num_rounds += 1
    return {
        name: Latency(
            median_ms=float(np.median(taken)) * 1e3,
            p95_ms=float(np.quantile(taken, 0.95)) * 1e3,
            num_runs=len(taken),
        )
        for name, taken in times.items()
    }
