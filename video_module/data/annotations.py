"""Read and check tables of labelled clips: the file, the label, and optionally start and end."""

import csv
import difflib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from video_module.data.labels import SPLITS, VIDEO_SUFFIXES, is_video, read_class_list
from video_module.data.packets import PacketTable
from video_module.data.records import Rejected, SourceOf, name_source
from video_module.data.segments import TOLERANCE_S, Segment, look_over, read_tables
from video_module.errors import InputError, VideoError
from video_module.files import file_key, read_text
from video_module.tables import pluralize

_COLUMNS = ("path", "label", "start_s", "end_s", "start_frame", "end_frame", "source", "source_video", "split")
# An unknown column with such a name probably holds times. Ignoring it would label whole files instead of segments.
_TIMES = re.compile(r"(start|begin|from|end|stop|until|to)\b|(start|begin|end|stop)_")
_HEADER = "a first line with the columns path and label (and start_s, end_s, source, split, as needed)"
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
# How far a row's end may lie beyond the end of its file: players round, and some count sound that outlasts the picture.
_MAX_LATE_S = 0.5
_MOST_MISTAKES = 10


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A line of a table: its cells as text, by column name."""

    line: int
    cells: dict[str, str]


class _Mistakes:
    """Collect the mistakes in a table, to report them together."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, text: str) -> None:
        self._found.append((line, text))

    def __len__(self) -> int:
        return len(self._found)

    def end(self) -> None:
        """Raise InputError listing the first mistakes, if there are any."""
        found = [f"{self.file}:{line}: {text}" for line, text in sorted(self._found)]
        if len(found) == 1:
            raise InputError(found[0])
        if found:
            more = [f"and {len(found) - _MOST_MISTAKES} more"] if len(found) > _MOST_MISTAKES else []
            lines = [f"{self.file}: {len(found)} mistakes", *found[:_MOST_MISTAKES], *more]
            raise InputError("\n  ".join(lines))


def read_annotations(
    file: Path,
    *,
    input_dir: Path | None = None,
    class_list: Path | None = None,
    source_of: SourceOf = name_source,
    num_workers: int,
) -> tuple[list[Segment], list[Rejected], list[str]]:
    """Read a table, or a list of lines `path label`, without decoding any video.

    Paths are relative to `input_dir` or to the table's folder. For rows without a source, `source_of` takes it from the
    file name. Returns the segments, the files that cannot be read, and notes for the user. Raises InputError listing up
    to ten mistakes with their lines.
    """
    mistakes = _Mistakes(file)
    rows, notes = _read_rows(file, mistakes)
    folders = [folder for folder in (input_dir, file.parent) if folder is not None]
    settings = {
        "folders": folders,
        "class_names": read_class_list(class_list) if class_list else None,
        "needs_split": any(row.cells.get("split") for row in rows),
    }
    read = [_read_row(row, mistakes, **settings) for row in rows]
    mistakes.end()
    segments = _name_sources(read, source_of)
    labels = {segment.label for segment in segments}
    segments, rejected = _check_times(rows, segments, mistakes, num_workers=num_workers)
    mistakes.end()
    for label in sorted(labels - {segment.label for segment in segments}):
        notes.append(f"class {label} is left out: none of its files can be read")
    if all(segment.start_s is None and segment.source == segment.name for segment in segments):
        notes.append(
            "neither the table nor the file names say which videos share a recording, so each file counts as its own; "
            "if several are cut from one recording, add a column source, or use --group_regex"
        )
    used = {folder for folder in folders if any(segment.file.is_relative_to(folder) for segment in segments)}
    # `used` is empty if all paths are absolute
    if used and input_dir and input_dir not in used:
        notes.append(f"{input_dir} has none of the files; found them next to the table")
    if class_list is None and all(segment.label.isdecimal() for segment in segments):
        notes.append("all labels are numbers; --class_list names the classes")
    unique = list(dict.fromkeys(segments))
    if len(unique) < len(segments):
        notes.append(f"{pluralize(len(segments) - len(unique), 'row')} repeated exactly; used once")
    return unique, rejected, notes + look_over(unique)


