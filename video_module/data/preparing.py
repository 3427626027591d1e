"""Long, large or labelled footage made into short files that train fast.

The files go to a folder of classes, the store, and stay there: what is whole is not made again, after a kill or with a
corrected table. Keyframes stand close together in them, since a clip that begins anywhere is decoded from the keyframe
before it.
"""

import errno
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from threading import Event, Lock
from typing import Any
from zlib import crc32

import cv2
import numpy as np
from tqdm import tqdm

from video_module.data.decoding import frames_from, read_info
from video_module.data.encoding import open_video
from video_module.data.labels import has_entries
from video_module.data.layout import place
from video_module.data.packets import PacketTable, packet_table
from video_module.data.records import Rejected, VideoRecord, probe_video
from video_module.data.segments import TOLERANCE_S, Segment, by_file, read_tables
from video_module.errors import InputError, VideoError
from video_module.files import check_output, file_key, lies_in, locked, write_text

SHORT_SIDE = 256
"""Of segments, in pixels: what most models resize to."""
# A clip decodes half as many frames as this in vain, on average.
_KEYFRAME_INTERVAL = 16
# What is known of each finished file, a line each.
_LOG = "prepared.jsonl"
# Raised when files would come out otherwise, so that those of earlier versions are made anew.
_VERSION = 1
# Of an original's frames in a clip, so many may be lost. A tenth is damage, as in records.py.
_MAX_LOST = 0.1
# How long a frame is shown at least, where a file gives two of them one time.
_LEAST_S = 0.0001
# Of names, which get times and a suffix, and longer names while they are written.
_MOST_BYTES = 180


@dataclass(kw_only=True)
class Prepared:
    """What prepare() made, and what that took."""

    videos: list[VideoRecord]
    """Their paths are relative to the store."""
    rejected: list[Rejected]
    num_found: int
    """Files that an earlier run had made."""
    seconds: float
    bytes_before: int
    duration_before_s: float
    """Of the files that the videos come from."""
    bytes_after: int
    duration_after_s: float


def store_beside(output_dir: Path) -> Path:
    """The folder for the clips of a split that goes to `output_dir`."""
    named = output_dir if output_dir.name else output_dir.absolute()
    return named.with_name(f"{named.name}_clips")


def check_store(store: Path, segments: Sequence[Segment], output_dirs: Sequence[Path]) -> None:
    """Raise InputError if the store is another's, or if an original lies where files are replaced."""
    check_output(store, folder=True)
    if has_entries(store) and not (store / _LOG).is_file():
        raise InputError(f"{store}: not empty, and not made by split_data.py, which would put clips there; move it")
    for folder in {segment.file.parent for segment in segments}:
        for place_of_ours in (store, *output_dirs):
            if lies_in(folder, place_of_ours):
                raise InputError(
                    f"{folder}: holds videos of the table, and lies in {place_of_ours}, which this replaces; choose "
                    "another --output_dir"
                )


def prepare(segments: Sequence[Segment], store: Path, *, short_side: int | None, num_workers: int) -> Prepared:
    """Make the clip of each segment in the folder `store`, or find it there, and count its frames.

    Parts of files are encoded anew, their short side brought to `short_side` (None: SHORT_SIDE) and never enlarged.
    Whole files are encoded only if they are larger than `short_side`, else linked. Raises InputError when the disk is
    full; what is finished stays.
    """
    begin_s = time.monotonic()
    jobs = _plan(segments, short_side)
    with locked(store / _LOG):
        for leftover in store.glob("*/.*.partial-*"):
            leftover.unlink()
        log = _Log(store)
        done = {job.key: entry for job in jobs if (entry := log.find(job))}
        num_found = sum(job.key in done for job in jobs)
        todo = {job.key: job for job in jobs if job.key not in done}
        made = _make_all(todo, log, num_workers=num_workers) if todo else {}
    done |= {key: entry for key, entry in made.items() if isinstance(entry, dict)}
    rejected = [entry for entry in made.values() if isinstance(entry, Rejected)]
    kept = [job for job in jobs if job.key in done]
    videos = [_record(job.segment, done[job.key]) for job in kept]
    originals = {file_key(job.segment.file): job for job in kept}
    return Prepared(
        videos=videos,
        rejected=sorted(rejected, key=lambda item: item.path),
        num_found=num_found,
        seconds=time.monotonic() - begin_s,
        bytes_before=sum(job.segment.file.stat().st_size for job in originals.values()),
        duration_before_s=sum(done[job.key]["file_s"] for job in originals.values()),
        bytes_after=sum(entry["bytes"] for entry in done.values()),
        duration_after_s=sum(video.num_frames / video.fps for video in videos),
    )


