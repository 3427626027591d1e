"""Turn long, large or labelled videos into short files that load fast in training.

The files are kept in a folder of classes, the store. Finished ones are reused after an interruption or when the table
is corrected. They have frequent keyframes, because a clip is decoded from the keyframe before its start.
"""

import errno
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from threading import Event, Lock
from typing import Any
from zlib import crc32

import cv2
from tqdm import tqdm

from video_module.data.cutting import Stopped, write_clips
from video_module.data.decoding import read_info
from video_module.data.labels import has_entries
from video_module.data.layout import check_split_output, place
from video_module.data.packets import PacketTable, packet_table
from video_module.data.records import Rejected, VideoRecord, probe_video
from video_module.data.segments import Segment, by_file, read_tables
from video_module.errors import InputError, VideoError
from video_module.files import check_output, file_key, lies_in, locked, write_text
from video_module.tables import pluralize, round_duration

SHORT_SIDE = 256
"""Default short side of segments in pixels. Most models resize to it."""
# Lists the finished files, one per line.
_LOG = "prepared.jsonl"
# Increase it when files are written differently, so that those of earlier versions are replaced.
_VERSION = 1
# Longest name in bytes, before times, a suffix and the mark of an unfinished file are added.
_MOST_BYTES = 180


@dataclass(kw_only=True)
class Prepared:
    """The result of prepare()."""

    videos: list[VideoRecord]
    """Their paths are relative to the store."""
    rejected: list[Rejected]
    num_found: int
    """Number of clips from an earlier run."""
    seconds: float
    bytes_before: int
    duration_before_s: float
    """Size and duration of the original files."""
    bytes_after: int
    duration_after_s: float

    def summary(self) -> str:
        """Return a line with the number of clips, the time taken, and the sizes before and after."""
        found = f" ({self.num_found} of them from an earlier run)" if self.num_found else ""
        sizes = f"{self.bytes_before / 1e6:,.1f} MB ({round_duration(self.duration_before_s)}) of video"
        # Nothing changed if all files were linked
        if self.bytes_after != self.bytes_before:
            sizes += f" became {self.bytes_after / 1e6:,.1f} MB ({round_duration(self.duration_after_s)})"
        return f"{pluralize(len(self.videos), 'clip')}{found} in {round_duration(self.seconds)}; {sizes}"


def store_beside(output_dir: Path) -> Path:
    """Return the folder for the clips of a split in `output_dir`."""
    named = output_dir if output_dir.name else output_dir.absolute()
    if not named.name:
        raise InputError(
            f"--output_dir {output_dir}: clips go to a folder beside it, and there is none; choose another"
        )
    return named.with_name(f"{named.name}_clips")


def check_store(store: Path, segments: Sequence[Segment], output_dirs: Sequence[Path]) -> None:
    """Raise InputError if clips or splits cannot be written here, or would overwrite other files."""
    check_output(store, folder=True)
    if has_entries(store) and not (store / _LOG).is_file():
        raise InputError(
            f"{store}: split_data.py puts clips here, but the folder holds other files; move it, or choose another "
            "--output_dir"
        )
    for folder in {segment.file.parent for segment in segments}:
        for place_of_ours in (store, *output_dirs):
            if lies_in(folder, place_of_ours):
                raise InputError(
                    f"{folder}: contains videos to split, and is in {place_of_ours}, which will be replaced; choose "
                    "another --output_dir"
                )
    for output_dir in output_dirs:
        check_split_output(store, output_dir)


def prepare(segments: Sequence[Segment], store: Path, *, short_side: int | None, num_workers: int) -> Prepared:
    """Write the clip of each segment to the folder `store`, unless it exists, and count its frames.

    Parts of files are re-encoded and reduced to `short_side` (SHORT_SIDE if None), but never enlarged. Whole files are
    re-encoded only if they are larger than `short_side`, otherwise they are linked. Raises InputError if the disk is
    full; finished clips are kept.
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


# ---- which clips to make


@dataclass(kw_only=True)
class _Job:
    """A segment and the name of its clip within the class, without a suffix."""

    segment: Segment
    stem: str
    short_side: int | None
    """None links the file, whatever its size."""

    @cached_property
    def key(self) -> str:
        """A string that is equal for two jobs if and only if they make the same file."""
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
            # The rounded times of two segments may be equal
            if names.setdefault((segment.label, stem), times) != times:
                stem = f"{stem}_{crc32(str(times).encode()):08x}"
        jobs.append(_Job(segment=segment, stem=stem, short_side=size))
    return jobs


def _stems(segments: Sequence[Segment]) -> dict[object, str]:
    """Name the clips of each file, by file_key(), after the file; with its folders if that is not unique."""
    files = {key: of_file[0].name for key, of_file in by_file(segments).items()}
    labels = defaultdict(set)
    for segment in segments:
        labels[file_key(segment.file)].add(segment.label)

    def clashing(stems: dict[object, str]) -> set[object]:
        owners = defaultdict(set)
        for key, stem in stems.items():
            for label in labels[key]:
                # Some file systems ignore case
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


# ---- making the clips


class _Log:
    """The list of a store's finished files, with one line for the job and the probe of each."""

    def __init__(self, store: Path) -> None:
        self.store, self._lock = store, Lock()
        self._path = store / _LOG
        self._entries: dict[str, dict[str, Any]] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else ():
            try:
                entry = json.loads(line)
                self._entries[entry["key"]] = entry
            except (ValueError, KeyError, TypeError):
                # A run was killed while writing this line, or the disk was full
                continue
        # Written before any clip, because check_store() rejects a folder with files but no log
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


