import os
import platform
import sys
from pathlib import Path

import numpy

from video_module import cli, machine
from video_module.machine import available_cores, describe_machine, peak_process_bytes, ram_bytes


def test_machine_and_versions():
    described = describe_machine(("numpy", "a-package-that-nobody-made"))
    assert described["numpy"] == numpy.__version__
    assert described["a-package-that-nobody-made"] == "not installed"
    assert described["python"] == platform.python_version()
    assert described["num_cores"] == available_cores()
    assert described["processor"]


def test_cores_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4, 5}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # Windows, macOS
    assert available_cores() == 64


def test_what_the_system_does_not_tell(monkeypatch):
    """Windows has no os.sysconf() and no module resource, and only Linux has /proc."""
    assert 1e8 < ram_bytes() < 1e14
    assert (peak_process_bytes() or 1e8) > 1e7
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert ram_bytes() == 8 * 2**30
    assert peak_process_bytes() is None
    assert machine._processor() == "unknown"


def test_as_many_readers_as_this_process_may_use_cores(monkeypatch):
    """The machine may have more: torch warns of readers beyond what a process may use."""
    for num_cores, expected in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(machine, "available_cores", lambda num_cores=num_cores: num_cores)
        assert cli.default_num_workers() == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cli.default_num_workers() == 4
