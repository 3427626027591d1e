"""Labelled parts of videos: find likely mistakes, and add background clips from the unlabelled parts."""

import difflib
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from video_module.data.labels import find_videos
from video_module.data.packets import PacketTable, packet_table
from video_module.data.records import SourceOf
from video_module.errors import InputError, VideoError
from video_module.files import file_digest, file_key
from video_module.tables import pluralize

# Times in tables are rounded to milliseconds, so a frame that begins slightly earlier is included.
TOLERANCE_S = 0.0005
# Distance of background from labelled actions, because their start and end are rarely labelled exactly.
_MARGIN_S = 0.5
# A label may be a misspelling of a similar one that is used this many times as often.
_RARE = 10
# Number of classes to name at each end of a long list.
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A labelled file, or a labelled part of a file."""

    file: Path
    name: str
    """The file as written in the table, with forward slashes."""
    label: str
    start_s: float | None = None
    end_s: float | None = None
    """Seconds from the file's first frame; None for a whole file."""
    source: str = ""
    split: str = ""
    line: int | None = field(default=None, compare=False)
    """Line of the table; None without a table."""

    def __str__(self) -> str:
        return self.name if self.start_s is None else f"{self.name}, {self.start_s:g} to {self.end_s:g} s"


def whole_files(class_dir: Path, *, source_of: SourceOf) -> list[Segment]:
    """Return the videos of a folder of classes as segments."""
    found = [(path, path.relative_to(class_dir).as_posix(), label) for label, path in find_videos(class_dir)]
    return [Segment(file=path, name=name, label=label, source=source_of(name, label)) for path, name, label in found]


def read_tables(files: Collection[Path], *, num_workers: int) -> dict[object, PacketTable | VideoError]:
    """Return the packet table of each file, or the error, by file_key()."""

    def read(file: Path) -> PacketTable | VideoError:
        try:
            return packet_table(file)
        except VideoError as error:
            return error

    with ThreadPoolExecutor(num_workers) as pool:
        tables = list(tqdm(pool.map(read, files), total=len(files), desc="reading", unit="file", delay=0.5))
    return {file_key(file): table for file, table in zip(files, tables, strict=True)}


def count_labels(segments: Sequence[Segment]) -> str:
    """List the number of segments per class in descending order. Of many classes, only the first and last are named."""
    counts = Counter(segment.label for segment in segments).most_common()
    shown = [f"{label} {count}" for label, count in counts]
    if len(shown) > 2 * _SHOWN:
        shown = [*shown[:_SHOWN], "…", *shown[-_SHOWN:]]
    return f"{pluralize(len(segments), 'row')}: {', '.join(shown)}"


def look_over(segments: Sequence[Segment]) -> list[str]:
    """Return notes on likely mistakes: similar labels, classes with one example, and overlapping segments."""
    alike = alike_labels(segments)
    notes, told = [note for note, _ in alike], {label for _, labels in alike for label in labels}
    counts = Counter(segment.label for segment in segments)
    if single := sorted(label for label, count in counts.items() if count == 1 and label not in told):
        names = ", ".join(single[:5]) + (", …" if len(single) > 5 else "")
        notes.append(f"only one example of {pluralize(len(single), 'class')}: {names}")
    if overlapping := list(_overlaps(segments)):
        first, second = overlapping[0]
        notes.append(
            f"{pluralize(len(overlapping), 'pair')} of segments with different labels overlap: {first} "
            f"({first.label}), and {second.start_s or 0:g} s on ({second.label})"
        )
    return notes


