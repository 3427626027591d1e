"""File names and official split files of HMDB51 (Kuehne et al., ICCV 2011)."""

import re
from pathlib import Path
from typing import NamedTuple

from video_module.errors import InputError
from video_module.files import read_text

# The number of people has two digits in seven of the 6,766 names: np10.
_TAGS = re.compile(r"_([hulf])_(cm|nm)_np(\d+)_(fr|ba|le|ri)_(bad|med|goo)_(\d+)$")
_MEANINGS = {
    "camera motion": {"nm": "still", "cm": "moving"},
    "viewpoint": {"fr": "front", "ba": "back", "le": "left", "ri": "right"},
    "quality": {"goo": "good", "med": "medium", "bad": "bad"},
    "visible body part": {"f": "full body", "u": "upper body", "l": "lower body", "h": "head"},
}
# Clips with this many people or more are counted together, because they are few.
_MOST_PEOPLE = 4


class _Name(NamedTuple):
    """Parts of a name `<source>_<action>_<body>_<motion>_np<k>_<view>_<quality>_<n>`; see _MEANINGS for the codes."""

    source: str
    """The recording that the clip was cut from. It can have clips in several classes."""
    body: str
    motion: str
    num_people: int
    view: str
    quality: str
    number: int


def describe_tags(name: str, label: str) -> dict[str, str] | None:
    """Describe a clip from its name: {"camera motion": "moving", …}. None if parse_name() returns None."""
    parsed = parse_name(name, label)
    if parsed is None:
        return None
    codes = (parsed.motion, parsed.view, parsed.quality, parsed.body)
    tags = {tag: meanings[code] for (tag, meanings), code in zip(_MEANINGS.items(), codes, strict=True)}
    people = str(parsed.num_people) if parsed.num_people < _MOST_PEOPLE else f"{_MOST_PEOPLE} or more"
    return tags | {"number of people": people}


def tag_values() -> dict[str, list[str]]:
    """Return all tags and their values, in display order."""
    people = [*map(str, range(_MOST_PEOPLE)), f"{_MOST_PEOPLE} or more"]
    return {tag: list(meanings.values()) for tag, meanings in _MEANINGS.items()} | {"number of people": people}


def parse_name(name: str, label: str) -> _Name | None:
    """Parse the file name of a clip of class `label`. None if it does not follow HMDB51's scheme."""
    stem = Path(name).stem
    tags = _TAGS.search(stem)
    if tags is None or tags.start() == 0:
        return None
    body, motion, num_people, view, quality, number = tags.groups()
    # Some users rename the folder "brush_hair" to "Brush Hair"
    action = re.escape(label.replace(" ", "_"))
    source = re.sub(rf"_{action}$", "", stem[: tags.start()], flags=re.IGNORECASE)
    return _Name(source, body, motion, int(num_people), view, quality, int(number))


def read_official_split(splits_dir: Path, fold: int) -> dict[tuple[str, str], str]:
    """Read `<label>_test_split<fold>.txt` files into {(label, file name): "train" or "test"}.

    Each line is a file name and 1 (train), 2 (test) or 0 (unused in this fold). Raises InputError for any other line.
    """
    suffix = f"_test_split{fold}.txt"
    files = sorted(splits_dir.glob(f"*{suffix}"))
    if not files:
        raise InputError(f"{splits_dir}: no file named *{suffix}; --splits_dir is the folder of HMDB51's split files")
    sides = {"0": None, "1": "train", "2": "test"}
    assignment = {}
    for file in files:
        label = file.name.removesuffix(suffix)
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            name, _, side = line.strip().rpartition(" ")
            if side not in sides or not name:
                raise InputError(f"{file}:{number}: expected a file name and 0, 1 or 2, got {line!r}")
            if sides[side] is not None:
                assignment[label, name.strip()] = sides[side]
    return assignment