def _name_sources(segments: Sequence[Segment], source_of: SourceOf) -> list[Segment]:
    """Give all segments of a file the same name, however the table writes its path, and one recording."""
    names: dict[object, str] = {}
    sources: dict[object, str] = {}
    named = []
    for segment in segments:
        key = file_key(segment.file)
        name = names.setdefault(key, segment.name)
        if not segment.source and key not in sources:
            source = source_of(name, segment.label)
            # True if the file name does not name a recording
            is_own = source == f"{segment.label}/{PurePosixPath(name).name}"
            sources[key] = name if is_own else source
        named.append(replace(segment, name=name, source=segment.source or sources[key]))
    return named


# ---- lines


def _read_rows(file: Path, mistakes: _Mistakes) -> tuple[list[_Row], list[str]]:
    if file.is_file() and file.suffix.lower() in _SPREADSHEETS:
        raise InputError(f"{file}: this is a spreadsheet; save it as CSV (UTF-8)")
    text = read_text(file)
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise InputError(f"{file}: empty; expected {_HEADER}")
    for delimiter in ",;\t":
        columns = [cell.strip().strip('"').lower() for cell in first.split(delimiter)]
        if {"path", "label"} <= set(columns):
            return _read_table(file, text, delimiter, mistakes)
    return _read_list(file, text, first, mistakes), []


def _read_table(file: Path, text: str, delimiter: str, mistakes: _Mistakes) -> tuple[list[_Row], list[str]]:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    lines = _lines(reader, file)
    _, header = next(lines)
    columns = [name.strip().lower() for name in header]
    if twice := [name for name, count in Counter(columns).items() if count > 1 and name]:
        raise InputError(f"{file}: two columns are named {twice[0]}")
    unused = [name for name in columns if name not in _COLUMNS and name]
    if wrong := [name for name in unused if _TIMES.match(name)]:
        raise InputError(
            f"{file}: column {wrong[0]}: not a known column for times; rename it to start_s or end_s (seconds), or to "
            "start_frame or end_frame"
        )
    if "start_s" in columns or "end_s" in columns:
        unused += [name for name in columns if name.endswith("_frame")]
    notes = [f"ignored columns: {', '.join(unused)}"] if unused else []
    rows = []
    for line, cells in lines:
        if any(cell.strip() for cell in cells[len(columns) :]):
            text = f"{len(cells)} cells, where the first line has {len(columns)}"
            mistakes.add(line, f"{text}; put quotes around cells that contain a comma, and write decimals as 1.5")
            continue
        if any("\n" in cell or "\r" in cell for cell in cells):
            mistakes.add(line, "a cell contains a line break; is a quote left open?")
            continue
        # Where cells are not separated by commas, spreadsheets may write decimal commas
        values = {
            name: cell.strip().replace(",", ".") if delimiter != "," and name.endswith("_s") else cell.strip()
            for name, cell in zip(columns, cells, strict=False)
        }
        rows.append(_Row(line=line, cells={name: values[name] for name in values if name not in unused}))
    if not rows:
        mistakes.end()
        raise InputError(f"{file}: no rows below the header")
    return rows, notes


