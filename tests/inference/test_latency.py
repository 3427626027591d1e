import itertools
from types import SimpleNamespace

import pytest

from video_module.inference import latency


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Replace the time module by a clock that only advances during sleep()."""
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now

    def sleep(seconds: float) -> None:
        clock.now += seconds

    clock.sleep = sleep
    monkeypatch.setattr(latency, "time", clock)
    return clock


def test_candidates_take_turns(clock):
    calls = []

    def sleeper(name, seconds):
        def call():
            calls.append(name)
            clock.sleep(seconds)

        return call

    measured = latency.measure_latency({"fast": sleeper("fast", 0.001), "slow": sleeper("slow", 0.004)})
    for name, expected in (("fast", 1), ("slow", 4)):
        assert [measured[name].median_ms, measured[name].p95_ms] == pytest.approx([expected] * 2)
    assert measured["fast"].num_runs == measured["slow"].num_runs == 50
    assert calls[:2] == ["fast", "slow"]  # both warm up first
    changes = sum(a != b for a, b in itertools.pairwise(calls))
    assert changes == 1 + 2 * latency.NUM_TURNS - 1 + 1


@pytest.mark.parametrize("budget_s", [0.01, 0.05])
def test_slow_calls_run_at_least_once_per_turn(clock, budget_s):
    measured = latency.measure_latency({"slow": lambda: clock.sleep(0.02)}, budget_s=budget_s)
    assert measured["slow"].num_runs == 5


def test_fewer_turns_make_fewer_calls(clock):
    measured = latency.measure_latency({"slow": lambda: clock.sleep(0.02)}, budget_s=0.01, num_turns=3)
    assert measured["slow"].num_runs == 3


def test_each_turn_waits_for_threads_of_the_previous_one(monkeypatch):
    pauses = []
    monkeypatch.setattr(latency, "_SETTLE_S", 0.3)
    monkeypatch.setattr(latency.time, "sleep", pauses.append)
    latency.measure_latency({"a": lambda: None, "b": lambda: None})
    assert pauses == [0.3] * 2 * latency.NUM_TURNS
