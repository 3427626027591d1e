"""Class names and how many videos each has."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_module.data.decoding import is_video
from video_module.errors import InputError
from video_module.files import replacing

OBJ_NAMES = "obj.names"
SPLITS = ("train", "val", "test")


def write_class_names(path: Path, class_names: Sequence[str]) -> None:
    """Write one class per line; a line's number, from 0, is its index."""
    with replacing(path) as partial:
        partial.write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")


def read_class_names(path: Path) -> list[str]:
    """Read an obj.names file. Raises InputError if it is missing, empty or names a class twice."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise InputError(f"{path}: no class is named in it")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{path}: class {twice[0]!r} is named twice")
    return names


def find_class_names(data_dir: Path) -> list[str]:
    """The classes of a data folder: its obj.names (or that of the folder above), else its folders, sorted."""
    for folder in (data_dir, data_dir.parent):
        if (folder / OBJ_NAMES).is_file():
            return read_class_names(folder / OBJ_NAMES)
    return sorted({label for label, _ in find_videos(data_dir)})


def find_videos(class_dir: Path) -> list[tuple[str, Path]]:
    """All videos below the class folders of `class_dir`: [(label, path)], sorted by label and path within the class.

    Raises InputError if there is no folder, no class folder, or no video.
    """
    if not class_dir.is_dir():
        raise InputError(f"{class_dir}: no such folder")
    classes = sorted(p for p in class_dir.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise InputError(f"{class_dir}: no class folders in it; expected one folder of videos for each class")
    videos = []
    for folder in classes:
        found = [path for path in folder.rglob("*") if is_video(path) and path.is_file()]
        videos += [(folder.name, path) for path in sorted(found, key=lambda p: p.relative_to(folder).as_posix())]
    if not videos:
        raise InputError(f"{class_dir}: no video in its {len(classes)} folders")
    return videos


def label_distribution(data_dir: Path) -> dict[str, Any]:
    """Count videos per class and split: {"class_names", "splits": {split: {"num_videos", "classes": {name: count}}}}.

    `data_dir` is what split_data.py wrote, or a bare folder of classes, counted as the one split "all".
    """
    present = {split: data_dir / split for split in SPLITS if (data_dir / split).is_dir()}
    class_names = find_class_names(data_dir) if not present or (data_dir / OBJ_NAMES).is_file() else None
    counts = {split: Counter(label for label, _ in find_videos(folder)) for split, folder in present.items()}
    if not present:
        counts = {"all": Counter(label for label, _ in find_videos(data_dir))}
    if class_names is None:
        class_names = sorted(set().union(*counts.values()))
    return {
        "class_names": class_names,
        "splits": {
            split: {"num_videos": sum(count.values()), "classes": {name: count[name] for name in class_names}}
            for split, count in counts.items()
        },
    }
