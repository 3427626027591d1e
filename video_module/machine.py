"""The cores available to this process, and a description of the machine. Imports only the standard library."""

import math
import os
import platform
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

# All code outside the benchmarks that behaves differently on Windows reads this, so that tests can change it here.
ON_WINDOWS = os.name == "nt"

_OWN_CGROUPS, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


# Packages that take the place of another one.
_BUILDS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")}


def describe_machine(packages: Sequence[str] = ("torch", "onnxruntime")) -> dict[str, str | int]:
    """Return processor, cores available to this process, system, and the versions of Python and `packages`."""
    from importlib import metadata

    versions = {}
    for package in packages:
        versions[package] = "not installed"
        for name in (package, *_BUILDS.get(package, ())):
            with suppress(metadata.PackageNotFoundError):
                versions[package] = metadata.version(name)
                break
    return {
        "processor": _processor(),
        "num_cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def available_cores() -> int:
    """Return the number of cores available to this process, limited by container and scheduler and rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_core_limits()]))


def share_of_cores() -> int:
    """Return the number of cores for each of torchrun's processes on this machine, at least 1."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def default_num_workers() -> int:
    """Return the default number of decoding processes: one per core of this process's share, at most eight."""
    return min(8, share_of_cores())


def leaves_bars() -> bool:
    """Return whether finished progress bars should stay.

    They stay in a log, where they end their line, but not in a terminal or notebook.
    """
    return not ((sys.stderr and sys.stderr.isatty()) or "ipykernel" in sys.modules)


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process. RANK alone does not tell, because other launchers set it too."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leave_terminal() -> None:
    """Discard further output to the terminal, because print() raises OSError once the terminal is closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)


def _core_limits() -> Iterator[int]:
    """Yield the number of cores that each of this process's control groups allows, rounded up."""
    for folder in _cpu_groups():
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # versions 2 and 1
            with suppress(OSError):
                words = " ".join((folder / file).read_text(encoding="utf-8") for file in files).split()
                # "max" or -1 means no limit.
                if words and words[0].isdecimal():
                    yield math.ceil(int(words[0]) / int(words[1]))


def _cpu_groups() -> Iterator[Path]:
    """Yield the folders of this process's control groups (Linux, versions 1 and 2) and of their parent groups."""
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = _CGROUPS / "cpu" if controllers else _CGROUPS
        # A container may see the name that its group has outside, while the group's files are at the top level inside.
        # Parent groups are read for this reason, and because any of them may set the lowest limit.
        group = top / name.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def peak_process_bytes() -> int | None:
    """Return the peak memory of this process in bytes, or None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or "unknown"
    first, _, _ = cpuinfo.read_text(encoding="utf-8").partition("\n\n")
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    # These determine the speed of matrix products, above all in 8 bits.
    known = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if name in flags]
    return " ".join([fields.get("model name", platform.machine()), *(["(" + ", ".join(known) + ")"] if known else [])])
