"""What this process may use of the machine, and how to describe the machine. Standard library only."""

import math
import os
import platform
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

# Whoever does something else on Windows looks it up here, so that a test can change it in one place.
ON_WINDOWS = os.name == "nt"

_OWN_CGROUPS, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def describe_machine(packages: Sequence[str] = ("torch", "onnxruntime")) -> dict[str, str | int]:
    """Processor, cores that this process may use, system, and versions of Python and `packages`."""
    from importlib import metadata

    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": _processor(),
        "num_cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def available_cores() -> int:
    """Cores that this process may use: the machine's, or a container's or scheduler's part of them, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_core_limits()]))


def share_of_cores() -> int:
    """This process's share of the cores, among torchrun's processes on this machine."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def default_num_workers() -> int:
    """Default number of decoding processes: one per core of this process's share, at most eight."""
    return min(8, share_of_cores())


def leaves_bars() -> bool:
    """Whether a bar that is done stays in the output: in a log, where it ends its line and what follows begins a new
    one. From a terminal or a notebook it is wiped.
    """
    return not ((sys.stderr and sys.stderr.isatty()) or "ipykernel" in sys.modules)


def started_by_torchrun() -> bool:
    """Whether this process is one of torchrun's; RANK alone is set by other launchers too."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leave_terminal() -> None:
    """Discard what is still written to a terminal. Once it is closed, each print() would raise an OSError."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)


def _core_limits() -> Iterator[int]:
    """Cores' worth of time that each of this process's control groups allows, rounded up."""
    for folder in _cpu_groups():
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # versions 2 and 1
            with suppress(OSError):
                words = " ".join((folder / file).read_text(encoding="utf-8") for file in files).split()
                # Where there is no limit, it says "max" or -1.
                if words and words[0].isdecimal():
                    yield math.ceil(int(words[0]) / int(words[1]))


def _cpu_groups() -> Iterator[Path]:
    """Folders of this process's control groups (Linux), versions 1 and 2, and of the groups around them."""
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = _CGROUPS / "cpu" if controllers else _CGROUPS
        # A container may be told the name that its group has outside, while inside its files lie on top. So the groups
        # around it are looked at too, and any of them may set the narrowest limit.
        group = top / name.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def peak_process_bytes() -> int | None:
    """Peak memory of this process; None if the system does not say."""
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
    # What decides how fast matrix products are, above all in 8 bits.
    known = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if name in flags]
    return " ".join([fields.get("model name", platform.machine()), *(["(" + ", ".join(known) + ")"] if known else [])])