def _lines(reader, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of each line that is not empty."""
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{file}:{begin}: {error}") from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield begin, cells


def _read_list(file: Path, text: str, first: str, mistakes: _Mistakes) -> list[_Row]:
    """Read lines of `path label` (mmaction2, SlowFast, VideoMAE), separated by a space, comma, semicolon or tab."""

    def parts(line: str, separator: str) -> tuple[str, str]:
        path, _, label = line.strip().rpartition(separator)
        return path.strip().strip('"'), label.strip().strip('"')

    found = [separator for separator in "\t;, " if _has_video_suffix(parts(first, separator)[0])]
    if not found:
        raise InputError(f"{file}: expected {_HEADER}, or lines of a video's path and its label; got {first[:80]!r}")
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        path, label = parts(line, found[0])
        if line.strip() and not path:
            mistakes.add(number, f"expected a path and a label, got {line[:80]!r}")
        elif line.strip():
            rows.append(_Row(line=number, cells={"path": path, "label": label}))
    return rows


def _has_video_suffix(path: str) -> bool:
    return path.lower().endswith(VIDEO_SUFFIXES)


# ---- rows


def _read_row(
    row: _Row,
    mistakes: _Mistakes,
    *,
    folders: Sequence[Path],
    class_names: dict[str, str] | None,
    needs_split: bool,
) -> Segment | None:
    """Check a row and find its file. Returns a segment without times, which _check_times() adds; None on a mistake."""
    cells, num_before = row.cells, len(mistakes)
    label = cells.get("label", "")
    if class_names is not None and label not in class_names.values():
        if not re.fullmatch(r"\d+", label) or str(int(label)) not in class_names:
            mistakes.add(row.line, _unknown_class(label, class_names))
        else:
            label = class_names[str(int(label))]
    if reason := _bad_label(label):
        mistakes.add(row.line, reason)
    split = cells.get("split", "").lower()
    if split not in ("", *SPLITS):
        mistakes.add(row.line, f"split {cells['split']!r}: expected train, val or test")
    if not split and needs_split:
        mistakes.add(row.line, "split is empty; fill it in every row, or in none")
    for reason in _bad_numbers(cells):
        mistakes.add(row.line, reason)
    name = cells.get("path", "").replace("\\", "/")
    file, reason = _find_file(cells.get("path", ""), folders)
    if reason:
        mistakes.add(row.line, reason)
    if len(mistakes) > num_before:
        return None
    source = cells.get("source") or cells.get("source_video") or ""
    name = os.path.normpath(name).replace("\\", "/")
    return Segment(file=file, name=name, label=label, source=source, split=split, line=row.line)


def _unknown_class(label: str, class_names: dict[str, str]) -> str:
    first, *_, last = class_names if len(class_names) > 1 else (*class_names, *class_names)
    hint = ""
    if label == str(int(last) + 1) and first == "0":
        hint = "; if labels start at 1, write the number before each class in the list (1 NAME)"
    return f"label {label!r}: the classes in --class_list are numbered {first} to {last}{hint}"


def _bad_label(label: str) -> str | None:
    """Return why a label cannot be a class name, or None. It becomes a folder name and a line of obj.names."""
    if not label:
        return "label is empty"
    if re.search(r"[/\\\x00-\x1f\x7f\x85\u2028\u2029]", label) or label.startswith("."):
        return f"label {label!r}: labels become folder names: no slashes or line breaks, and no dot at the start"
    return f"label {label[:40]!r}…: too long for the name of a folder" if len(os.fsencode(label)) > 200 else None


def _bad_numbers(cells: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with a row's times, as far as this can be checked without its file."""
    for unit in ("s", "frame"):
        names = f"start_{unit}", f"end_{unit}"
        start, end = (cells.get(name, "") for name in names)
        if reasons := [reason for name in names if (reason := _bad_number(name, cells.get(name, "")))]:
            yield from reasons
        elif start and end and _seconds(end) <= _seconds(start):
            yield f"ends at {end}, not after its start at {start}"


def _bad_number(name: str, text: str) -> str | None:
    is_frame = name.endswith("_frame")
    try:
        value = int(text or "0") if is_frame else _seconds(text or "0")
    except ValueError:
        expected = "a whole number" if is_frame else "seconds, as 65.5 or 1:05.5"
        return f"{name} must be {expected}, got {text!r}"
    return None if 0 <= value < math.inf else f"{name} must be 0 or more, got {text}"


def _seconds(text: str) -> float:
    """Read a time such as 65.5, 1:05.5 or 0:01:05.5. Raises ValueError."""
    if not re.fullmatch(r"(\d+:){1,2}[0-5]?\d(\.\d*)?", text):
        return float(text)
    return sum(float(part) * 60**power for power, part in enumerate(reversed(text.split(":"))))


def _find_file(path: str, folders: Sequence[Path]) -> tuple[Path, str | None]:
    """Return a row's file, and what is wrong with it or None."""
    if not path:
        return Path(), "path is empty"
    # On Linux, file names may contain backslashes
    for name in dict.fromkeys((path, path.replace("\\", "/"))):
        for folder in folders:
            file = folder / name
            if file.is_file():
                if is_video(file):
                    return file, None
                return file, f"{path}: not a video file; expected a name ending in {', '.join(VIDEO_SUFFIXES)}"
            if file.is_dir():
                return file, f"{path}: is a folder; frames stored as images cannot be read"
    where = " nor in ".join(str(folder) for folder in folders)
    return Path(), f"{path}: no such file{'' if Path(path).is_absolute() else f' in {where}'}{_similar(path, folders)}"


def _similar(path: str, folders: Sequence[Path]) -> str:
    wanted = PurePosixPath(path.replace("\\", "/"))

    def is_longer(name: str, other: str) -> bool:
        return name.startswith(other) and not name[len(other) :][:1].isalnum()

    for folder in folders:
        above = folder / wanted.parent
        if above.is_dir():
            names = {entry.name.lower(): entry.name for entry in above.iterdir() if is_video(entry)}
            names |= {entry.rpartition(".")[0]: name for entry, name in list(names.items())}
            if close := difflib.get_close_matches(wanted.name.lower(), names, n=1, cutoff=0.85):
                return f"; did you mean {names[close[0]]}?"
            # Copies are named "x (1).mp4" or "x - Copy.mp4"
            stem = wanted.stem.lower()
            for name in sorted({*names.values()}):
                if is_longer(Path(name).stem.lower(), stem) or is_longer(stem, Path(name).stem.lower()):
                    return f"; did you mean {name}?"
    return ""


# ---- times


def _check_times(
    rows: Sequence[_Row], segments: Sequence[Segment], mistakes: _Mistakes, *, num_workers: int
) -> tuple[list[Segment], list[Rejected]]:
    """Add times in seconds to the segments, from the packets of their files. Files that cannot be read are rejected."""

    def has_times(row: _Row) -> bool:
        return any(row.cells.get(name) for name in ("start_s", "end_s", "start_frame", "end_frame"))

    pairs = list(zip(rows, segments, strict=True))
    timed = {file_key(segment.file): segment.file for row, segment in pairs if has_times(row)}
    tables = read_tables(timed.values(), num_workers=num_workers)
    kept, rejected, lines = [], {}, {}
    for row, segment in pairs:
        if has_times(row):
            table = tables[file_key(segment.file)]
            if isinstance(table, VideoError):
                reason = str(table).removeprefix(f"{segment.file}: ")
                rejected[segment.name] = Rejected(path=segment.name, reason=reason)
                continue
            start_s, end_s = _times_of(row.cells, table)
            if reason := _bad_times(start_s, end_s, table):
                mistakes.add(row.line, reason)
            segment = replace(segment, start_s=round(start_s, 6), end_s=round(min(end_s, table.end_s), 6))
        line, first = lines.setdefault(replace(segment, source="", split=""), (row.line, segment))
        if first != segment:
            mistakes.add(row.line, f"same as line {line}, but the column source or split differs")
        kept.append(segment)
    return kept, list(rejected.values())


def _times_of(cells: dict[str, str], table: PacketTable) -> tuple[float, float]:
    """Return a row's start and end in seconds. Frames count from 0, and the end frame is not included."""

    def second(name: str, default: float) -> float:
        if text := cells.get(f"{name}_s"):
            return _seconds(text)
        if text := cells.get(f"{name}_frame"):
            number, edges_s = int(text), table.edges_s()
            late_s = max(0, number - table.num_frames) * table.step_s()
            return float(edges_s[min(number, table.num_frames)]) + late_s
        return default

    return second("start", 0.0), second("end", table.end_s)


def _bad_times(start_s: float, end_s: float, table: PacketTable) -> str | None:
    if end_s <= start_s and start_s < table.end_s:
        return f"ends at {end_s:g} s, not after its start at {start_s:g} s"
    if max(start_s, end_s - _MAX_LATE_S) >= table.end_s + TOLERANCE_S:
        late = "ends" if start_s < table.end_s else "starts"
        return f"{late} at {end_s if late == 'ends' else start_s:g} s, after the end of its file, {table.end_s:.2f} s"
    first, last = np.searchsorted(table.edges_s()[:-1], [start_s - TOLERANCE_S, end_s - TOLERANCE_S])
    return None if last > first else f"no frame from {start_s:g} to {end_s:g} s, at {table.fps:.3g} frames/s"
