"""Translated class names for the page."""

import csv
from collections.abc import Collection
from pathlib import Path

from video_module.errors import InputError
from video_module.files import read_text
from video_module.web.texts import LANGUAGES


def read_translations(path: Path, class_names: Collection[str]) -> dict[str, dict[str, str]]:
    """Read class names by language from a table with the column class and one or more of LANGUAGES.

    Classes with an empty cell keep their names. Raises InputError, also for a class that is not in `class_names`.
    """
    lines = list(csv.reader(read_text(path).splitlines()))
    header = [cell.strip() for cell in lines[0]] if lines else []
    languages = header[1:]
    if header[:1] != ["class"] or not languages or not set(languages) <= set(LANGUAGES):
        raise InputError(
            f"--class_names_translated {path}: the header is {','.join(header)!r}; expected the columns "
            f"class and one or more of {', '.join(LANGUAGES)}"
        )
    names: dict[str, dict[str, str]] = {language: {} for language in languages}
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        where = f"--class_names_translated {path}, line {number}"
        if len(cells) != len(header):
            raise InputError(f"{where}: {len(cells)} cells; expected {len(header)}")
        if cells[0] not in class_names:
            raise InputError(f"{where}: no model has a class {cells[0]!r}")
        for language, name in zip(languages, cells[1:], strict=True):
            if cells[0] in names[language]:
                raise InputError(f"{where}: class {cells[0]!r} is listed twice")
            if name:
                names[language][cells[0]] = name
    return names
