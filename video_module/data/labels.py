"""Class names, and the videos of a folder of classes."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from video_module.errors import InputError
from video_module.files import read_text, walk_files, write_text
from video_module.tables import pluralize

OBJ_NAMES = "obj.names"
SPLITS = ("train", "val", "test")
_SYSTEM_FILES = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"}
# fmt: off
VIDEO_SUFFIXES = (
    ".avi", ".mp4", ".mov", ".mkv", ".webm", ".mpg", ".m4v", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts", ".m2ts",
    ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".divx", ".mxf",
)
# fmt: on


def is_video(path: Path) -> bool:
    """Return whether the name is that of a video file and not hidden, as macOS's `._x.avi` is."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def write_class_names(path: Path, class_names: Sequence[str]) -> None:
    """Write one class per line. Line numbers from 0 are the class indices."""
    write_text(path, "".join(f"{name}\n" for name in class_names))


def read_class_names(path: Path) -> list[str]:
    """Read an obj.names file. Raises InputError if it is missing, empty or names a class twice."""
    names = _lines(read_text(path))
    if not names:
        raise InputError(f"{path}: lists no classes")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{path}: class {twice[0]!r} is listed twice")
    return names


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_class_list(file: Path) -> dict[str, str]:
    """Read class names by number, from lines with a name each, numbered from 0, or lines such as `1 Archery`."""
    lines = _lines(read_text(file))
    if not lines:
        raise InputError(f"{file}: lists no classes")
    numbered = [re.fullmatch(r"(\d+)[\s,;:]+(.+)", line) for line in lines]
    names = dict(enumerate(lines))
    if all(numbered) and int(numbered[0][1]) in (0, 1):
        numbers = [int(match[1]) for match in numbered]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            names = dict(zip(numbers, (match[2] for match in numbered), strict=True))
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise InputError(f"{file}: class {twice[0]!r} is listed twice")
    return {str(number): name for number, name in names.items()}


def find_class_names(data_dir: Path) -> list[str]:
    """Return the classes of a data folder, from obj.names if it has one, otherwise its folder names, sorted.

    A folder train, val or test can have obj.names in the folder above. Raises InputError if a folder with videos is not
    in obj.names.
    """
    found = sorted({label for label, _ in find_videos(data_dir)})
    # Path(".") has no name, and its parent is itself
    above = data_dir.parent if data_dir.name else data_dir.absolute().parent
    for folder in (data_dir, above) if data_dir.absolute().name in SPLITS else (data_dir,):
        if (folder / OBJ_NAMES).is_file():
            names = read_class_names(folder / OBJ_NAMES)
            if unknown := sorted(set(found) - set(names)):
                raise InputError(f"{data_dir / unknown[0]}: not a class in {folder / OBJ_NAMES}")
            return names
    return found


def _is_utf8(text: str) -> bool:
    # Python represents bytes that are not UTF-8 as lone surrogates
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_system_file(path: Path) -> bool:
    """Return whether the name is that of a file that macOS or Windows creates in folders, such as .DS_Store."""
    return path.name.lower() in _SYSTEM_FILES or path.name.startswith("._")


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or is_system_file(path)


def videos_below(folders: Sequence[Path]) -> list[Path]:
    """Find all videos at any depth below the folders, one folder after the other.

    Raises InputError for broken links and OSError for folders that cannot be read.
    """
    videos = [path for folder in folders for path in walk_files(folder) if is_video(path)]
    _check_links(videos)
    return videos


def _check_links(paths: Sequence[Path]) -> None:
    """Raise InputError if any path is a broken link."""
    if broken := sorted(path for path in paths if path.is_symlink() and not path.exists()):
        folders = sorted({path.parent.name for path in broken})
        more = f" ({len(broken)} broken links, in {', '.join(folders[:20])}{', …' if len(folders) > 20 else ''})"
        raise InputError(
            f"{broken[0]}: broken link to {broken[0].readlink()}{more if len(broken) > 1 else ''}; fetch the files "
            "(git annex get, dvc pull), or remove the links"
        )


def _check_no_folds(folder: Path, more: str = "") -> None:
    """Raise InputError if a folder contains folds instead of classes."""
    if (folder / "fold1" / "split.json").is_file():
        raise InputError(f"{folder}: contains folds; pass one of them, such as {folder / 'fold1'}{more}")


