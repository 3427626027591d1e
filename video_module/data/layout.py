"""Write a split to disk: train/, val/ and test/ with class folders, obj.names and split.json."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from video_module.config import LINKS
from video_module.data.labels import OBJ_NAMES, SPLITS, is_system_file, write_class_names
from video_module.data.records import SPLIT_JSON, recorded_files
from video_module.data.splits import Split
from video_module.errors import InputError
from video_module.files import check_output, lies_in, replacing, write_json


def check_split_output(input_dir: Path, output_dir: Path) -> None:
    """Raise InputError if writing a split of `input_dir` to `output_dir` could overwrite other files."""
    if output_dir.is_symlink() and not output_dir.exists():
        raise InputError(f"{output_dir}: a broken link to {output_dir.readlink()}")
    check_output(output_dir, folder=True)
    if lies_in(output_dir, input_dir) and lies_in(input_dir, output_dir):
        raise InputError(f"{output_dir}: is the input folder itself; choose another --output_dir")
    if lies_in(output_dir, input_dir) or lies_in(input_dir, output_dir):
        raise InputError(f"{output_dir}: overlaps {input_dir}; choose another --output_dir")
    found = output_dir.iterdir() if output_dir.is_dir() else ()
    entries = {entry.name for entry in found if not is_system_file(entry)}
    if entries and SPLIT_JSON not in entries:
        raise InputError(f"{output_dir}: not empty, and not written by split_data.py; choose another --output_dir")
    if others := sorted(entries - {*SPLITS, OBJ_NAMES, SPLIT_JSON}):
        raise InputError(f"{output_dir}: contains {others[0]} besides an earlier split; move it first")
    if added := _added_files(output_dir):
        in_all = f" ({len(added)} such files in all)" if len(added) > 1 else ""
        raise InputError(
            f"{added[0]}: not written by split_data.py, and would be deleted; move it into your input folder, or out "
            f"of {output_dir}{in_all}"
        )


def _added_files(output_dir: Path) -> list[Path]:
    """Return the files in an earlier split's train, val and test that its split.json does not list."""
    written = recorded_files(output_dir)
    found = (path for side in SPLITS for path in (output_dir / side).rglob("*"))
    return sorted(
        path
        for path in found
        if (path.is_symlink() or not path.is_dir()) and path not in written and not is_system_file(path)
    )


def check_further_folds(output_dir: Path, num_folds: int) -> None:
    """Raise InputError if folds of an earlier split with more folds would remain beside the new ones."""
    numbers = [int(match[1]) for path in output_dir.glob("fold*") if (match := re.fullmatch(r"fold(\d+)", path.name))]
    if further := sorted(number for number in numbers if number > num_folds):
        raise InputError(
            f"{output_dir / f'fold{further[0]}'}: left over from an earlier split into more than {num_folds} folds; "
            "move it first"
        )


def write_split(split: Split, input_dir: Path, output_dir: Path, *, link: str) -> int:
    """Write a split as `<output_dir>/{train,val,test}/<class>/<file>` with obj.names and split.json.

    The folder is written completely or not at all. It replaces an earlier split. Returns how many files were copied
    because they could not be linked. Raises InputError if `output_dir` contains anything else.
    """
    assert link in LINKS, f"link must be one of {LINKS}, got {link!r}"
    check_split_output(input_dir, output_dir)
    num_linked, links = 0, () if link == "copy" else (link,)
    with replacing(output_dir) as partial:
        for video in split.videos:
            target = partial / video.split / video.path
            target.parent.mkdir(parents=True, exist_ok=True)
            # Resolve links in the input, because a link to a link breaks when the one in between is deleted
            num_linked += place((input_dir / video.path).resolve(), target, *links)
        for name in SPLITS:
            (partial / name).mkdir(exist_ok=True)
        write_class_names(partial / OBJ_NAMES, split.class_names)
        write_json(partial / SPLIT_JSON, split.to_json())
    return 0 if link == "copy" else len(split.videos) - num_linked


def place(file: Path, target: Path, *links: str) -> bool:
    """Link a file with the first of `links` that works, otherwise copy it. Returns whether it was linked."""
    ways = {"hard": os.link, "sym": os.symlink}
    for link in links:
        # Linking fails across file systems, on some file systems, and on Windows without the privilege
        with suppress(OSError):
            ways[link](file, target)
            return True
    shutil.copy2(file, target)
    return False
