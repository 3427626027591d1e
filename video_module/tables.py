"""Align text in columns, and format counts and durations."""

from collections.abc import Collection, Sequence


def align(rows: Sequence[Sequence[str]], *, left: Collection[int] = (), indent: str = "  ") -> str:
    """Format rows of equal length as lines with aligned columns, flush right except the columns in `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        indent
        + "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def pluralize(number: int, noun: str) -> str:
    """Format a number with its noun in the singular or plural: "1 class", "2 classes", "1,200 clips"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def round_duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours: "8.4 s", "1.5 min", "2.4 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