def _class_folders(class_dir: Path) -> list[Path]:
    """Return the class folders of `class_dir`, sorted. Raises InputError if there are none."""
    if not class_dir.is_dir():
        raise InputError(f"{class_dir}: no such folder")
    _check_no_folds(class_dir)
    entries = [entry for entry in class_dir.iterdir() if not entry.name.startswith(".")]
    # A class folder may itself be a link to a folder that was not fetched.
    _check_links([entry for entry in entries if not is_video(entry)])
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders and class_dir.name in SPLITS and (class_dir.parent / "split.json").is_file():
        raise InputError(
            f"{class_dir}: empty, because the split has no {class_dir.name} videos; split again with a larger "
            f"--{class_dir.name}_fraction, or with --num_folds"
        )
    if not folders:
        raise InputError(f"{class_dir}: no class folders; expected one subfolder of videos per class")
    # Sorted by name, because the order determines the class indices, and Windows ignores case when it compares paths
    return sorted(folders, key=lambda folder: folder.name)


def find_videos(class_dir: Path) -> list[tuple[str, Path]]:
    """Find all videos below the class folders of `class_dir`: [(label, path)], sorted.

    Raises InputError if there is no folder, class folder or video, and for broken links.
    """
    classes = _class_folders(class_dir)
    found = videos_below(classes)
    for path in found:
        # JSON cannot hold such a name, and OpenCV crashes on it
        if not _is_utf8(str(path)):
            raise InputError(f"{str(path)!a}: the name is not valid UTF-8; rename the file")
    if not found:
        raise InputError(f"{class_dir}: no videos in its {len(classes)} folders")
    names = {path: path.relative_to(class_dir) for path in found}
    order = sorted(found, key=lambda path: (names[path].parts[0], names[path].as_posix()))
    return [(names[path].parts[0], path) for path in order]


def lost_classes(class_dir: Path, kept: Collection[str], rejected: Collection[str] = ()) -> list[str]:
    """Explain why each class folder that is not in `kept` is missing. `rejected` are the paths of rejected videos."""
    found = Counter(label for label, _ in find_videos(class_dir))
    broken = Counter(path.partition("/")[0] for path in rejected)
    sentences = []
    for name in (folder.name for folder in _class_folders(class_dir)):
        if name not in kept:
            reason = "its folder contains no video"
            if found[name]:
                is_broken = broken[name] == found[name]
                reason = f"none of its {pluralize(found[name], 'video')} {'can be read' if is_broken else 'is used'}"
            sentences.append(f"class {name} is left out: {reason}")
    return sentences


def check_split_dir(split_dir: Path, *, side: str = "test") -> None:
    """Raise InputError if `split_dir` is missing or not one side of a split, and say what to do.

    `side` is the side to suggest if `split_dir` contains all of them.
    """
    if split_dir.is_dir():
        if sides := _sides_in(split_dir):
            raise InputError(f"{split_dir}: holds {' and '.join(sides)}, not classes; pass {split_dir / side}")
        return
    if split_dir.name not in SPLITS:
        raise InputError(f"{split_dir}: no such folder")
    above = split_dir.parent
    _check_no_folds(above, "; or use train_model.py --fold all, which trains and tests all of them")
    was_split = any((above / name).is_dir() for name in SPLITS)
    if not was_split and any(map(is_video, above.glob("*/**/*"))):
        # "data" is the default of the other scripts, so suggest it unless it exists
        named = above if above.name else above.absolute()
        output_dir = named.with_name(f"{named.name}_split") if Path("data").exists() else Path("data")
        raise InputError(
            f"{above}: contains classes, but is not split yet; run python split_data.py --input_dir {above} "
            f"--output_dir {output_dir} first"
        )
    raise InputError(f"{split_dir}: no such folder; it is written by split_data.py")


