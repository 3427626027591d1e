import os
import signal

import pytest

from video_module.engine import interruption
from video_module.engine.interruption import StopRequest


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"])
def test_each_way_to_stop_is_taken_once_and_given_back(name, monkeypatch, capsys):
    monkeypatch.setattr(interruption, "leave_terminal", lambda: None)
    number = getattr(signal, name, None)
    if number is None:  # Ctrl-Break exists only on Windows, so use another signal in its place
        number = signal.SIGUSR1
        monkeypatch.setattr(interruption, "STOP_SIGNALS", (signal.SIGINT, number))
    earlier = signal.getsignal(number)
    with StopRequest().listening() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop.signal == number
        assert signal.getsignal(number) == earlier  # the second one ends the process
    assert stop.interrupted().exit_code == 128 + number
    assert f"{signal.Signals(number).name}: stopping as soon as the state can be saved" in capsys.readouterr().err


def test_a_signal_that_torchrun_repeats_does_not_end_the_process(monkeypatch):
    """Slurm and systemd signal all processes of a job, and torchrun then passes its own signal on."""
    monkeypatch.setattr(interruption, "started_by_torchrun", lambda: True)
    clock, killed = [100.0], []
    monkeypatch.setattr(interruption.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    earlier = signal.getsignal(signal.SIGTERM)
    with StopRequest().listening() as stop:
        signal.raise_signal(signal.SIGTERM)
        clock[0] += 1
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and not killed
        clock[0] += 10
        signal.raise_signal(signal.SIGTERM)  # somebody insists
        assert killed == [(os.getpid(), signal.SIGTERM)]
        assert signal.getsignal(signal.SIGTERM) == earlier