def _record(segment: Segment, entry: dict[str, Any]) -> VideoRecord:
    known = {key: entry[key] for key in ("path", "num_frames", "fps", "num_damaged_frames", "has_times")}
    return VideoRecord(
        **known,
        label=segment.label,
        source=segment.source,
        split=segment.split,
        edges_s=entry["edges_s"] and tuple(entry["edges_s"]),
        cut_from=segment.name,
        start_s=segment.start_s,
        end_s=segment.end_s,
    )


# ---- what to make


@dataclass(kw_only=True)
class _Job:
    """A segment, and what its clip is called within its class, without a suffix."""

    segment: Segment
    stem: str
    short_side: int | None
    """None: link, whatever its size."""

    @cached_property
    def key(self) -> str:
        """Equal for two jobs exactly if they make the same file."""
        segment, status = self.segment, self.segment.file.stat()
        original = [str(segment.file.resolve()), status.st_size, status.st_mtime_ns]
        times = [segment.start_s, segment.end_s]
        return json.dumps([_VERSION, *original, *times, self.short_side, segment.label, self.stem])


def _plan(segments: Sequence[Segment], short_side: int | None) -> list[_Job]:
    stems = _stems(segments)
    jobs = []
    names: dict[tuple[str, str], tuple[float, float]] = {}
    for segment in segments:
        stem, size = stems[file_key(segment.file)], short_side
        if segment.start_s is not None:
            times = segment.start_s, segment.end_s
            stem = f"{stem}_{round(times[0] * 1000)}-{round(times[1] * 1000)}"
            size = short_side or SHORT_SIDE
            # Frames may stand less than a millisecond apart
            if names.setdefault((segment.label, stem), times) != times:
                stem = f"{stem}_{crc32(str(times).encode()):08x}"
        jobs.append(_Job(segment=segment, stem=stem, short_side=size))
    return jobs


def _stems(segments: Sequence[Segment]) -> dict[object, str]:
    """What the clips of each file are called, by file_key(): as the file, with its folders where others are, too."""
    files = {key: of_file[0].name for key, of_file in by_file(segments).items()}
    labels = defaultdict(set)
    for segment in segments:
        labels[file_key(segment.file)].add(segment.label)

    def clashing(stems: dict[object, str]) -> set[object]:
        owners = defaultdict(set)
        for key, stem in stems.items():
            for label in labels[key]:
                # Some systems take names that differ in case for one
                owners[label.casefold(), stem.casefold()].add(key)
        return {key for keys in owners.values() if len(keys) > 1 for key in keys}

    stems = {key: PurePosixPath(name).stem for key, name in files.items()}
    for key in clashing(stems):
        parts = PurePosixPath(files[key]).with_suffix("").parts
        stems[key] = "_".join(part for part in parts if part not in ("/", ".."))
    clashes = clashing(stems)
    for key, stem in stems.items():
        if key in clashes or len(os.fsencode(stem)) > _MOST_BYTES:
            short = os.fsencode(stem)[:_MOST_BYTES].decode("utf-8", "ignore")
            stems[key] = f"{short}-{crc32(files[key].encode()):08x}"
    return stems


# ---- how it is made


class _Log:
    """A line for each finished file of a store: the job, and what decoding it told."""

    def __init__(self, store: Path) -> None:
        self.store, self._lock = store, Lock()
        self._path = store / _LOG
        self._entries: dict[str, dict[str, Any]] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else ():
            try:
                entry = json.loads(line)
                self._entries[entry["key"]] = entry
            except (ValueError, KeyError, TypeError):
                # Where a run was killed, or the disk was full
                continue
        if self._path.is_file():
            write_text(self._path, "".join(f"{json.dumps(entry)}\n" for entry in self._entries.values()))

    def find(self, job: _Job) -> dict[str, Any] | None:
        entry = self._entries.get(job.key)
        if entry is None:
            return None
        file = self.store / entry["path"]
        return entry if file.is_file() and file.stat().st_size == entry["bytes"] else None

    def append(self, entry: dict[str, Any]) -> None:
        with self._lock, open(self._path, "a", encoding="utf-8", newline="\n") as file:
            file.write(f"{json.dumps(entry)}\n")


class _Stopped(Exception):
    """Another clip failed, or the user pressed Ctrl-C."""