def alike_labels(segments: Sequence[Segment]) -> list[tuple[str, list[str]]]:
    """Find labels that may be different spellings of one class. Returns (note, labels that it is about) pairs."""
    counts = Counter(segment.label for segment in segments)
    lines = {segment.label: segment.line for segment in reversed(segments)}
    spelled = defaultdict(list)
    for label in sorted(counts):
        spelled[_letters(label)].append(label)
    notes = []
    for labels in spelled.values():
        if len(labels) > 1:
            names = ", ".join(f"{label} (line {lines[label]})" if lines[label] else label for label in labels)
            notes.append((f"labels that differ only in case, spaces, - or _ are different classes: {names}", labels))
    for label, count in counts.items():
        # Digits are ignored, because "walk_1" and "walk_2" may be two classes
        name, least = _name(label), _RARE * count if count > 1 else 2
        frequent = [other for other in counts if counts[other] >= least and _letters(other) != _letters(label)]
        close = difflib.get_close_matches(name, {_name(other) for other in frequent} - {name}, cutoff=0.8)
        if meant := [other for other in frequent if _name(other) in close]:
            other, line = max(meant, key=counts.get), f"line {lines[label]}: " if lines[label] else ""
            rows = [pluralize(counts[each], "row" if line else "video") for each in (label, other)]
            notes.append((f"{line}label {label} ({rows[0]}): did you mean {other} ({rows[1]})?", [label]))
    return notes


def _letters(label: str) -> str:
    return re.sub(r"[\s_-]", "", label.casefold())


def _name(label: str) -> str:
    return re.sub(r"\d", "", label)


def describe_copies(segments: Sequence[Segment]) -> list[str]:
    """Describe files with equal content, as a warning if their labels differ, otherwise as a note."""
    by_size: dict[int, dict[str, Segment]] = defaultdict(dict)
    for segment in segments:
        by_size[segment.file.stat().st_size].setdefault(segment.name, segment)
    groups = defaultdict(list)
    for size, named in by_size.items():
        # Files without another of the same size need not be read, and empty ones are rejected later
        for segment in named.values() if size and len(named) > 1 else ():
            groups[size, file_digest(segment.file)].append(segment)
    doubled, mislabelled = [], []
    for copies in groups.values():
        # Segments of one file may well have different labels
        are_whole = all(segment.start_s is None for segment in copies)
        firsts: dict[str, Segment] = {}
        for segment in copies:
            first = firsts.setdefault(segment.label if are_whole else "", segment)
            doubled += [(first, segment)] if first is not segment else []
        mislabelled += [tuple(firsts.values())[:2]] if len(firsts) > 1 else []
    lines = []
    if mislabelled:
        first, second = mislabelled[0]
        in_all = f" ({len(mislabelled)} such files in all)" if len(mislabelled) > 1 else ""
        lines.append(
            f"warning: {first.name} and {second.name} are copies of one file under two labels, {first.label} and "
            f"{second.label}; delete one{in_all}"
        )
    if doubled:
        first, second = doubled[0]
        in_all = f" ({len(doubled)} such copies in all)" if len(doubled) > 1 else ""
        lines.append(
            f"note: {first.name} and {second.name} are copies of one file: it counts twice, or is in both train and "
            f"test; delete one{in_all}"
        )
    return lines


def _overlaps(segments: Sequence[Segment]) -> Iterator[tuple[Segment, Segment]]:
    """Yield successive segments of a file that overlap and have different labels."""
    for of_file in by_file(segments).values():
        ordered = sorted(of_file, key=lambda segment: (segment.start_s or 0.0, segment.end_s or math.inf))
        for first, second in pairwise(ordered):
            late_s = (first.end_s or math.inf) - (second.start_s or 0.0)
            if first.label != second.label and late_s > TOLERANCE_S:
                yield first, second


def by_file(segments: Sequence[Segment]) -> dict[object, list[Segment]]:
    """Group segments by file_key()."""
    found = defaultdict(list)
    for segment in segments:
        found[file_key(segment.file)].append(segment)
    return found


def check_classes(segments: Sequence[Segment]) -> None:
    """Raise InputError if no classifier can be trained on these segments. Called before they are cut."""
    labels = sorted({segment.label for segment in segments})
    if len(labels) < 2:
        raise InputError(f"a classifier needs at least two classes, found {labels}")
    trained = {segment.label for segment in segments if segment.split in ("", "train")}
    if untrained := sorted(set(labels) - trained):
        raise InputError(f"class {untrained[0]!r} has no training video: the column split puts all of them elsewhere")


# ---- background


