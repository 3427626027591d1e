import os
import platform
import sys
from pathlib import Path

import numpy
import pytest

from video_module import machine
from video_module.machine import (
    available_cores,
    default_num_workers,
    describe_machine,
    peak_process_bytes,
    ram_bytes,
)


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


@pytest.mark.parametrize(("cores", "processes", "expected"), [(1, 1, 1), (3, 1, 3), (6, 4, 1), (32, 2, 8), (2, 8, 1)])
def test_workers_are_as_many_as_the_cores_that_may_be_used(monkeypatch, cores, processes, expected):
    """Of a container or a scheduler's share, not of the whole machine: torch warns of readers beyond those."""
    monkeypatch.setattr(machine, "available_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_num_workers() == expected
