import os
import platform
import sys
import types
from pathlib import Path

import numpy
import pytest

from video_module import machine
from video_module.machine import (
    available_cores,
    default_num_workers,
    describe_machine,
    peak_process_bytes,
)


def test_describe_machine():
    described = describe_machine(("numpy", "a-package-that-nobody-made"))
    assert described["numpy"] == numpy.__version__
    assert described["a-package-that-nobody-made"] == "not installed"
    assert described["python"] == platform.python_version()
    assert described["num_cores"] == available_cores()
    assert described["processor"]


def test_another_build_of_a_package_counts(monkeypatch):
    monkeypatch.setitem(machine._BUILDS, "a-package-that-nobody-made", ("neither-this", "numpy"))
    described = describe_machine(["a-package-that-nobody-made"])
    assert described["a-package-that-nobody-made"] == numpy.__version__


def test_available_cores_follow_the_affinity(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4, 5}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # Windows, macOS
    assert available_cores() == 64


def test_information_that_the_system_does_not_provide(monkeypatch):
    """Windows has no module resource, and only Linux has /proc."""
    assert (peak_process_bytes() or 1e8) > 1e7
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(machine, "_OWN_CGROUPS", Path("/nowhere"))
    assert peak_process_bytes() is None
    assert machine._processor() == "unknown"


@pytest.mark.parametrize(("cores", "processes", "expected"), [(1, 1, 1), (3, 1, 3), (6, 4, 1), (32, 2, 8), (2, 8, 1)])
def test_default_num_workers(monkeypatch, cores, processes, expected):
    """Workers are limited to the available cores, because torch warns about more."""
    monkeypatch.setattr(machine, "available_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_num_workers() == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),  # docker --cpus 2.5
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/job/step\n", {"job/cpu.max": "400000 100000\n", "job/step/cpu.max": "max 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("3:cpu,cpuacct:/docker/ab\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("3:memory:/\n", {"cpu.max": "100000 100000"}, 64),
    ],
)
def test_available_cores_follow_the_limit_of_a_container(own, files, expected, tmp_path, monkeypatch):
    make_groups(own, files, tmp_path, monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert machine.available_cores() == expected


def make_groups(own: str, files: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create a cgroup file system with `files`, and `own` as /proc/self/cgroup."""
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "cgroup").write_text(own)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", folder / "cgroup")
    monkeypatch.setattr(machine, "_CGROUPS", folder / "groups")


def test_progress_bars_are_left_in_logs_but_cleared_in_terminals(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", None)  # closed by the shell
    assert machine.leaves_bars()
    for is_terminal in (False, True):
        monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(isatty=lambda value=is_terminal: value))
        assert machine.leaves_bars() != is_terminal
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))  # in a notebook
    assert not machine.leaves_bars()
