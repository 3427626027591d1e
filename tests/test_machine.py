import platform

from video_module import cli
from video_module.machine import available_cores, describe_machine


def test_machine_and_versions():
    import numpy

    machine = describe_machine(("numpy", "a-package-that-nobody-made"))
    assert machine["numpy"] == numpy.__version__
    assert machine["a-package-that-nobody-made"] == "not installed"
    assert machine["python"] == platform.python_version()
    assert machine["num_cores"] == available_cores() >= 1
    assert machine["processor"]


def test_as_many_readers_as_this_process_may_use_cores(monkeypatch):
    """The machine may have more: torch warns of readers beyond what a process may use."""
    for num_cores, expected in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(cli, "available_cores", lambda num_cores=num_cores: num_cores)
        assert cli.default_num_workers() == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cli.default_num_workers() == 4