def _make_all(todo: dict[str, _Job], log: _Log, *, num_workers: int) -> dict[str, dict[str, Any] | Rejected]:
    """Make the files of all jobs at once, with a bar: what the log has of each, or why there is none."""
    files = {file_key(job.segment.file): job.segment.file for job in todo.values()}
    tables = read_tables(files.values(), num_workers=num_workers)
    length_s = sum(_length_s(job.segment, tables) for job in todo.values())
    stop, lock, made = Event(), Lock(), {}
    bar = tqdm(
        total=round(length_s, 1),
        desc="preparing",
        unit="s",
        delay=0.5,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of video [{elapsed}<{remaining}]{postfix}",
    )

    def advance(seconds: float) -> None:
        if stop.is_set():
            raise _Stopped
        with lock:
            bar.update(seconds)

    # The clips are the parallelism already. Threads, since decoding and encoding let others run, and share the tables.
    num_cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="prepare")
    try:
        keys = {pool.submit(_make, job, log, advance): key for key, job in todo.items()}
        for future in as_completed(keys):
            made[keys[future]] = future.result()
            bar.set_postfix_str(f"{len(made)}/{len(todo)} clips")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{log.store}: the disk is full; {len(made)} of {len(todo)} clips are finished and stay; make room and run "
            "this again, which goes on with the rest"
        ) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(num_cv2_threads)
        bar.close()
    return made


def _length_s(segment: Segment, tables: dict[object, PacketTable | VideoError]) -> float:
    if segment.start_s is not None:
        return segment.end_s - segment.start_s
    table = tables[file_key(segment.file)]
    return 0.0 if isinstance(table, VideoError) else table.end_s


def _make(job: _Job, log: _Log, advance: Callable[[float], None]) -> dict[str, Any] | Rejected:
    segment, folder = job.segment, log.store / job.segment.label
    try:
        folder.mkdir(parents=True, exist_ok=True)
        info = read_info(segment.file) if segment.start_s is None and job.short_side else None
        num_lost = 0
        if segment.start_s is None and (info is None or min(info.height, info.width) <= job.short_side):
            target = folder / f"{job.stem}{segment.file.suffix}"
            target.unlink(missing_ok=True)
            place(segment.file.resolve(), target, "sym", "hard")
            advance(packet_table(segment.file).end_s)
        else:
            target = folder / f"{job.stem}.mp4"
            num_lost = write_clip(target, segment, short_side=job.short_side, advance=advance)
        probe = probe_video(target)
    except VideoError as error:
        return Rejected(path=str(segment), reason=str(error).removeprefix(f"{segment.file}: "))
    probe = probe._replace(num_damaged_frames=probe.num_damaged_frames + num_lost)
    entry = {
        "key": job.key,
        "path": target.relative_to(log.store).as_posix(),
        "bytes": target.stat().st_size,
        "file_s": packet_table(segment.file).end_s,
        **probe._asdict(),
    }
    log.append(entry)
    return entry


def write_clip(
    path: Path, segment: Segment, *, short_side: int, advance: Callable[[float], None] = lambda seconds: None
) -> int:
    """Encode a segment: H.264, the frames' own times, no sound. Returns how many of its frames the file has lost.

    `advance` is told the seconds that each frame is shown. Raises VideoError if no frame decodes, or too few.
    """
    table = packet_table(segment.file)
    begin_s = (segment.start_s or 0.0) - TOLERANCE_S
    end_s = math.inf if segment.end_s is None else segment.end_s - TOLERANCE_S
    first, last = np.searchsorted(table.edges_s()[:-1], [begin_s, end_s])
    num_frames, now_s, size = 0, 0.0, None
    frames = frames_from(segment.file, begin_s)
    with closing(frames), open_video(path, fps=table.fps, keyframe_interval=_KEYFRAME_INTERVAL) as writer:
        frame = next(frames, None)
        zero_s = frame.time_s if frame else 0.0
        while frame is not None and frame.time_s < end_s:
            pixels = frame.to_rgb()
            size = size or _prepared_size(*pixels.shape[:2], short_side)
            frame = next(frames, None)
            until_s = max((frame.time_s if frame else table.end_s) - zero_s, now_s + _LEAST_S)
            writer.write(_resize(pixels, size), (now_s, until_s))
            advance(until_s - now_s)
            num_frames, now_s = num_frames + 1, until_s
        if num_frames == 0:
            raise VideoError(f"{segment.file}: no frame decodes")
    num_due = int(last - first)
    num_lost = max(0, num_due - num_frames)
    # Packets may promise frames that a sound file does not have
    if num_lost > _MAX_LOST * num_due and probe_video(segment.file).num_damaged_frames == 0:
        return 0
    if num_lost > _MAX_LOST * num_due:
        path.unlink()
        raise VideoError(f"{segment.file}: damaged: only {num_frames} of {num_due} frames decode")
    return num_lost


def _prepared_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the short side brought to `short_side`, if it is longer; even, as H.264 wants them."""
    scale = short_side / min(height, width)
    return (height, width) if scale >= 1 else (2 * round(height * scale / 2), 2 * round(width * scale / 2))


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # As evaluation and serving resize, so that a network sees the same in a clip and in what it was cut from
    return pixels if pixels.shape[:2] == size else cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