def check_level(class_dir: Path) -> None:
    """Raise InputError if the classes seem to be one level below the folders of `class_dir`.

    This is assumed if these folders contain no videos directly, and at least two subfolders have the same names in all.
    """
    if sides := _sides_in(class_dir):
        raise InputError(
            f"{class_dir}: holds {' and '.join(sides)}, not classes; pass the folder that was split, or one side, such "
            f"as {class_dir / sides[0]}"
        )
    below: dict[str, set[str]] = {}
    for label, path in find_videos(class_dir):
        parts = path.relative_to(class_dir).parts
        # "" stands for the class folder itself
        below.setdefault(label, set()).add(parts[1] if len(parts) > 2 else "")
    shared = sorted(set.intersection(*below.values()))
    if len(below) > 1 and len(shared) > 1 and not any("" in names for names in below.values()):
        classes = list(below)
        raise InputError(
            f"{class_dir}: {' and '.join(classes[:2])} contain the same folders {', '.join(shared[:4])}; if those are "
            f"the classes, pass {class_dir / classes[0]}; if they are recordings, use --groups to say which videos "
            "belong together"
        )


def find_others(class_dir: Path) -> list[Path]:
    """Find the files that find_videos() skips, sorted, except hidden and system files.

    Raises InputError if a class folder contains only such files, so that the class would be missing, or if its name
    cannot be written to obj.names.
    """
    folders = _class_folders(class_dir)
    others = [path for path in class_dir.iterdir() if path.is_file() and path.name != OBJ_NAMES]
    for folder in folders:
        if _lines(f"{folder.name}\n") != [folder.name] or folder.name.startswith("\ufeff"):
            raise InputError(
                f"{class_dir}: class folder {folder.name!r} has spaces at the start or end of its name, or a line "
                "break; rename it"
            )
        below = (path for path in walk_files(folder) if path.is_file() and not is_system_file(path))
        files = [path for path in below if not any(part[0] == "." for part in path.relative_to(folder).parts)]
        found = [path for path in files if not is_video(path)]
        if found and len(found) == len(files):
            raise InputError(
                f"{folder}: contains no video, only files such as {min(found).name}; names of videos end in "
                f"{', '.join(VIDEO_SUFFIXES)}"
            )
        others += found
    return sorted(path for path in others if not _is_hidden(path))


def describe_others(class_dir: Path, *, most: int = 5) -> str | None:
    """Describe the files that find_others() finds, with the first names. None if there are none."""
    if not (others := find_others(class_dir)):
        return None
    names = ", ".join(path.relative_to(class_dir).as_posix() for path in others[:most])
    more = ", …" if len(others) > most else ""
    return f"skipped {pluralize(len(others), 'file')}: not videos, or outside the class folders ({names}{more})"


def check_class_folders(class_dir: Path) -> None:
    """Raise InputError if a class folder has no videos, because its class would not be tested."""
    found = {label for label, _ in find_videos(class_dir)}
    if empty := [folder for folder in _class_folders(class_dir) if folder.name not in found]:
        more = f", nor in {', '.join(folder.name for folder in empty[1:])}" if len(empty) > 1 else ""
        raise InputError(
            f"{empty[0]}: no videos in this class folder{more}; add some, or remove it to test without the class"
        )


def check_known_classes(class_dir: Path, class_names: Collection[str]) -> None:
    """Raise InputError if the folders of `class_dir` are not classes of the model, but contain folders that are."""
    folders = _class_folders(class_dir)
    if any(folder.name in class_names for folder in folders):
        return
    for folder in folders:
        if found := [name for name in class_names if (folder / name).is_dir()]:
            raise InputError(
                f"{class_dir}: {folder.name} is not a class of the model, but contains some ({found[0]}); pass {folder}"
            )


def has_entries(folder: Path) -> bool:
    """Return whether a folder exists and contains anything but hidden and system files."""
    return folder.is_dir() and not all(map(_is_hidden, folder.iterdir()))


def _sides_in(folder: Path) -> list[str]:
    """Return the sides of a split in a folder if there are several. A single one may be a class of that name."""
    sides = [split for split in SPLITS if (folder / split).is_dir()]
    return sides if len(sides) > 1 and is_split_tree(folder) else []


def is_split_tree(data_dir: Path) -> bool:
    """Return whether a folder contains train, val or test splits, rather than classes with these names."""
    present = [data_dir / split for split in SPLITS if (data_dir / split).is_dir()]
    if (data_dir / OBJ_NAMES).is_file() or (data_dir / "split.json").is_file():
        return bool(present)
    return any(entry.is_dir() for folder in present for entry in folder.iterdir())