def _make_all(todo: dict[str, _Job], log: _Log, *, num_workers: int) -> dict[str, dict[str, Any] | Rejected]:
    """Make the files of all jobs in parallel. Returns for each its entry in the log, or why it was rejected."""
    files = {file_key(job.segment.file): job.segment.file for job in todo.values()}
    tables = read_tables(files.values(), num_workers=num_workers)
    length_s = sum(_length_s(job.segment, tables) for job in todo.values())
    stop, lock, made = Event(), Lock(), {}
    bar = tqdm(
        total=length_s,
        desc="preparing",
        unit="s",
        delay=0.5,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of video [{elapsed}<{remaining}]{postfix}",
    )

    def advance(seconds: float) -> None:
        if stop.is_set():
            raise Stopped
        with lock:
            # Lengths are estimates, and tqdm prints a warning above 100 %.
            bar.update(min(seconds, bar.total - bar.n))

    # Clips are processed in parallel, so OpenCV gets one thread. Threads are enough, because decoding and encoding
    # release the interpreter lock, and they share the packet tables.
    num_cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="prepare")
    try:
        futures = [pool.submit(_make, jobs, log, advance) for jobs in _together(todo.values(), tables)]
        for future in as_completed(futures):
            made |= future.result()
            bar.set_postfix_str(f"{len(made)}/{len(todo)} clips")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{log.store}: the disk is full; {len(made)} of {len(todo)} clips are finished and kept; free some space, "
            "and run the same command again to continue"
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


def _together(jobs: Iterable[_Job], tables: dict[object, PacketTable | VideoError]) -> list[list[_Job]]:
    """Group the jobs. Those of a file without exact seeks are done together, to read it once; others are alone."""
    groups: dict[object, list[_Job]] = {}
    for job in jobs:
        table = tables[file_key(job.segment.file)]
        by_seeks = job.segment.start_s is None or isinstance(table, VideoError) or table.is_seekable
        groups.setdefault(job.key if by_seeks else file_key(job.segment.file), []).append(job)
    return list(groups.values())


def _make(jobs: list[_Job], log: _Log, advance: Callable[[float], None]) -> dict[str, dict[str, Any] | Rejected]:
    """Make the clips of one file, or link the file."""
    file, made = jobs[0].segment.file, {}
    try:
        for job in jobs:
            (log.store / job.segment.label).mkdir(parents=True, exist_ok=True)
        if jobs[0].segment.start_s is None and _is_small(jobs[0]):
            [job] = jobs
            target = log.store / job.segment.label / f"{job.stem}{file.suffix}"
            target.unlink(missing_ok=True)
            place(file.resolve(), target, "sym", "hard")
            advance(packet_table(file).end_s)
            made[job.key] = _finish(job, target, log)
            return made
        targets = {log.store / job.segment.label / f"{job.stem}.mp4": job for job in jobs}
        segments = {target: job.segment for target, job in targets.items()}
        for target, num_lost in write_clips(segments, short_side=jobs[0].short_side, advance=advance):
            made[targets[target].key] = _finish(targets[target], target, log, num_lost)
    except VideoError as error:
        rest = (job for job in jobs if job.key not in made)
        made |= {job.key: _reject(job, error) for job in rest}
    return made


def _is_small(job: _Job) -> bool:
    """Return whether a whole file is small enough to be linked."""
    if job.short_side is None:
        return True
    info = read_info(job.segment.file)
    return min(info.height, info.width) <= job.short_side


def _finish(job: _Job, target: Path, log: _Log, num_lost: int | VideoError = 0) -> dict[str, Any] | Rejected:
    """Count the frames of a finished file and add it to the log."""
    if isinstance(num_lost, VideoError):
        return _reject(job, num_lost)
    try:
        probe = probe_video(target)
    except VideoError as error:
        return _reject(job, error)
    probe = probe._replace(num_damaged_frames=probe.num_damaged_frames + num_lost)
    entry = {
        "key": job.key,
        "path": target.relative_to(log.store).as_posix(),
        "bytes": target.stat().st_size,
        "file_s": packet_table(job.segment.file).end_s,
        **probe._asdict(),
    }
    log.append(entry)
    return entry


def _reject(job: _Job, error: VideoError) -> Rejected:
    return Rejected(path=str(job.segment), reason=str(error).removeprefix(f"{job.segment.file}: "))