def add_background(segments: Sequence[Segment], name: str, *, seed: int) -> tuple[list[Segment], list[str]]:
    """Choose unlabelled segments as a class `name`. Returns as many as an average class has, and notes.

    Their lengths are drawn from those of the labelled segments. They overlap neither these nor each other, and come
    from all files in turn, except those labelled as a whole. Raises InputError if there is no room for any.
    """
    counts = Counter(segment.label for segment in segments)
    num_there = counts.pop(name, 0)
    num_wanted = round(counts.total() / max(1, len(counts))) - num_there
    rng = random.Random(seed)
    recordings = [
        of_file for of_file in by_file(segments).values() if all(segment.start_s is not None for segment in of_file)
    ]
    recordings.sort(key=lambda of_file: of_file[0].name)
    rng.shuffle(recordings)
    lengths_s = sorted(
        segment.end_s - segment.start_s
        for of_file in recordings
        for segment in of_file
        if segment.label != name and segment.end_s - segment.start_s > 0
    )
    if num_wanted <= 0:
        return [], []
    if not lengths_s and num_there:
        return [], [f"no background segments were added: only those called {name} have start_s and end_s"]
    if not lengths_s:
        raise InputError(f"--background {name}: requires segments with start_s and end_s")
    shortest_s, needed_s = (f"{round(seconds, 3):g}" for seconds in (lengths_s[0], lengths_s[0] + 2 * _MARGIN_S))
    stretches = [(of_file[0], _stretches(of_file)) for of_file in recordings]
    found: list[Segment] = []
    while stretches and len(found) < num_wanted:
        recording, free = stretches.pop(0)
        if (taken := _take(free, rng.choice(lengths_s), shortest_s=lengths_s[0], rng=rng)) is None:
            continue
        found.append(replace(recording, label=name, start_s=taken[0], end_s=taken[1]))
        stretches.append((recording, free))
    if not found and not num_there:
        gaps = [stretch for of_file in recordings for stretch in _stretches(of_file, margin_s=0.0)]
        longest_s = max((end - begin for begin, end in gaps), default=0.0)
        raise InputError(
            f"--background {name}: no unlabelled stretch is long enough: one takes {needed_s} s or more (your shortest "
            f"segment lasts {shortest_s} s, and half a second is left on either side), but the longest lasts "
            f"{round(longest_s, 3):g} s; leave out --background, or leave more time unlabelled"
        )
    notes = []
    if len(found) < num_wanted:
        notes.append(
            f"found room for only {len(found)} of {num_wanted} background segments: between labelled segments, one "
            f"takes {needed_s} s or more"
        )
    return found, notes


def _stretches(segments: Sequence[Segment], *, margin_s: float = _MARGIN_S) -> list[tuple[float, float]]:
    """Return the parts of a file that are at least `margin_s` from all its segments, as (start, end) in seconds."""
    end_s, free = 0.0, []
    for segment in sorted(segments, key=lambda segment: segment.start_s):
        free.append((end_s, segment.start_s - margin_s))
        end_s = max(end_s, segment.end_s + margin_s)
    free.append((end_s, packet_table(segments[0].file).end_s))
    return [(begin, end) for begin, end in free if end > begin]


def _take(
    free: list[tuple[float, float]], length_s: float, *, shortest_s: float, rng: random.Random
) -> tuple[float, float] | None:
    """Take a random segment of `length_s` out of the `free` parts. If all are shorter, take the longest part.

    Returns None if that is shorter than `shortest_s`.
    """
    if not free:
        return None
    longest_s = max(end - begin for begin, end in free)
    if longest_s < shortest_s:
        return None
    length_s = min(length_s, longest_s)
    # Starts are whole milliseconds, as in the names of clips
    room = [max(0.0, end - begin - length_s + 0.001) for begin, end in free]
    [place] = rng.choices(range(len(free)), room)
    begin, end = free[place]
    start_s = round(rng.uniform(begin, end - length_s), 3)
    taken = max(begin, start_s), min(end, start_s + length_s)
    free[place : place + 1] = [(begin, taken[0]), (taken[1], end)]
    return round(taken[0], 6), round(taken[1], 6)
