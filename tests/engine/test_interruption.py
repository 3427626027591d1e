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
