"""File names and official split files of UCF101 (Soomro et al., 2012)."""

import re
from pathlib import Path

from video_module.errors import InputError
from video_module.files import read_text

_NAME = re.compile(r"(?P<source>v_.+_g\d+)_c\d+$")


def parse_source(name: str) -> str | None:
    """Return the recording of a clip: `v_Archery_g01` for `v_Archery_g01_c02.avi`; None for other names.

    UCF101 numbers its groups within a class, so g01 of two classes are different recordings.
    """
    match = _NAME.match(Path(name).stem)
    return match["source"] if match else None


def read_official_split(splits_dir: Path, fold: int) -> dict[tuple[str, str], str]:
    """Read trainlist and testlist of a fold into {(label, file name): "train" or "test"}.

    The label is the folder in front of the file name. The class number after the name is ignored.
    """
    assignment = {}
    for side in ("train", "test"):
        file = splits_dir / f"{side}list{fold:02d}.txt"
        if not file.is_file():
            raise InputError(
                f"{file}: no such file; --splits_dir is the folder of UCF101's trainlist and testlist files"
            )
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            label, slash, name = re.sub(r" \d+$", "", line.strip()).partition("/")
            if not slash or not name:
                raise InputError(f"{file}:{number}: expected <class>/<file>, got {line!r}")
            assignment[label, name] = side
    return assignment
