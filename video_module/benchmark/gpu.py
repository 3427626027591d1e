"""Measure correctness, speed and memory on a GPU in eleven parts, or rehearse them in small without CUDA.

Every result is printed at once as a line of JSON, so that an interrupted run loses nothing. The parts run in a separate
process, which is killed if a part takes more than its share of the time, and a new process continues with the next
part. The same happens after a failure, because errors on the GPU can outlast the part that caused them.
"""

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

from video_module import cli
from video_module.errors import InputError
from video_module.tables import align

# Seconds for each part with swin3d_b on an H100, in order of importance. Later parts share the time that is left.
PARTS = {
    "versions": 15,
    "kernels": 25,
    "accuracy": 15,
    "speed": 55,
    "compile": 150,
    "batch_size": 30,
    "syncs": 10,
    "networks": 50,
    "loader": 60,
    "resume": 80,
    "profile": 10,
}
_MODULES = {
    "kernels": "gpu_kernels",
    **dict.fromkeys(("accuracy", "syncs", "resume", "batch_size"), "gpu_checks"),
    **dict.fromkeys(("versions", "speed", "compile", "profile", "networks", "loader"), "gpu_speed"),
}
_REFUSED = 2
"""Exit code of a process that cannot use the device."""
_READY = "ready\n"
_Row = dict[str, Any]
"""A result with "part" and "what", or the end of a part, with took_s, skipped, error or timed_out_after_s instead."""


def run(args: argparse.Namespace) -> list[_Row]:
    """Run all parts, print each row as soon as it is there, and return all rows."""
    settings = {"device": args.device, "model_type": args.model_type}
    settings["data_dir"] = None if args.data_dir is None else str(args.data_dir.absolute())
    left, rows = [part for part in PARTS if part in args.parts], []
    end = time.monotonic() + args.time_limit_s
    while left:
        for row in _run_process(left, settings, end):
            print(json.dumps(row), flush=True)
            rows.append(row)
            if "what" not in row:
                left.remove(row["part"])
    return rows


def has_failed(row: _Row) -> bool:
    return "error" in row or "timed_out_after_s" in row or row.get("ok") is False


def format_rows(rows: list[_Row]) -> str:
    """Format part, measurement and figures as a table, with only the longest kernels, since all were printed before."""
    cells = []
    for row in rows:
        figures = {key: value for key, value in row.items() if key not in ("part", "what")}
        if figures.get("rank", 0) <= 5:
            text = ", ".join(f"{key} {_format(value)}" for key, value in figures.items())
            cells.append((row["part"], row.get("what", ""), text))
    return align([("part", "what", "figures"), *cells], left=(0, 1, 2))


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _run_process(left: list[str], settings: _Row, end: float) -> Iterator[_Row]:
    """Yield the rows of the parts in `left`, up to the first that fails or overruns its share of the time."""
    command = [sys.executable, "-m", "video_module.benchmark.gpu", json.dumps({"parts": left, **settings})]
    # cuBLAS reads this once per process, and deterministic algorithms need it. On an H100 it is the default size.
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ, "TQDM_DISABLE": "1"}
    # Give the process its own group, so that the workers of its loaders are killed with it.
    group = {} if os.name == "nt" else {"process_group": 0}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8", errors="replace", **group
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    try:
        _await_start(lines, end)
        for part in list(left):  # the caller removes finished parts
            begin = time.monotonic()
            limit = (end - begin) * PARTS[part] / sum(PARTS[other] for other in left)
            if limit <= 0:
                yield {"part": part, "skipped": "no time left"}
                continue
            for row in _part_rows(part, lines, process, begin + limit):
                yield row
            if "error" in row or "timed_out_after_s" in row:
                return
    finally:
        _end(process)


def _await_start(lines: "queue.Queue[str | None]", end: float) -> None:
    """Wait until the process has imported torch, so that the import does not count as time of the first part."""
    with suppress(queue.Empty):
        line = lines.get(timeout=max(0.0, end - time.monotonic()))
        if line != _READY:
            lines.put(line)  # the process failed to start, which the first part reports


def _part_rows(
    part: str, lines: "queue.Queue[str | None]", process: subprocess.Popen, deadline: float
) -> Iterator[_Row]:
    """Yield the rows of one part; the last one has no "what"."""
    begin = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield {"part": part, "timed_out_after_s": round(deadline - begin, 1)}
            return
        if line is None:
            code = process.wait()
            if code == _REFUSED:
                raise InputError("no part can run; see the error above")
            yield {"part": part, "error": f"the process ended with code {code}"}
            return
        if not line.startswith("{"):
            print(line, end="", file=sys.stderr, flush=True)
            continue
        row = json.loads(line)
        yield row
        if "what" not in row:
            return


def _read_lines(process: subprocess.Popen, lines: "queue.Queue[str | None]") -> None:
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen) -> None:
    """Kill a process and everything that it started."""
    if os.name == "nt":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_parts(parts: list[str], settings: _Row) -> None:
    """Run parts in this process, up to the first one that fails."""
    from video_module.benchmark.gpu_setup import Setup

    print(_READY, end="", flush=True)
    for part in parts:
        begin = time.monotonic()
        try:
            setup = Setup(part=part, **settings)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(_REFUSED)
        try:
            getattr(import_module(f"video_module.benchmark.{_MODULES[part]}"), part)(setup)
        except Exception as error:
            package = error.name if isinstance(error, ModuleNotFoundError) else None
            if package is None or package.startswith("video_module"):
                setup.end(error=_last_line(error))
                raise
            setup.end(skipped=f"{package} is not installed")
        else:
            setup.end(took_s=time.monotonic() - begin)
        setup.free_memory()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


if __name__ == "__main__":
    cli.prepare_process(has_workers=True)
    given = json.loads(sys.argv[1])
    run_parts(given.pop("parts"), given)
